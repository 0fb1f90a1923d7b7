"""Muon for convolution kernels and Adam for all else, in one optimizer.

Muon (Jordan et al. 2024) makes the momentum of a matrix nearly orthogonal before it steps along it, so that every
direction of a kernel learns at the same rate. A step takes longer than Adam's, and is worth it on training scans:
benchmarks/results/study_guess.md compares the two in equal time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor

from mrihvae.utils.precision import has_bfloat16

LEAST_ROWS, LEAST_COLUMNS = 16, 32  # smaller kernels are left to Adam
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: singular values land between 0.7 and 1.2 in 5 steps
STEPS = 5
RMS = 0.2  # root mean square of an update over the learning rate, about that of Adam's (Liu et al. 2025)


class MuonAdam(torch.optim.Optimizer):
    """Muon for kernels (out, in, h, w) seen as matrices (out, in h w), Adam for biases and small kernels.

    Parameters
    ----------
    parameters : what to train
    lr : learning rate of both
    momentum : decay of Muon's momentum
    betas : decays of Adam's moments
    bf16 : compute Muon's matrices in bfloat16, where there are instructions for it
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        bf16: bool = True,
    ) -> None:
        self.bf16 = bf16
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with the gradients at hand."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            present = [parameter for parameter in group["params"] if parameter.grad is not None]
            self._muon([parameter for parameter in present if is_matrix(parameter)], group)
            self._adam([parameter for parameter in present if not is_matrix(parameter)], group)
        return loss

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for number, parameter in enumerate(parameters):
            by_shape.setdefault(tuple(parameter.shape), []).append(number)
        for (rows, columns, *size), numbers in by_shape.items():  # kernels of one shape are one batch of matrices
            # columns in the order of memory that is channels last; it does not matter to singular vectors
            stack = torch.stack([ahead[n].permute(0, 2, 3, 1).flatten(1) for n in numbers])
            matrices = orthogonalize(stack, self.bf16)
            kernels = matrices.unflatten(-1, (*size, columns)).permute(0, 1, 4, 2, 3)
            scale = group["lr"] * RMS * math.sqrt(max(rows, columns * math.prod(size)))
            for number, kernel in zip(numbers, kernels):
                parameters[number].sub_(kernel, alpha=scale)

    def _adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["step"] += 1
        states, (first, second) = [self.state[parameter] for parameter in parameters], group["betas"]
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        mean, square = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        torch._foreach_lerp_(mean, gradients, 1 - first)
        torch._foreach_mul_(square, second)
        torch._foreach_addcmul_(square, gradients, gradients, value=1 - second)
        steps = [float(state["step"]) for state in states]
        deviation = torch._foreach_div(square, [1 - second**step for step in steps])
        torch._foreach_sqrt_(deviation)
        torch._foreach_add_(deviation, 1e-8)
        torch._foreach_addcdiv_(parameters, mean, deviation, [-group["lr"] / (1 - first**step) for step in steps])


def is_matrix(parameter: Tensor) -> bool:
    """Return whether a parameter is a kernel that Muon takes."""
    return parameter.ndim == 4 and parameter.shape[0] >= LEAST_ROWS and parameter[0].numel() >= LEAST_COLUMNS


def orthogonalize(matrices: Tensor, bf16: bool = True) -> Tensor:
    """Set the singular values of matrices (..., rows, columns) to about 1, by Newton-Schulz iterations.

    They are done in bfloat16, which is enough, where there are instructions for it and `bf16` is true; then rounding of
    gradients, such as that of another order of their sum, may change the last digit of that precision. (Iterating the
    Gram matrix alone takes fewer products, but not in bfloat16: singular values near 0 then run away.)
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    x = x.bfloat16() if bf16 and has_bfloat16(matrices.device) else x
    for _ in range(STEPS):
        gram = x @ x.mT
        polynomial = b * gram + c * gram @ gram
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        x = polynomial @ x
    found: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return found

"""Muon for convolution kernels and Adam for all else, in one optimiser.

Muon (Jordan et al. 2024) makes the momentum of a matrix nearly orthogonal before it steps along it, so that every
direction of a kernel learns at the same rate. A step takes longer than Adam's, and is worth it on training scans:
benchmarks/results/study_guess.md compares the two in equal time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mrihvae.precision import has_bfloat16

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
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with the gradients at hand."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._muon if is_matrix(parameter) else self._adam
                    update(parameter, parameter.grad, group)
        return loss

    def _muon(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["momentum"], group["momentum"])  # Nesterov
        matrix = orthogonalised(ahead.flatten(1))
        parameter.add_(matrix.view_as(ahead.contiguous()), alpha=-group["lr"] * RMS * math.sqrt(max(matrix.shape)))

    def _adam(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step, (first, second) = float(state["step"]), group["betas"]
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        deviation = (state["exp_avg_sq"] / (1 - second**step)).sqrt_().add_(1e-8)
        parameter.addcdiv_(state["exp_avg"], deviation, value=-group["lr"] / (1 - first**step))


def is_matrix(parameter: Tensor) -> bool:
    """Tell whether a parameter is a kernel that Muon takes."""
    return parameter.ndim == 4 and parameter.shape[0] >= LEAST_ROWS and parameter[0].numel() >= LEAST_COLUMNS


def orthogonalised(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix (rows, columns) to about 1, by Newton-Schulz iterations.

    They are done in bfloat16, which is enough, where there are instructions for it.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x.bfloat16() if has_bfloat16(matrix.device) else x
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = (x.mT if tall else x).to(matrix.dtype)
    return found

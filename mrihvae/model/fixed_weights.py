"""Convolutions of fixed weights, for derivatives with respect to their input alone.

A Gauss-Newton step takes derivatives of derivatives. Torch's second derivative of a convolution computes that of the
weights, too, even where nobody asks for it: about a third of the time of a step. A convolution of fixed weights is
linear in its input, so its derivative is the adjoint convolution, and the derivative of that the convolution again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Geometry = tuple[list[int], list[int], list[int], int]  # stride, padding, dilation, groups


class FixedWeights(TorchFunctionMode):
    """A context in which convolutions of weights that want no gradient are differentiated by their input alone."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace such convolutions; the rest is called as it is."""
        if func is torch.conv2d and not kwargs and torch.is_grad_enabled():
            image, weight = args[:2]
            if image.requires_grad and not weight.requires_grad and _is_plain(args):
                return _convolve(*args)
        return func(*args, **(kwargs or {}))


def _is_plain(args: tuple[Any, ...]) -> bool:
    """Return whether padding is given by numbers."""
    return len(args) < 5 or not isinstance(args[4], str)


def _convolve(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve as `torch.conv2d`, in the precision that autocast asks for."""
    kind = image.device.type
    if torch.is_autocast_enabled(kind):
        image, weight = (tensor.to(torch.get_autocast_dtype(kind)) for tensor in (image, weight))
        bias = None if bias is None else bias.to(weight.dtype)
    pairs = [[tensor, tensor] if isinstance(tensor, int) else list(tensor) for tensor in (stride, padding, dilation)]
    geometry: Geometry = (pairs[0], pairs[1], pairs[2], groups)
    found: Tensor = _Convolution.apply(image, weight, bias, geometry)
    return found


class _Convolution(torch.autograd.Function):
    """y = W x + b."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(weight)  # and not the image, which only derivatives of the weights need
        ctx.shape, ctx.geometry = image.shape, geometry
        return torch.conv2d(image, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return _Adjoint.apply(gradients[0], ctx.shape, weight, ctx.geometry), None, None, None


class _Adjoint(torch.autograd.Function):
    """x = W^T y, of images of a shape."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, shape: torch.Size, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.geometry = geometry
        stride, padding, dilation, groups = geometry
        image = torch.empty(
            shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last
        )  # its values are not read
        found: Tensor = torch.ops.aten.convolution_backward(
            gradient, image, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
        )[0]
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return _Convolution.apply(gradients[0], weight, None, ctx.geometry), None, None, None

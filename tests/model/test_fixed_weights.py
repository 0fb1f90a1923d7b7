"""Convolutions of fixed weights: values and derivatives are those of torch, of first and second order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mrihvae.model.fixed_weights import FixedWeights

CASES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 1},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "bias": False},
    {"kernel_size": 3, "padding": 1, "groups": 2},
]


def derivatives(net: nn.Module, image: Tensor, fixed: bool) -> list[Tensor]:
    """Compute the output, J^T v, and J p by the derivative of <J^T v, p> along v."""
    image = image.clone().requires_grad_()
    if fixed:
        with FixedWeights():
            output = net(image)
    else:
        output = net(image)
    v = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output).requires_grad_()
    (transposed,) = torch.autograd.grad(output, image, v, create_graph=True)
    (pushed,) = torch.autograd.grad(transposed, v, torch.cos(image.detach()), retain_graph=True)
    (again,) = torch.autograd.grad(output, image, pushed)
    return [one.detach() for one in (output, transposed, pushed, again)]


@pytest.mark.parametrize("options", CASES)
def test_derivatives_are_those_of_torch(options: dict[str, int]) -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(4, 6, **options)  # type: ignore[arg-type]
    net = nn.Sequential(first, nn.SiLU(), nn.Conv2d(6, 4, 3, padding=1)).requires_grad_(False)
    image = torch.randn(2, 4, 12, 10).to(memory_format=torch.channels_last)
    for found, expected in zip(derivatives(net, image, True), derivatives(net, image, False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_weights_that_are_trained_get_their_gradient() -> None:
    weight = torch.randn(3, 2, 3, 3, requires_grad=True)
    image = torch.randn(1, 2, 8, 8, requires_grad=True)
    with FixedWeights():
        output = functional.conv2d(image, weight, padding=1)
        named = functional.conv2d(image, weight.detach(), padding="same")
    assert torch.autograd.grad(output.sum(), weight)[0].abs().sum() > 0
    torch.testing.assert_close(named, output)


def test_precision_is_what_autocast_asks_for() -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    image = torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (derivatives(net, image, fixed) for fixed in (True, False))
    assert found[0].dtype == expected[0].dtype == torch.bfloat16 and found[1].dtype == torch.float32
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.05)

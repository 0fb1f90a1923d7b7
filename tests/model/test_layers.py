"""Convolutions whose weight gradient is computed channels first."""

from __future__ import annotations

import pytest
import torch

from mrihvae.model import layers
from mrihvae.model.layers import Convolution, even


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (2, 2)])
def test_weight_gradients_do_not_depend_on_the_order_in_memory(
    size: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = Convolution(5, 7, size, stride=stride, padding=size // 2 if stride == 1 else 0)
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    maps = torch.randn(2, 5, 12, 10).contiguous(memory_format=torch.channels_last).requires_grad_(True)
    found = []
    for has in (True, False):
        monkeypatch.setattr(layers, "_has_avx512", lambda has=has: has)
        layer.zero_grad()
        maps.grad = None
        output = layer(maps)
        output.square().sum().backward()
        assert (type(output.grad_fn).__name__ == "_WeightGradientFirstBackward") is not has
        found.append([output.detach(), *(x.grad for x in (maps, layer.weight, layer.bias))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_inference_is_torch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_has_avx512", lambda: False)
    layer = Convolution(2, 3, 3, padding=1)
    maps = torch.randn(1, 2, 6, 6, requires_grad=True)
    with torch.no_grad():
        assert layer(maps).grad_fn is None
    layer.requires_grad_(False)
    assert type(layer(maps).grad_fn).__name__ == "ConvolutionBackward0"


def test_odd_maps_repeat_their_last_row_and_column() -> None:
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    assert even(maps).tolist() == [[[[0, 1, 2, 2], [3, 4, 5, 5]]]]
    assert even(maps[..., :2]).shape == (1, 1, 2, 2)

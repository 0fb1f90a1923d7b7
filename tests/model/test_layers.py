"""Layers: normal distributions, convolutions in either order of memory, blocks, folded images, shares of bands."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from mrihvae.model import layers
from mrihvae.model.layers import Convolution, Gaussian, band_coverage, even, fold_image, unfold_image
from tests.support.files import complex_normal


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


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(complex_normal(shape, seed))


def test_kl_equals_torch() -> None:
    torch.manual_seed(0)
    mu, sigma = torch.randn(2, 3, 4, 5, 6), torch.rand(2, 3, 4, 5, 6) + 0.1
    ours = Gaussian(mu[0], sigma[0]).kl(Gaussian(mu[1], sigma[1]))
    theirs = kl_divergence(Normal(mu[0], sigma[0]), Normal(mu[1], sigma[1]))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not Gaussian(mu[0], sigma[0]).kl(Gaussian(mu[0], sigma[0])).any()


def test_output_zero_is_the_standard_normal() -> None:
    gaussian = Gaussian.from_network(torch.zeros(2, 8, 3, 3))
    assert gaussian.mu.shape == gaussian.sigma.shape == (2, 4, 3, 3)
    assert not gaussian.mu.any()
    torch.testing.assert_close(gaussian.sigma, torch.ones(2, 4, 3, 3))


def test_deviation_stays_positive_and_finite() -> None:
    raw = torch.tensor([-1e4, -100.0, -1.0, 0.0, 1.0, 100.0, 1e4]).reshape(1, 7, 1, 1)
    sigma = Gaussian.from_network(torch.cat((torch.zeros_like(raw), raw), dim=1)).sigma.flatten()
    assert sigma[0] == pytest.approx(1e-3) and sigma[-1] == pytest.approx(1e4)
    assert bool((sigma.diff() >= 0).all())
    half = Gaussian.from_network(torch.zeros(1, 2, 1, 1, dtype=torch.bfloat16))
    assert half.mu.dtype == half.sigma.dtype == torch.float32


def test_samples_have_the_mean_and_deviation() -> None:
    torch.manual_seed(0)
    z = Gaussian(torch.full((200, 200), 3.0), torch.full((200, 200), 0.5)).sample()
    assert float(z.mean()) == pytest.approx(3.0, abs=0.01) and float(z.std()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_fold_and_unfold_are_inverse(fold: int) -> None:
    image = draw(2, 6 * fold, 4 * fold)
    channels = fold_image(image, fold)
    assert channels.shape == (2, 2 * fold**2, 6, 4) and channels.dtype == torch.float32
    assert torch.equal(unfold_image(channels, fold), image)
    assert torch.equal(fold_image(unfold_image(channels, fold), fold), channels)


def test_sampled_fractions_of_hand_made_masks() -> None:
    everything, nothing = torch.ones(16, 16, dtype=torch.bool), torch.zeros(16, 16, dtype=torch.bool)
    centre = nothing.clone()
    centre[:, 6:10] = True  # 4 of 16 lines; the coarsest of 3 grids has 4 x 4 bins, the next one 8 x 8
    one = nothing.clone()
    one[8, 8] = True  # DC
    fractions = band_coverage(torch.stack((everything, nothing, centre, one)), 3)[..., 0, 0]
    assert fractions[0].tolist() == [1, 1, 1] and fractions[1].tolist() == [0, 0, 0]
    assert fractions[2].tolist() == pytest.approx([1, 16 / 48, 32 / 192])
    assert fractions[3].tolist() == [1 / 16, 0, 0]
    assert band_coverage(centre[None], 1).tolist() == [[[[0.25]]]]

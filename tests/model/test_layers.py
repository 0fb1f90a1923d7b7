"""Layers: normal distributions, convolutions in either order of memory, blocks, folded images, shares of bands."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from mrihvae.model import layers
from mrihvae.model.bands import grids, split
from mrihvae.model.layers import (
    Block,
    Convolution,
    Gaussian,
    Residual,
    band_coverage,
    band_images,
    conv,
    even,
    fold_image,
    pointwise,
    unfold_image,
)
from mrihvae.physics.fourier import ifft2c
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
    center = nothing.clone()
    center[:, 6:10] = True  # 4 of 16 lines; the coarsest of 3 grids has 4 x 4 bins, the next one 8 x 8
    one = nothing.clone()
    one[8, 8] = True  # DC
    fractions = band_coverage(torch.stack((everything, nothing, center, one)), 3)[..., 0, 0]
    assert fractions[0].tolist() == [1, 1, 1] and fractions[1].tolist() == [0, 0, 0]
    assert fractions[2].tolist() == pytest.approx([1, 16 / 48, 32 / 192])
    assert fractions[3].tolist() == [1 / 16, 0, 0]
    assert band_coverage(center[None], 1).tolist() == [[[[0.25]]]]


def test_samples_let_gradients_pass_and_detached_ones_do_not() -> None:
    """z = mu + sigma e: dz / dmu = 1, dz / dsigma = e."""
    mu, sigma = torch.zeros(3, 4, requires_grad=True), torch.full((3, 4), 2.0, requires_grad=True)
    z = Gaussian(mu, sigma).sample()
    z.sum().backward()
    assert mu.grad is not None and sigma.grad is not None
    assert bool((mu.grad == 1).all())
    torch.testing.assert_close(sigma.grad, z.detach() / 2)
    assert not Gaussian(mu, sigma).detach().sample().requires_grad


@pytest.mark.parametrize(("size", "gain"), [(1, 0.5), (3, 2.0**0.5)])
def test_variance_after_a_new_convolution(size: int, gain: float) -> None:
    torch.manual_seed(0)
    layer = conv(64, 96, size, gain)
    assert not layer.bias.any()  # type: ignore[union-attr]
    mapped = layer(torch.randn(2, 64, 24, 24)).detach()[..., 1:-1, 1:-1]
    assert mapped.shape[1] == 96 and float(mapped.var()) == pytest.approx(gain**2, rel=0.05)


def test_parts_of_a_block_are_its_channels_with_gradients_of_their_own() -> None:
    torch.manual_seed(0)
    block, features = Block(6, 4, 5, 1.0), torch.randn(2, 6, 8, 8)
    whole, (first, rest) = block(features), block.parts(features, 2)
    torch.testing.assert_close(torch.cat((first, rest), dim=1), whole)
    first.sum().backward()
    for layer in (block.expand, block.shortcut):
        assert layer.weight.grad is not None
        assert layer.weight.grad[:2].abs().min() > 0 and not layer.weight.grad[2:].any()


def test_a_block_is_linear_where_its_branch_is_zero() -> None:
    """The shortcut lets an image through from the first step on."""
    block, (x, y) = Block(6, 4, 5, 1.0), torch.randn(2, 1, 6, 8, 8)
    with torch.no_grad():
        block.expand.weight.zero_()
        torch.testing.assert_close(block(x + 2 * y), block(x) + 2 * block(y))


@pytest.mark.parametrize("normalize", [True, False])
def test_residual_of_scale_0_is_the_identity(normalize: bool) -> None:
    features = torch.randn(2, 32, 6, 6)
    assert torch.equal(Residual(32, 0.0, normalize)(features), features)
    assert not torch.equal(Residual(32, 0.1, normalize)(features), features)


def test_pointwise_is_the_convolution() -> None:
    layer, maps = conv(3, 5, 1), torch.randn(2, 3, 7, 6)
    with torch.no_grad():
        layer.bias.copy_(torch.arange(5.0))  # type: ignore[union-attr]
    torch.testing.assert_close(pointwise(layer, maps), layer(maps))


@pytest.mark.parametrize("shape", [(16, 24), (15, 21)])
def test_band_images_by_hand(shape: tuple[int, int]) -> None:
    """Each band's bins on its own grid, as an image of the same intensities, over the usual size of the band."""
    kspace = draw(2, *shape)
    found = band_images(kspace, 3)
    for j, (bins, grid) in enumerate(zip(split(kspace, 3), grids(shape, 3), strict=True)):
        factor = (grid[0] * grid[1] / (shape[0] * shape[1])) ** 0.5 / (0.3 if j == 0 else 0.05)
        torch.testing.assert_close(found[j], ifft2c(bins) * factor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_fold_of_several_channels(channels: int) -> None:
    image = draw(2, channels, 6, 4)
    folded = fold_image(image, 2)
    assert folded.shape == (2, 8 * channels, 3, 2) and folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(unfold_image(folded, 2, channels), image)

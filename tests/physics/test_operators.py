"""Operators: adjointness, exact solutions, equality with dense matrices, direct sums, scipy and sigpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from mrihvae.errors import InputError
from mrihvae.model.bands import split
from mrihvae.physics.conjugate_gradients import Solution, conjugate_gradients
from mrihvae.physics.degradations import Blur, Inpainting, PaddedBlur, SuperResolution, denoising
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.kernels import gaussian_kernel, transfer_of
from mrihvae.physics.mri import MaskedFourier
from mrihvae.physics.operators import Operator
from tests.support.files import complex_normal
from tests.support.small import phantom

SHAPES = [(8, 8), (7, 7), (8, 7), (7, 8), (1, 5), (20, 33)]
REAL, COMPLEX = torch.float32, torch.complex64


def operator(shape: tuple[int, int], lines: bool) -> MaskedFourier:
    """Make an operator that measures about half of the lines (W,), or of the bins (H, W)."""
    rng = np.random.default_rng(0)
    return MaskedFourier(torch.from_numpy(rng.random(shape[1:] if lines else shape) < 0.5))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(complex_normal(shape, seed))


def inner(a: torch.Tensor, b: torch.Tensor) -> complex:
    return complex((a.conj() * b).to(torch.complex128).sum())


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_adjoint(shape: tuple[int, int], lines: bool) -> None:
    A = operator(shape, lines)
    x, y = draw(2, *shape), draw(2, *shape, seed=1)
    assert inner(A.forward(x), y) == pytest.approx(inner(x, A.adjoint(y)), abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_normal_is_adjoint_of_forward(shape: tuple[int, int]) -> None:
    A = operator(shape, lines=True)
    x = draw(2, *shape)
    assert torch.equal(A.normal(x), A.adjoint(A.forward(x)))
    torch.testing.assert_close(A.normal(A.normal(x)), A.normal(x), atol=1e-6, rtol=0)  # a projection


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_sigpy(shape: tuple[int, int]) -> None:
    import sigpy

    A = operator(shape, lines=False)
    theirs = sigpy.linop.Multiply(shape, A.mask.numpy()) * sigpy.linop.FFT(shape, center=True)
    x, y = complex_normal(shape), complex_normal(shape, 1)
    np.testing.assert_allclose(A.forward(torch.from_numpy(x)).numpy(), theirs(x), atol=1e-6)
    np.testing.assert_allclose(A.adjoint(torch.from_numpy(y)).numpy(), theirs.H(y), atol=1e-6)
    np.testing.assert_allclose(A.normal(torch.from_numpy(x)).numpy(), theirs.N(x), atol=1e-6)


def test_equals_sigpys_sense_with_one_flat_coil() -> None:
    from sigpy.mri.linop import Sense

    shape = (12, 9)
    A = operator(shape, lines=False)
    theirs = Sense(np.ones((1, *shape), np.complex64), weights=A.mask.numpy().astype(np.float32))
    x, y = complex_normal(shape), complex_normal(shape, 1)
    np.testing.assert_allclose(A.forward(torch.from_numpy(x)).numpy(), theirs(x)[0], atol=1e-6)
    np.testing.assert_allclose(A.adjoint(torch.from_numpy(y)).numpy(), theirs.H(y[None]), atol=1e-6)


def test_everything_measured_is_unitary() -> None:
    A = MaskedFourier(torch.ones(6, 9, dtype=torch.bool))
    x = draw(3, 6, 9)
    torch.testing.assert_close(A.normal(x), x, atol=1e-6, rtol=0)


def test_unmeasured_bins_are_plus_zero_even_where_the_input_is_not_finite() -> None:
    A = operator((6, 9), lines=True)
    y = A.forward(-draw(2, 6, 9))
    unmeasured = y[..., ~A.mask]
    assert unmeasured.numel() and not unmeasured.any()
    assert not torch.signbit(torch.view_as_real(unmeasured)).any()
    y[..., ~A.mask] = torch.nan
    assert bool(torch.isfinite(A.adjoint(y).abs()).all())


def kernels(batched: bool) -> torch.Tensor:
    """Make kernels of 5 x 3 without any symmetry, of sum 1: (5, 3), or two of them (2, 5, 3)."""
    kernel = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(3)) ** 2
    kernel = kernel / kernel.sum(dim=(-2, -1), keepdim=True)
    return kernel if batched else kernel[0]


def known(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(4)) < 0.6


Make = Callable[[tuple[int, int], bool], Operator]
MAKERS: dict[str, tuple[Make, int]] = {  # and of what image sizes are multiples
    "inpainting": (lambda shape, batched: Inpainting(known((2, *shape) if batched else shape)), 1),
    "rows": (lambda shape, batched: Inpainting(known((2, shape[0], 1) if batched else (shape[0], 1))), 1),
    "denoising": (lambda shape, batched: denoising(), 1),
    "blur": (lambda shape, batched: Blur(transfer_of(kernels(batched), shape)), 1),
    "padded blur": (lambda shape, batched: PaddedBlur(kernels(batched)), 1),
    "coarse 1": (lambda shape, batched: SuperResolution(transfer_of(kernels(batched), shape), 1), 1),
    "coarse 2": (lambda shape, batched: SuperResolution(transfer_of(kernels(batched), shape), 2), 2),
    "coarse 4": (lambda shape, batched: SuperResolution(transfer_of(kernels(batched), shape), 4), 4),
    "fourier": (lambda shape, batched: MaskedFourier(known((2, *shape) if batched else shape)), 1),
}
CASES = [
    pytest.param(make, (shape[0] * multiple, shape[1] * multiple), batched, dtype, id=f"{name}-{at}-{batched}-{dtype}")
    for name, (make, multiple) in MAKERS.items()
    for at, shape in enumerate([(8, 10), (7, 5), (7, 6)])
    for batched in (False, True)
    for dtype in (REAL, COMPLEX)
    if (name, dtype) != ("fourier", REAL)
]
RATIOS = (1e-3, 0.1, 1.0, 10.0, torch.tensor([0.001, 10.0])[:, None, None])


def normal_numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def wider(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.complex128 if values.is_complex() else torch.float64)


@pytest.mark.parametrize(("make", "shape", "batched", "dtype"), CASES)
def test_adjoint_of_every_operator(make: Make, shape: tuple[int, int], batched: bool, dtype: torch.dtype) -> None:
    A, x = make(shape, batched), normal_numbers((2, *shape), dtype)
    y = A.forward(x)
    z = normal_numbers(tuple(y.shape), dtype, 1)
    back = A.adjoint(z)
    assert y.dtype == back.dtype == dtype and back.shape == x.shape
    for k in range(2):
        size = float(y[k].norm() * z[k].norm())
        assert inner(y[k], z[k]) == pytest.approx(inner(x[k], back[k]), abs=1e-6 * size)


@pytest.mark.parametrize(("make", "shape", "batched", "dtype"), CASES)
def test_solve_solves_the_normal_equations(
    make: Make, shape: tuple[int, int], batched: bool, dtype: torch.dtype
) -> None:
    A, x = make(shape, batched), normal_numbers((2, *shape), dtype)
    for r in RATIOS:
        right = A.adjoint(A.forward(x)) + r * x.flip(-1)
        found = A.solve(right, r)
        assert found.dtype == dtype and found.shape == x.shape
        remainder = A.adjoint(A.forward(wider(found))) + r * wider(found) - right
        assert bool((remainder.norm(dim=(-2, -1)) < 1e-6 * right.norm(dim=(-2, -1))).all())


def columns(A: Operator, shape: tuple[int, int], dtype: torch.dtype, slices: int) -> np.ndarray:
    """Build A column by column: (slices, numbers of the data, pixels), in double precision."""
    found = []
    for at in range(shape[0] * shape[1]):
        image = torch.zeros(shape[0] * shape[1], dtype=dtype)
        image[at] = 1
        found.append(wider(A.forward(image.view(1, *shape).expand(slices, *shape))).flatten(1).numpy())
    return np.stack(found, axis=-1)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_equals_a_dense_matrix(name: str, batched: bool, dtype: torch.dtype) -> None:
    if (name, dtype) == ("fourier", REAL):
        pytest.skip("k-space is complex")
    shape = (8, 4) if name == "coarse 4" else (6, 4)
    if "blur" in name or "coarse" in name:
        shape = (8, 4)  # at least the kernel's
    A = MAKERS[name][0](shape, batched)
    matrices, right = columns(A, shape, dtype, 2), normal_numbers((2, *shape), dtype)
    data = normal_numbers(tuple(A.forward(right).shape), dtype, 2)
    for k, matrix in enumerate(matrices):
        theirs = matrix.conj().T @ data[k].flatten().numpy()
        np.testing.assert_allclose(A.adjoint(data)[k].flatten().numpy(), theirs, atol=2e-6)
        for r in (0.02, 3.0):
            normal = matrix.conj().T @ matrix + r * np.eye(matrix.shape[1])
            theirs = np.linalg.solve(normal, right[k].flatten().numpy())
            np.testing.assert_allclose(A.solve(right, r)[k].flatten().numpy(), theirs, atol=1e-5 / r)
    assert matrices.shape[1] == data[0].numel()


def test_parameters_per_slice_are_each_slices_own() -> None:
    shape, x = (12, 8), normal_numbers((2, 12, 8), REAL)
    for name in ("inpainting", "blur", "padded blur", "coarse 2", "coarse 4"):
        both = MAKERS[name][0](shape, True)
        for k in range(2):
            if isinstance(both, Inpainting):
                own: Operator = Inpainting(both.mask[k])
            elif isinstance(both, PaddedBlur):
                own = PaddedBlur(both.kernel[k])
            elif isinstance(both, Blur):
                own = Blur(both.transfer[k : k + 1])
            else:
                assert isinstance(both, SuperResolution)
                own = SuperResolution(both.transfer[k : k + 1], both.factor)
            y = both.forward(x)
            torch.testing.assert_close(own.forward(x[k : k + 1]), y[k : k + 1])
            torch.testing.assert_close(own.adjoint(y[k : k + 1]), both.adjoint(y)[k : k + 1])
            torch.testing.assert_close(own.solve(x[k : k + 1], 0.1), both.solve(x, 0.1)[k : k + 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 9), (7, 6), (5, 3)])
@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_blur_is_the_circular_sum(shape: tuple[int, int], dtype: torch.dtype) -> None:
    kernel, x = kernels(False), normal_numbers((2, *shape), dtype)
    theirs = np.zeros((2, *shape), dtype=np.complex128)
    for row in range(5):
        for column in range(3):
            shifted = np.roll(x.numpy(), (row - 2, column - 1), axis=(-2, -1))
            theirs += kernel[row, column].item() * shifted
    np.testing.assert_allclose(Blur(transfer_of(kernel, shape)).forward(x).numpy(), theirs, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 9), (7, 6), (5, 3)])
@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_padded_blur_equals_scipy(shape: tuple[int, int], dtype: torch.dtype) -> None:
    from scipy.signal import convolve2d, correlate2d

    kernel, x = kernels(True), normal_numbers((2, *shape), dtype)
    A = PaddedBlur(kernel)
    for k in range(2):
        theirs = convolve2d(x[k].numpy(), kernel[k].numpy(), mode="same")
        np.testing.assert_allclose(A.forward(x)[k].numpy(), theirs, atol=1e-6)
        theirs = correlate2d(x[k].numpy(), kernel[k].numpy(), mode="same")
        np.testing.assert_allclose(A.adjoint(x)[k].numpy(), theirs, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_coarse_pixels_are_the_blurred_ones_of_every_factor(factor: int) -> None:
    transfer, x = transfer_of(kernels(True), (12, 20)), normal_numbers((2, 12, 20), COMPLEX)
    A = SuperResolution(transfer, factor)
    assert torch.equal(A.forward(x), Blur(transfer).forward(x)[:, ::factor, ::factor])


@pytest.mark.parametrize("factor", [2, 4])
def test_aliased_power_is_the_spectrum_of_a_a_transposed(factor: int) -> None:
    """A A^H is a circular convolution of the data; the mean of its transfer function is its diagonal, sum k^2."""
    A = SuperResolution(transfer_of(kernels(True), (8, 12)), factor)
    y = normal_numbers((2, 8 // factor, 12 // factor), REAL)
    theirs = torch.fft.ifft2(torch.fft.fft2(y) * A.aliased_power()).real
    torch.testing.assert_close(A.forward(A.adjoint(y)), theirs, rtol=0, atol=1e-6)
    if factor == 4:
        torch.testing.assert_close(A.aliased_power().mean(dim=(-2, -1)), kernels(True).square().sum(dim=(-2, -1)))


@pytest.mark.parametrize("factor", [0, 3, 8])
def test_factor_that_does_not_divide_the_image_is_refused(factor: int) -> None:
    with pytest.raises(InputError, match=r"factor \d must be at least 1 and divide \(12, 20\)"):
        SuperResolution(transfer_of(kernels(False), (12, 20)), factor)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
@pytest.mark.parametrize(("shape", "factor"), [((6, 8), 2), ((7, 5), 2), ((5, 6), 4), ((1, 3), 4)])
def test_band_limited_image_is_recovered_from_its_samples(
    shape: tuple[int, int], factor: int, dtype: torch.dtype
) -> None:
    """Its pixels, too, not the samples alone: without the highest frequency of even sizes the image is unique."""
    fine = (shape[0] * factor, shape[1] * factor)
    rows, columns = (torch.arange(size) / size for size in fine)
    image = torch.full(fine, 0.3, dtype=torch.complex128)
    rng = np.random.default_rng(0)
    for u in range(-((shape[0] - 1) // 2), (shape[0] - 1) // 2 + 1):
        for v in range(-((shape[1] - 1) // 2), (shape[1] - 1) // 2 + 1):
            phase = 2 * np.pi * (u * rows.double()[:, None] + v * columns.double())
            image = image + complex(rng.normal(), rng.normal()) * torch.polar(torch.ones(fine).double(), phase)
    truth = (image if dtype == COMPLEX else image.real).to(dtype)[None]
    A = SuperResolution(torch.ones(1, *fine, dtype=torch.complex64), factor)
    found = A.first_image(truth[:, ::factor, ::factor])
    assert found.dtype == dtype
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
@pytest.mark.parametrize("shape", [(6, 8), (7, 5), (1, 2)])
def test_first_image_keeps_the_samples(shape: tuple[int, int], dtype: torch.dtype) -> None:
    data = normal_numbers((2, *shape), dtype)
    for factor in (1, 2, 4):
        fine = (shape[0] * factor, shape[1] * factor)
        found = SuperResolution(torch.ones(1, *fine, dtype=torch.complex64), factor).first_image(data)
        assert found.shape == (2, *fine)
        torch.testing.assert_close(found[:, ::factor, ::factor], data, rtol=0, atol=1e-5)


def test_holes_are_filled_from_what_is_known_near_them() -> None:
    image = 1 + torch.from_numpy(np.stack([phantom(40, 48), phantom(40, 48, 1)]))
    mask = known((2, 40, 48))
    mask[0, 12:24, 20:34] = False
    found = Inpainting(mask).first_image(torch.where(mask, image, 0))
    assert torch.equal(found[mask], image[mask])
    for k in range(2):
        values = image[k][mask[k]]
        holes = found[k][~mask[k]]
        assert bool((holes > values.min() - 1e-3).all()) and bool((holes < values.max() + 1e-3).all())
    error = (found - image).abs()[~mask].mean()
    assert error < 0.5 * image[mask].std() and found[0, 18, 27] != found[0, 5, 5]
    turned = torch.polar(image, torch.full_like(image, 0.7))  # complex images are filled as their parts are
    filled = Inpainting(mask).first_image(torch.where(mask, turned, 0))
    torch.testing.assert_close(filled.abs(), found, rtol=0, atol=1e-4)


def test_first_image_with_all_or_nothing_known() -> None:
    x = normal_numbers((2, 24, 20), REAL)
    assert torch.equal(Inpainting(torch.ones(24, 20, dtype=torch.bool)).first_image(x), x)
    assert torch.equal(denoising().first_image(x), x)
    nothing = torch.stack([torch.zeros(24, 20), torch.ones(24, 20)]).bool()
    found = Inpainting(nothing).first_image(x * nothing)
    assert torch.equal(found[0], torch.zeros(24, 20)) and torch.equal(found[1], x[1])


def test_other_first_images() -> None:
    x = normal_numbers((2, 12, 10), REAL)
    assert torch.equal(Blur(transfer_of(kernels(False), (12, 10))).first_image(x), x)
    assert torch.equal(PaddedBlur(kernels(False)).first_image(x), x)
    A, y = operator((12, 10), lines=True), draw(2, 12, 10)
    assert torch.equal(A.first_image(y), A.adjoint(y))


@pytest.mark.parametrize("name", MAKERS)
def test_gains_are_of_the_image_and_of_its_spectrum(name: str) -> None:
    shape = (12, 16)
    for batched in (False, True):
        pixel, frequency = MAKERS[name][0](shape, batched).gains(shape)
        for gain in (pixel, frequency):
            assert gain.ndim == 3 and bool((gain >= 0).all()) and bool((gain <= 1 + 1e-6).all())
            assert gain.expand(2, *shape).shape == (2, *shape)


def test_gains_of_diagonal_operators_are_a_a_transposed() -> None:
    """In k-space: A^H A of an image is its spectrum times the gain; in the image: the image times it."""
    shape, x = (12, 9), draw(2, 12, 9)
    for name in ("blur", "fourier", "inpainting", "coarse 1"):
        A = MAKERS[name][0](shape, True)
        pixel, frequency = A.gains(shape)
        torch.testing.assert_close(A.adjoint(A.forward(x)), pixel * ifft2c(frequency * fft2c(x)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 4])
def test_gains_of_coarse_data_fall_where_frequencies_alias(factor: int) -> None:
    """Without a blur every frequency shares with factor^2 - 1 others; with a good one the lowest are seen alone."""
    bare = SuperResolution(torch.ones(1, 32, 32, dtype=torch.complex64), factor).gains((32, 32))[1]
    torch.testing.assert_close(bare, torch.full((1, 32, 32), factor**-2.0))
    A = SuperResolution(transfer_of(gaussian_kernel(0.5 * factor, size=31), (32, 32)), factor)
    power = torch.fft.fftshift(A.transfer.abs() ** 2, dim=(-2, -1))
    gain = A.gains((32, 32))[1][0]
    assert bool((gain <= power[0] + 1e-6).all())
    assert float(gain[16, 16]) == pytest.approx(1, abs=0.02)
    low, high = (band.abs().square().sum() for band in split(gain.to(COMPLEX)[None], 2))
    assert high < 0.2 * low


def blurred(shape: tuple[int, int], width: float) -> tuple[Callable[[torch.Tensor], torch.Tensor], PaddedBlur]:
    A = PaddedBlur(gaussian_kernel(width, size=min(shape)))
    return lambda x: A.adjoint(A.forward(x)), A


def true_residual(
    normal: Callable[[torch.Tensor], torch.Tensor], found: Solution, right: torch.Tensor, r: torch.Tensor | float
) -> torch.Tensor:
    remainder = wider(right) - normal(wider(found.image)) - r * wider(found.image)
    return remainder.norm(dim=(-2, -1)) / wider(right).norm(dim=(-2, -1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_conjugate_gradients_tell_the_true_residual(dtype: torch.dtype) -> None:
    normal, _ = blurred((16, 12), 2.0)
    right, r = normal_numbers((2, 16, 12), dtype), torch.tensor([0.01, 1.0]).double()[:, None, None]
    for cap in (1, 3, 10, 1000):
        found = conjugate_gradients(normal, right, r, tolerance=1e-9, cap=cap)
        assert found.iterations <= cap and found.image.dtype == dtype and found.residual.dtype == torch.float64
        torch.testing.assert_close(found.residual, true_residual(normal, found, right, r), rtol=1e-3, atol=1e-12)
        assert (cap == 1000) == bool((found.residual <= 1e-9).all()) == (found.iterations < cap)


def test_conjugate_gradients_solve_a_small_system_in_as_many_steps_as_it_has_unknowns() -> None:
    normal, _ = blurred((3, 4), 1.0)
    found = conjugate_gradients(normal, normal_numbers((2, 3, 4), torch.float64), 0.1, tolerance=1e-10, cap=13)
    assert found.iterations <= 12


def test_conjugate_gradients_take_slices_as_problems_of_their_own() -> None:
    normal, _ = blurred((16, 12), 2.0)
    right = normal_numbers((3, 16, 12), torch.float64)
    right[1] *= 1e6
    right[2] = 0
    together = conjugate_gradients(normal, right, 0.05, tolerance=1e-10, cap=500)
    assert not together.image[2].any() and float(together.residual[2]) == 0
    for k in range(2):
        alone = conjugate_gradients(normal, right[k : k + 1], 0.05, tolerance=1e-10, cap=500)
        torch.testing.assert_close(together.image[k : k + 1], alone.image, rtol=1e-7, atol=0)


def test_preconditioner_saves_steps_and_does_not_change_the_answer() -> None:
    normal, A = blurred((32, 24), 1.5)
    near = Blur(transfer_of(A.kernel, (32, 24)))
    right = normal_numbers((2, 32, 24), torch.float64)
    plain = conjugate_gradients(normal, right, 0.003, tolerance=1e-10, cap=2000)
    helped = conjugate_gradients(normal, right, 0.003, lambda x: near.solve(x, 0.003), 1e-10, 2000)
    torch.testing.assert_close(plain.image, helped.image, rtol=0, atol=1e-6)
    assert helped.iterations < plain.iterations < 2000


def test_conjugate_gradients_give_what_is_left() -> None:
    """The remainder tells N x of the solution, so that who goes on from it need not apply N again."""
    matrix = normal_numbers((2, 12, 12), torch.float64)
    right = normal_numbers((2, 3, 4), torch.float64)

    def normal(x: torch.Tensor) -> torch.Tensor:
        return (matrix.mT @ (matrix @ x.flatten(1)[..., None]))[..., 0].view_as(x)

    found = conjugate_gradients(normal, right, 0.3, tolerance=1e-12, cap=4)
    torch.testing.assert_close(found.remainder, right - normal(found.image) - 0.3 * found.image)
    sizes = found.remainder.flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)
    torch.testing.assert_close(found.residual, sizes)

"""All operators: adjointness, exact solutions, dense matrices, gains; the masked Fourier transform is sigpy's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from mrihvae.physics.degradations import Blur, Inpainting, PaddedBlur, SuperResolution, denoising
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.kernels import transfer_of
from mrihvae.physics.mri import MaskedFourier
from mrihvae.physics.operators import Operator
from tests.support.files import complex_normal
from tests.support.kernels import kernels, known, normal_numbers, wider

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

"""Conjugate gradients: what they tell of themselves, steps, slices by themselves, dense solutions, warnings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mrihvae.physics.conjugate_gradients import Solution, conjugate_gradients, image_or_warning
from mrihvae.physics.degradations import Blur, PaddedBlur
from mrihvae.physics.kernels import gaussian_kernel, transfer_of
from mrihvae.utils.notices import collect_notices
from tests.support.kernels import normal_numbers, wider


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


def test_a_system_by_hand() -> None:
    """Of two unknowns: (N + I) x = b with N of eigenvalues 1 and 4 is x = (b_1 / 2, b_2 / 5), found in two steps."""
    weights = torch.tensor([[1.0, 4.0]])
    found = conjugate_gradients(lambda x: weights * x, torch.tensor([[[6.0, -10.0]]]), 1.0, tolerance=1e-7)
    assert found.iterations == 2
    torch.testing.assert_close(found.image, torch.tensor([[[3.0, -2.0]]]))
    first = conjugate_gradients(lambda x: weights * x, torch.tensor([[[6.0, -10.0]]]), 1.0, cap=1)
    step = (36 + 100) / (2 * 36 + 5 * 100)  # |b|^2 / b^T (N + I) b
    torch.testing.assert_close(first.image, step * torch.tensor([[[6.0, -10.0]]]))
    torch.testing.assert_close(first.remainder, torch.tensor([[[6 - 12 * step, -10 + 50 * step]]]))


@pytest.mark.parametrize("double", [True, False])
def test_precision_in_which_it_computes(double: bool) -> None:
    dtypes: set[torch.dtype] = set()

    def normal(x: torch.Tensor) -> torch.Tensor:
        dtypes.add(x.dtype)
        return x

    found = conjugate_gradients(normal, normal_numbers((2, 3, 4), torch.complex64), 1.0, double=double)
    assert dtypes == {torch.complex128 if double else torch.complex64}
    assert found.image.dtype == found.remainder.dtype == torch.complex64 and found.residual.dtype == torch.float32


def test_solution_that_has_not_converged_warns() -> None:
    image = torch.ones(2, 1, 1)
    with collect_notices() as notices:
        assert image_or_warning(Solution(image, torch.tensor([1e-6, 0.0]), 5, image)) is image
        assert notices == []
        assert image_or_warning(Solution(image, torch.tensor([1e-9, 3e-4]), 7, image)) is image
    (notice,) = notices
    assert "stopped after 7 iterations at a relative residual of 3.0e-04; lower gamma, or raise their limit" in notice

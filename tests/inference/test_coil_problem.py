"""Slices of several coils as the network takes them: grids and views, proximal steps, total variation."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from mrihvae.inference import problem as problems
from mrihvae.inference.preparation import prepare
from mrihvae.inference.problem import LEAST_WEIGHT, WEIGHT, MultiCoilProblem
from mrihvae.inference.views import view
from mrihvae.model.hvae import HVAE
from mrihvae.physics import total_variation as variation
from mrihvae.physics.fourier import center_crop, center_pad, fft2c, ifft2c, resize_kspace
from mrihvae.physics.mri import Sense
from mrihvae.physics.total_variation import TV_STRENGTH, first_guess, total_variation
from tests.support.files import complex_normal
from tests.support.small import SMALL, every_third, small_kspace, small_model
from tests.support.small_coils import calibrated, coil_scans, distance, some_bins

SHAPES = [(16, 24), (32, 64), (19, 22), (61, 45)]


@pytest.fixture(scope="module")
def model() -> HVAE:
    return small_model(settings=dataclasses.replace(SMALL, cascades=3)).eval().requires_grad_(False)


def problem_of(model: HVAE, shape: tuple[int, int], coils: int = 3, mask: Tensor | None = None) -> MultiCoilProblem:
    kspace, maps, _ = coil_scans(2, coils, *shape, noise=0.02)
    return prepare(model, kspace, calibrated(shape[1]) if mask is None else mask, maps[None])


def problem_by_hand(sense: Sense, data: Tensor, noise: Tensor, padded: tuple[int, int]) -> MultiCoilProblem:
    """Pose a problem without a model; `total_variation` is of no account."""
    combined = sense.adjoint(data)
    scale, mask = torch.ones(len(data)), center_pad(sense.mask.expand(combined.shape), padded, value=True)
    return MultiCoilProblem(
        mask=mask, noise=noise, scale=scale, padded=padded, sense=sense, combined=combined, first=combined
    )


def white(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(complex_normal(shape, seed))


def weight_of(noise: Tensor) -> Tensor:
    """Compute r, the weight of the network's answer, (slices, 1, 1)."""
    return torch.clamp(WEIGHT * noise, min=LEAST_WEIGHT)[:, None, None]


def exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let proximal steps go on until they have converged."""
    monkeypatch.setattr(problems, "TV_CG_TOLERANCE", 1e-7)
    monkeypatch.setattr(problems, "ITERATIONS", 300)


# --- the network's grid ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", range(8))
def test_images_come_back_from_every_view(model: HVAE, shape: tuple[int, int], number: int) -> None:
    seen = problem_of(model, shape).view(number)
    image = white(2, *shape)
    kspace = seen.kspace(image)
    assert kspace.shape == (2, *seen.padded) and all(size % 8 == 0 for size in seen.padded)
    torch.testing.assert_close(seen.image(kspace), image, rtol=0, atol=1e-5)
    assert not kspace[~view(resize_kspace(torch.ones(2, *shape), seen.padded), number).bool()].any()
    torch.testing.assert_close(view(kspace, number), resize_kspace(fft2c(image), seen.padded), rtol=0, atol=1e-5)
    back = seen.images(kspace)  # in the scan's units
    torch.testing.assert_close(back, image * seen.unit[:, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 24), (19, 22)])
def test_what_lies_beyond_the_scan_counts_as_measured(model: HVAE, shape: tuple[int, int]) -> None:
    for mask in (calibrated(shape[1]).expand(shape), some_bins(*shape)):
        problem = problem_of(model, shape, mask=mask)
        for number in range(8):
            seen = problem.view(number)
            back = view(seen.mask, number)
            assert torch.equal(center_crop(back, shape), mask.expand(2, *shape))
            assert int(back.sum()) == 2 * (int(mask.sum()) + back[0].numel() - mask.numel())
            guess = seen.kspace(white(2, *shape))
            measured = seen.measured_bins(guess)
            assert torch.equal(measured[seen.mask], guess[seen.mask]) and not measured[~seen.mask].any()


def test_units(model: HVAE) -> None:
    """Of pose: the 99th percentile of the combined coils is 1; noise is that of a coil, and kept by combining."""
    kspace, maps, images = coil_scans(2, 4, 61, 45, noise=0.2)
    problem = prepare(model, torch.tensor([1.0, 300.0])[:, None, None, None] * kspace, calibrated(45), maps[None])
    zero_filled = ifft2c(resize_kspace(fft2c(problem.combined), problem.padded)).abs().flatten(1)
    torch.testing.assert_close(torch.quantile(zero_filled, 0.99, dim=1), torch.ones(2), rtol=1e-3, atol=0)
    torch.testing.assert_close(problem.noise * problem.scale, torch.tensor([0.2, 60.0]), rtol=0.1, atol=0)
    white = (maps.conj() * ifft2c(kspace - fft2c(maps * images[:, None]))).sum(dim=1)
    assert float(white.abs().square().mean().sqrt()) == pytest.approx(0.2, rel=0.05)
    back = problem.combined * problem.unit[:, None, None]
    expected = Sense(maps[None], calibrated(45)).adjoint(kspace)
    torch.testing.assert_close(back, torch.tensor([1.0, 300.0])[:, None, None] * expected, rtol=1e-4, atol=1e-4)


def test_turned_scans_give_images_as_they_were(model: HVAE) -> None:
    kspace, maps, _ = coil_scans(2, 3, 24, 20)
    lines = calibrated(20)
    straight = prepare(model, kspace, lines, maps[None])
    turned = prepare(model, kspace.mT, lines[:, None], maps.mT[None])
    assert turned.transposed and not straight.transposed
    torch.testing.assert_close(turned.combined, straight.combined, rtol=0, atol=1e-6)
    made = straight.kspace(white(2, 24, 20))
    torch.testing.assert_close(turned.images(made), straight.images(made).mT, rtol=0, atol=1e-6)


# --- proximal steps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 24), (19, 22)])
@pytest.mark.parametrize("number", [0, 1, 6])
def test_settled_image_solves_the_normal_equations(
    monkeypatch: pytest.MonkeyPatch, model: HVAE, shape: tuple[int, int], number: int
) -> None:
    exactly(monkeypatch)
    problem = problem_of(model, shape)
    seen = problem.view(number)
    v = white(2, *shape)
    x = seen.image(seen.make_consistent(seen.kspace(v)))
    r = weight_of(problem.noise)
    left = problem.sense.normal(x) + r * x
    torch.testing.assert_close(left, problem.combined + r * v, rtol=0, atol=1e-4)
    torch.testing.assert_close(seen.finish(seen.kspace(v)), seen.make_consistent(seen.kspace(v)))


def test_few_iterations_are_near_to_the_solution(monkeypatch: pytest.MonkeyPatch, model: HVAE) -> None:
    """From a guess of the size of the network's errors the step's own number of iterations is enough."""
    kspace, maps, images = coil_scans(2, 4, 48, 40, noise=0.02)
    problem = prepare(model, kspace, calibrated(40), maps[None])
    v = problem.kspace(images / problem.unit[:, None, None] + 0.1 * white(2, 48, 40))
    found = problem.make_consistent(v)
    exactly(monkeypatch)
    exact = problem.make_consistent(v)
    assert float((found - exact).norm() / exact.norm()) < 0.01
    assert float((exact - v).norm() / exact.norm()) > 0.1


def test_noise_weighs_the_guess(monkeypatch: pytest.MonkeyPatch, model: HVAE) -> None:
    exactly(monkeypatch)
    problem = problem_of(model, (16, 24))
    quiet = dataclasses.replace(problem, noise=torch.zeros(2))
    loud = dataclasses.replace(problem, noise=torch.tensor([0.0, 1e4]))
    v = problem.kspace(white(2, 16, 24))
    least = problem.sense.solve(problem.combined + LEAST_WEIGHT * problem.image(v), LEAST_WEIGHT)
    torch.testing.assert_close(quiet.image(quiet.make_consistent(v)), least, rtol=0, atol=1e-3)
    found = loud.make_consistent(v)
    torch.testing.assert_close(
        found[0], quiet.make_consistent(v)[0], rtol=0, atol=1e-3
    )  # slices have weights of their own
    torch.testing.assert_close(found[1], v[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_gradient_equals_that_of_a_dense_solve(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """On a tiny problem, through a matrix that torch differentiates; padded, and in views."""
    exactly(monkeypatch)
    shape = (5, 6)
    sense = Sense(torch.stack([white(2, *shape, seed=seed) for seed in (1, 2)]) / 2, some_bins(*shape, low=2))
    noise = torch.tensor([0.05, 0.2])
    problem = problem_by_hand(sense, sense.masked(white(2, 2, *shape, seed=3)), noise, (8, 8)).view(number)
    weight = white(2, 8, 8, seed=4)

    def loss_and_gradient(settle: object) -> tuple[Tensor, Tensor]:
        v = white(2, 8, 8, seed=5).requires_grad_()
        loss = (settle(v).conj() * weight).sum().real + settle(v).abs().square().sum()  # type: ignore[operator]
        loss.backward()
        assert v.grad is not None
        return loss.detach(), v.grad

    units = torch.eye(30, dtype=torch.complex64).view(30, 1, *shape)
    columns = torch.stack([sense.normal(unit.expand(2, *shape)).flatten(1) for unit in units], dim=-1)
    r = weight_of(noise)[..., 0]
    matrices = columns + torch.diag_embed(r.expand(2, 30)).to(columns)

    def dense(kspace: Tensor) -> Tensor:
        right = problem.combined.flatten(1) + r * problem.image(kspace).flatten(1)
        return problem.kspace(torch.linalg.solve(matrices, right).view(2, *shape))

    (ours, gradient), (theirs, expected) = loss_and_gradient(problem.make_consistent), loss_and_gradient(dense)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert float(gradient.abs().max()) > 0.1


def test_gradient_of_few_iterations_is_near(monkeypatch: pytest.MonkeyPatch, model: HVAE) -> None:
    problem, weight = problem_of(model, (16, 24)), white(2, 16, 24, seed=1)
    found = []
    for exact in (False, True):
        if exact:
            exactly(monkeypatch)
        v = problem.kspace(white(2, 16, 24)).requires_grad_()
        (problem.make_consistent(v).conj() * weight).sum().real.backward()
        assert v.grad is not None
        found.append(v.grad)
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 0.02


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("mask", [every_third(24), some_bins(16, 24)])
def test_one_coil_of_sensitivity_1_has_a_closed_form(mask: Tensor, number: int) -> None:
    """(y + r v) / (1 + r) where measured, and v elsewhere."""
    y = torch.where(mask, small_kspace(2, 16, 24), 0)
    noise = torch.tensor([0.05, 0.2])
    sense = Sense(torch.ones(1, 1, 16, 24, dtype=torch.complex64), mask.expand(2, 16, 24))
    problem = problem_by_hand(sense, y[:, None], noise, (16, 24)).view(number)
    v, r = white(2, 16, 24), weight_of(noise)
    expected = torch.where(mask, (y + r * view(v, number)) / (1 + r), view(v, number))
    torch.testing.assert_close(view(problem.make_consistent(v), number), expected, rtol=0, atol=1e-4)


# --- first guesses ---------------------------------------------------------------------------------------------------


def objective(sense: Sense, data: Tensor, image: Tensor, strength: float) -> Tensor:
    """Compute 1/2 |A x - y|^2 + strength |D x|_1 of each slice."""
    misfit = (sense.forward(image) - data).abs().square().flatten(1).sum(dim=1)
    differences = (image - image.roll(1, -2)).abs() + (image - image.roll(1, -1)).abs()
    return 0.5 * misfit + strength * differences.flatten(1).sum(dim=1)


@pytest.mark.parametrize("strength", [0.0015, 0.004, 0.02])
@pytest.mark.parametrize("mask", [calibrated(40), calibrated(48)[:, None], some_bins(48, 40)])
def test_total_variation_lowers_its_objective(mask: Tensor, strength: float) -> None:
    kspace, maps, images = coil_scans(2, 4, 48, 40, noise=0.02)
    sense = Sense(maps[None], mask.expand(2, 48, 40))
    data = sense.masked(kspace)
    combined = sense.adjoint(data)
    found = total_variation(sense, combined, strength)
    for other in (combined, sense.solve(combined, 0.01), images):
        assert bool((objective(sense, data, found, strength) < objective(sense, data, other, strength)).all())
    longer = total_variation(sense, combined, strength, (60, 5))
    best = objective(sense, data, longer, strength)
    assert bool((objective(sense, data, found, strength) < 1.05 * best).all())
    assert distance(found, longer) < 2e-3 and distance(found, images) < 0.3 * distance(combined, images)
    alone = total_variation(Sense(maps[None], sense.mask[1:]), combined[1:], strength)
    torch.testing.assert_close(alone[0], found[1], rtol=0, atol=1e-3)  # slices are problems of their own


def test_total_variation_takes_a_strength_for_each_slice() -> None:
    kspace, maps, _ = coil_scans(2, 4, 48, 40, noise=0.02)
    sense = Sense(maps[None], calibrated(40).expand(2, 48, 40))
    combined = sense.adjoint(kspace)
    found = total_variation(sense, combined, torch.tensor([0.002, 0.02])[:, None, None])
    for k, strength in enumerate((0.002, 0.02)):
        alone = total_variation(Sense(maps[None], sense.mask[:1]), combined[k : k + 1], strength)
        torch.testing.assert_close(found[k], alone[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("mask", [every_third(40), some_bins(48, 40)])
def test_total_variation_of_one_coil_is_the_first_guess(mask: Tensor) -> None:
    y = torch.where(mask, small_kspace(2, 48, 40), 0)
    sense = Sense(torch.ones(1, 1, 48, 40, dtype=torch.complex64), mask.expand(2, 48, 40))
    guess = first_guess(y, mask.expand(2, 48, 40), 0.004, 60)
    found = fft2c(total_variation(sense, ifft2c(y), 0.004, (60, 5)))
    assert distance(torch.where(mask, y, found), guess) < 1e-4
    assert distance(y, guess) > 0.01


@pytest.mark.parametrize("shape", [(16, 24), (19, 22)])
def test_guesses(model: HVAE, shape: tuple[int, int]) -> None:
    """By total variation, and by each U-Net, settled by the data; the problem's guess is the last."""
    problem = problem_of(model, shape)
    found = problem.guesses(model)
    assert len(found) == 4 and all(guess.shape == (2, *problem.padded) for guess in found)
    assert torch.equal(found[0], problem.kspace(problem.first))
    still, noisy = TV_STRENGTH
    expected = total_variation(problem.sense, problem.combined, (still + noisy * problem.noise)[:, None, None])
    torch.testing.assert_close(problem.first, expected, rtol=0, atol=1e-6)
    assert torch.equal(problem.guess(model), found[-1])
    for guess in found[1:]:
        changed = problem.make_consistent(guess) - guess  # one more step of data that have settled it moves it little
        assert float(changed.norm() / guess.norm()) < 0.05
    for number in range(8):
        seen = problem.view(number)
        torch.testing.assert_close(view(seen.guesses(model)[0], number), found[0], rtol=0, atol=1e-5)


def test_differences_are_circular_and_adjoint() -> None:
    image, d = white(2, 9, 7), torch.stack((white(2, 9, 7, seed=1), white(2, 9, 7, seed=2)))
    expected = torch.stack((image - image.roll(1, -2), image - image.roll(1, -1)))
    torch.testing.assert_close(variation._differences(image), expected)
    left, right = (expected.conj() * d).sum(), (image.conj() * variation._adjoint_differences(d)).sum()
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(variation._laplacian(image), variation._adjoint_differences(expected), rtol=0, atol=1e-5)

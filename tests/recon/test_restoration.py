"""Volumes of images: their operators, settings, slices that are left, batches, and what cannot be restored."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrihvae.errors import InputError
from mrihvae.model.hvae import HVAE
from mrihvae.physics.degradations import Blur, Inpainting, PaddedBlur, SuperResolution, denoising
from mrihvae.physics.kernels import gaussian_kernel, transfer_of
from mrihvae.physics.noise import estimate_noise
from mrihvae.physics.scaling import image_scale
from mrihvae.pnp.recommended import recommended
from mrihvae.pnp.restore import restore_images
from mrihvae.pnp.settings import PnPSettings
from mrihvae.recon import restoration
from mrihvae.recon.restoration import Degradation, RestorationJob, check_size, complete_settings, restore_volume
from mrihvae.utils import notices
from tests.support.small import SMALL, phantom, small_model

FILE, CPU = Path("a.nii"), torch.device("cpu")
KERNEL = gaussian_kernel(1.0)
FAST = {"iterations": 1, "views": 1, "precision": "float32"}
DENOISE = Degradation("denoise")


@pytest.fixture(scope="module")
def model() -> HVAE:
    return small_model(settings=dataclasses.replace(SMALL, degraded=True))


def job(
    model: HVAE, degradation: Degradation = DENOISE, noise: float | None = 5.0, batch_size: int = 8
) -> RestorationJob:
    return RestorationJob(model, degradation, noise, FAST, batch_size)


def stack(slices: int = 3) -> np.ndarray:
    """Draw noisy phantoms in some unit: float32 (slices, H, W)."""
    images = np.stack([phantom(24, 20, k) for k in range(slices)])
    white = np.random.default_rng(0).standard_normal(images.shape)
    return (100 * images + 5 * white).astype(np.float32)


def restore(
    values: np.ndarray, work: RestorationJob, known: np.ndarray | None = None
) -> tuple[restoration.RestoredVolume, list[int]]:
    counts: list[int] = []
    known = np.ones(values.shape, bool) if known is None else known
    return restore_volume(FILE, values, known, work, counts.append), counts


@pytest.mark.parametrize(
    ("degradation", "shape"),
    [
        (Degradation("inpaint"), (24, 20)),
        (Degradation("deblur", KERNEL), (24, 20)),
        (Degradation("deblur", KERNEL, boundary="zero"), (24, 20)),
        (Degradation("superresolve", KERNEL, 2), (24, 20)),
    ],
)
def test_operators_by_hand(degradation: Degradation, shape: tuple[int, int]) -> None:
    known = np.random.default_rng(0).random((2, *shape)) < 0.6
    fine = (shape[0] * degradation.factor, shape[1] * degradation.factor)
    expected = {
        "inpaint": Inpainting(torch.from_numpy(known)),
        "deblur": PaddedBlur(KERNEL) if degradation.boundary == "zero" else Blur(transfer_of(KERNEL, fine)),
        "superresolve": SuperResolution(transfer_of(KERNEL, fine), 2),
    }[degradation.task]
    operator, image = degradation.operator(shape, known, CPU), torch.randn(2, *fine)
    assert type(operator) is type(expected)
    assert torch.equal(operator.forward(image), expected.forward(image)) and operator.forward(image).shape[1:] == shape


def test_given_settings_replace_recommended_ones() -> None:
    usual = recommended("denoise", 0.05, "complete")
    found = complete_settings("denoise", 0.05, {"encoder": "complete", "gamma": 0.123})
    assert found == dataclasses.replace(usual, encoder="complete", gamma=0.123)
    with pytest.raises(
        InputError, match="restoration settings: unknown setting 'gama'; the nearest known one is 'gamma'"
    ):
        complete_settings("denoise", 0.05, {"gama": 1})


@pytest.mark.parametrize("result", ["decoded", "image"])
def test_a_volume_is_its_slices_in_one_unit(model: HVAE, result: str) -> None:
    """Noise is of all slices; over the middle one of their scales it chooses the settings."""
    values = stack()
    work = dataclasses.replace(job(model, noise=None), settings={**FAST, "result": result})
    found, counts = restore(values, work)
    noise = estimate_noise(values, np.ones(values.shape, bool))
    relative = noise / float(image_scale(torch.from_numpy(values)).median())  # type: ignore[operator]
    assert (found.noise, found.relative) == (noise, pytest.approx(relative))
    settings = complete_settings("denoise", relative, work.settings)
    assert found.settings == settings and settings.result == result and sum(counts) == 3
    theirs = restore_images(model, denoising(), torch.from_numpy(values), noise, settings)
    image = theirs.decoded if result == "decoded" else theirs.image
    np.testing.assert_array_equal(found.restored, image.numpy())
    np.testing.assert_array_equal(found.first, values)
    assert found.iterations == (1, 1, 1) and found.left == ()


def test_batches_make_no_difference(model: HVAE) -> None:
    (whole, _), (parts, counts) = (restore(stack(), job(model, batch_size=size)) for size in (8, 2))
    np.testing.assert_allclose(parts.restored, whole.restored, rtol=0, atol=1e-3)
    assert parts.iterations == whole.iterations and counts == [0, 2, 1]


def test_dark_and_constant_slices_are_left(model: HVAE) -> None:
    values = stack(4)
    values[1], values[3] = 0, 7.0
    found, counts = restore(values, job(model))
    assert found.left == (1, 3) and found.iterations == (1, 0, 1, 0) and counts == [2, 2]
    np.testing.assert_array_equal(found.restored[[1, 3]], values[[1, 3]])
    alone, _ = restore(values[[0, 2]], job(model))
    np.testing.assert_allclose(found.restored[[0, 2]], alone.restored, rtol=0, atol=1e-3)
    nothing, counts = restore(values[[1, 3]], job(model, noise=None))
    assert nothing.left == (0, 1) and counts == [2] and (nothing.noise, nothing.settings) == (None, None)


def test_slices_that_are_constant_where_they_are_known(model: HVAE) -> None:
    known = np.random.default_rng(0).random((2, 24, 20)) < 0.6
    values = stack(2) * known
    values[1] = 50.0 * known[1]
    found, _ = restore(values, job(model, Degradation("inpaint")), known)
    assert found.left == (1,)
    np.testing.assert_allclose(found.restored[1], 50.0, rtol=1e-5)  # its holes filled


def test_noise_that_cannot_be_estimated(model: HVAE) -> None:
    known = np.zeros((1, 24, 20), bool)
    known[:, ::2] = True  # no two rows
    with pytest.raises(
        InputError, match="a.nii: no block of 2 x 2 pixels is known, so noise cannot be estimated; give --n"
    ):
        restore(stack(1) * known, job(model, Degradation("inpaint"), None), known)


def test_record_is_all_but_the_images(model: HVAE) -> None:
    found, _ = restore(stack(1), job(model))
    record = found.record()
    fields = {field.name for field in dataclasses.fields(found)}
    assert record.keys() == fields - {"first", "restored"}
    assert record["settings"] == dataclasses.asdict(found.settings or PnPSettings()) and record["noise"] == 5.0


@pytest.mark.parametrize(
    ("degradation", "shape", "message"),
    [
        (DENOISE, (3, 40), "3 x 40 pixels are too few for these weights; at least 4 x 4"),
        (DENOISE, (5000, 5000), "5000 x 5000 pixels are too many for one slice; cut it into parts"),
        (Degradation("superresolve", KERNEL, 4), (2000, 1000), "8000 x 4000 pixels are too many"),
        (Degradation("deblur", torch.ones(9, 5)), (8, 20), "the kernel, 9 x 5, is larger than the image, 8 x 20; give"),
        (Degradation("deblur", torch.ones(5, 9)), (20, 8), "the kernel, 5 x 9, is larger than the image, 20 x 8"),
    ],
)
def test_sizes_that_do_not_fit(degradation: Degradation, shape: tuple[int, int], message: str, model: HVAE) -> None:
    with pytest.raises(InputError) as caught:
        check_size(FILE, shape, job(model, degradation))
    assert str(caught.value).startswith(f"a.nii: {message}")


@pytest.mark.parametrize(
    ("degradation", "shape"),
    [(DENOISE, (4, 4)), (DENOISE, (4096, 4096)), (Degradation("superresolve", torch.ones(9, 9), 3), (3, 3))],
)
def test_sizes_that_just_fit(degradation: Degradation, shape: tuple[int, int], model: HVAE) -> None:
    check_size(FILE, shape, job(model, degradation))


def test_warnings_of_the_loop_are_kept_once(model: HVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = restoration.restore_images

    def warn(*given: Any) -> Any:
        notices.warn("beware")
        return usual(*given)

    monkeypatch.setattr(restoration, "restore_images", warn)
    found, _ = restore(stack(2), job(model, batch_size=1))
    assert found.warnings == ("beware",)

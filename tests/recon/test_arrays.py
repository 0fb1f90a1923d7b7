"""`mrihvae.reconstruct`: arrays of any kind and axes in, the command's numbers out; every mistake is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import mrihvae
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.inference.settings import InferenceSettings
from mrihvae.recon.catalog import load_method, make_method
from mrihvae.recon.methods import HybridMethod
from mrihvae.recon.volumes import reconstruct_scan, sample_volume
from tests.support.small import every_third, small_kspace, small_model
from tests.support.small_coils import calibrated, coil_scans

SHAPE = (24, 40)
LINES = calibrated(40).numpy()


@pytest.fixture(scope="module")
def method() -> HybridMethod:
    found = make_method("hybrid", small_model(), InferenceSettings(precision="float32"))
    assert isinstance(found, HybridMethod)
    return found


def one_coil(slices: int = 2) -> np.ndarray:
    return small_kspace(slices, *SHAPE).numpy()


def several_coils(slices: int = 2) -> np.ndarray:
    return coil_scans(slices, 3, *SHAPE)[0].numpy()


def test_numbers_are_those_of_a_scan(method: HybridMethod) -> None:
    """Of one coil and of several, without and with samples."""
    for kspace, axes in ((one_coil(), "slice H W"), (several_coils(), None)):
        scan = Scan("a.h5", kspace)
        found = mrihvae.reconstruct(kspace, LINES, axes=axes, method=method)
        expected = reconstruct_scan(scan, LINES, method)
        np.testing.assert_array_equal(found.magnitude, expected.magnitude)
        assert found.image.shape == found.magnitude.shape and found.image.dtype == np.complex64
        assert found.std is None and found.samples is None and found.warnings == ()
        drawn = mrihvae.reconstruct(kspace, LINES, axes=axes, method=method, samples=3, seed=2)
        three = make_method("hybrid", method.model, method.inference, 3)
        wanted = sample_volume(scan, LINES, three, 2)
        for name in ("magnitude", "std", "samples"):
            np.testing.assert_array_equal(getattr(drawn, name), getattr(wanted, name))
        assert drawn.settings["samples"] == 3 and drawn.settings["seed"] == 2 and drawn.settings["sample_sweeps"] == 0


def test_image_is_that_of_the_magnitude(method: HybridMethod) -> None:
    found = mrihvae.reconstruct(one_coil(1)[0], LINES, method=method)
    np.testing.assert_allclose(np.abs(found.image), found.magnitude, rtol=1e-5)
    assert found.magnitude.shape == SHAPE


def test_a_slice_alone_is_that_of_its_volume(method: HybridMethod) -> None:
    kspace = several_coils()
    whole = mrihvae.reconstruct(kspace, LINES, method=method).magnitude
    alone = mrihvae.reconstruct(kspace[1], LINES, axes="coil H W", method=method).magnitude
    np.testing.assert_allclose(alone, whole[1], atol=1e-4 * whole.max())


def test_tensors_come_back_as_tensors(method: HybridMethod) -> None:
    kspace = torch.from_numpy(one_coil(1)[0]).to(torch.complex128)
    found = mrihvae.reconstruct(kspace.conj().resolve_conj().conj(), torch.from_numpy(LINES), method=method, samples=2)
    assert all(isinstance(getattr(found, name), torch.Tensor) for name in ("magnitude", "image", "std", "samples"))
    assert found.samples.shape == (2, *SHAPE) and found.magnitude.dtype == torch.float32
    plain = mrihvae.reconstruct(kspace.numpy(), LINES, method=method, samples=2)
    np.testing.assert_allclose(found.std.numpy(), plain.std, rtol=1e-4)


@pytest.mark.parametrize(
    "shape",
    [(40,), (1, 40), (24, 40), (1, 40, 1), (1, 1, 40, 1), (1, 1, 1, 40, 1), (1, 24, 40)],
)
def test_masks_of_any_shape(shape: tuple[int, ...]) -> None:
    lines = LINES.reshape([40 if size == 40 else 1 for size in shape])
    mask = np.broadcast_to(lines, shape)
    expected = mrihvae.reconstruct(one_coil(1)[0], LINES, method="zero-filled").magnitude
    for given in (mask, mask.astype(np.float32), torch.from_numpy(mask.copy())):
        found = mrihvae.reconstruct(one_coil(1)[0], given, method="zero-filled")
        np.testing.assert_array_equal(found.magnitude, expected)


def test_masks_of_fastmri_for_several_coils() -> None:
    kspace = several_coils()
    expected = mrihvae.reconstruct(kspace, LINES, method="zero-filled").magnitude
    for shape in ((1, 1, 40, 1), (1, 1, 1, 40, 1), (2, 1, 1, 40, 1)):
        mask = np.broadcast_to(LINES[:, None], shape)
        np.testing.assert_array_equal(mrihvae.reconstruct(kspace, mask, method="zero-filled").magnitude, expected)


def test_slices_may_have_masks_of_their_own(method: HybridMethod) -> None:
    kspace, other = one_coil(3), every_third(40).numpy() | LINES
    masks = np.stack([LINES, other, LINES])[:, None]
    found = mrihvae.reconstruct(kspace, masks, axes="slice H W", method=method).magnitude
    for k, lines in enumerate((LINES, other, LINES)):
        alone = mrihvae.reconstruct(kspace[k], lines, method=method).magnitude
        np.testing.assert_allclose(found[k], alone, atol=1e-4 * alone.max())


def test_without_a_mask_zeros_were_not_acquired(method: HybridMethod) -> None:
    kspace = one_coil(1)[0]
    found = mrihvae.reconstruct(np.where(LINES, kspace, 0), method=method)
    expected = mrihvae.reconstruct(kspace, LINES, method=method)
    np.testing.assert_array_equal(found.magnitude, expected.magnitude)
    whole = mrihvae.reconstruct(kspace, method="zero-filled")
    assert whole.warnings == ("k-space is fully sampled and there is no mask: there is nothing to reconstruct",)


def test_maps_of_ones_own(method: HybridMethod) -> None:
    kspace, maps, _ = coil_scans(2, 3, *SHAPE)
    with_maps = [
        mrihvae.reconstruct(kspace.numpy(), LINES, maps=given, method=method).magnitude
        for given in (maps.numpy(), maps[None].numpy(), maps.expand(2, -1, -1, -1).numpy(), maps)
    ]
    assert all(np.array_equal(one, with_maps[0]) for one in with_maps)
    assert not np.allclose(mrihvae.reconstruct(kspace.numpy(), LINES, method=method).magnitude, with_maps[0], rtol=1e-3)


def test_zero_filled_coils_stay_apart() -> None:
    kspace = several_coils()
    found = mrihvae.reconstruct(kspace, LINES, method="zero-filled")
    assert found.image.shape == kspace.shape and found.magnitude.shape == (2, *SHAPE)
    np.testing.assert_allclose(np.sqrt((np.abs(found.image) ** 2).sum(axis=1)), found.magnitude, rtol=1e-5)


def test_what_is_doubtful_is_said(method: HybridMethod) -> None:
    found = mrihvae.reconstruct(one_coil(1)[0], np.arange(40) % 3 == 0, method=method)
    assert found.warnings == ("the center of k-space was not acquired: contrast is not reliable",)


def test_settings_say_what_made_it() -> None:
    found = mrihvae.reconstruct(several_coils(), LINES, method="sense")
    assert found.settings["method"] == "sense" and found.settings["coils"]["maps"] == "fast"


def test_equal_slices_of_other_masks_have_samples_of_their_own(method: HybridMethod) -> None:
    kspace, other = np.repeat(one_coil(1), 2, axis=0), LINES.copy()
    other[1] = ~other[1]
    drawn = mrihvae.reconstruct(
        kspace, np.stack([LINES, other])[:, None], axes="slice H W", method=method, samples=2
    ).samples
    alike = mrihvae.reconstruct(kspace, LINES, axes="slice H W", method=method, samples=2).samples
    assert np.abs(drawn[0] - drawn[1]).max() > 0.5 * np.abs(alike[0] - alike[1]).max() > 0


def test_seed_of_the_mean_of_samples(method: HybridMethod) -> None:
    mean = make_method("samples", method.model, method.inference, samples=2)
    one, same, other = (
        mrihvae.reconstruct(one_coil(1)[0], LINES, method=mean, seed=seed).magnitude for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same) and not np.allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (LINES[1:], r"mask is of shape \(39,\); give a NumPy array"),
        (torch.from_numpy(LINES), "mask is Tensor; give a NumPy array"),
        (2 * LINES, "mask must hold only True and False"),
        (LINES[None, None], r"mask is of shape \(1, 1, 40\)"),
    ],
)
def test_masks_of_scans_are_checked(mask: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        reconstruct_scan(Scan("a.h5", one_coil()), mask, make_method("zero-filled"))
    whole = reconstruct_scan(Scan("a.h5", one_coil()), LINES.astype(np.uint8), make_method("zero-filled"))
    assert whole.magnitude.shape == (2, *SHAPE)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("hybrid", {"samples": "8"}, "samples is '8'"),
        ("hybrid", {"samples": 2.5}, "samples is 2.5"),
        ("hybrid", {"samples": 0}, "samples 0 must be at least 1"),
        ("hybrid", {"sample_sweeps": -1}, "sweeps -1 and beta 1.0 must be at least 0"),
        ("tv", {"strength": "x"}, "strength is 'x'"),
        ("tv", {"strength": -1.0}, "strength -1.0 must be above 0"),
        ("hybrid", {"coils": {"maps": "fast"}}, "coils is .*; give CoilSettings"),
    ],
)
def test_settings_of_methods_are_checked(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_method(name, **settings)


K, C = one_coil(1)[0], several_coils()
MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: mrihvae.reconstruct(C[0]), r"has three axes; say which: axes='slice H W' or axes='coil H W'"),
    (lambda: mrihvae.reconstruct(K, axes="coil H W"), "with axes 'coil H W': its axes must be one of 'H W', "),
    (lambda: mrihvae.reconstruct(C[0], axes="H W coil"), "with axes 'H W coil': its axes must be one of"),
    (lambda: mrihvae.reconstruct(C[0], axes=["coil", "H", "W"]), "its axes must be one of"),  # type: ignore[arg-type]
    (lambda: mrihvae.reconstruct(C[None]), r"k-space of shape \(1, 2, 3, 24, 40\): its axes must be one of"),
    (lambda: mrihvae.reconstruct(K[:, :1]), "H and W must be at least 2"),
    (lambda: mrihvae.reconstruct(K.real), r"k-space is float32 of shape \(24, 40\); give complex numbers$"),
    (lambda: mrihvae.reconstruct(np.stack([K.real, K.imag], -1)), "make pairs complex, such as by torch.view_as_compl"),
    (lambda: mrihvae.reconstruct([1, 2]), "k-space is list; give a NumPy array or a torch tensor"),  # type: ignore[arg-type]
    (lambda: mrihvae.reconstruct(np.where(LINES, np.nan, K)), "k-space holds NaN or infinite values"),
    (lambda: mrihvae.reconstruct(1e39 * K.astype(complex)), "too large for single precision"),
    (lambda: mrihvae.reconstruct(0 * K), "k-space is zero everywhere; there is nothing to reconstruct from"),
    (lambda: mrihvae.reconstruct(K, LINES[1:]), r"mask of shape \(39,\) does not fit k-space of \(24, 40\)"),
    (lambda: mrihvae.reconstruct(K, 2 * LINES), "mask must hold only True and False, or 1 and 0"),
    (lambda: mrihvae.reconstruct(K, 0 * LINES), "mask is False everywhere in slice 0"),
    (lambda: mrihvae.reconstruct(C, C[:, :1] != C), "differs between coils; all coils must have the same"),
    (
        lambda: mrihvae.reconstruct(C[0, :, :, 8:32], LINES[8:32].reshape(1, 24, 1), axes="coil H W"),
        r"mask of shape \(1, 24, 1\) may mark lines along H or along W; give \(W,\), \(H, 1\) or \(H, W\)",
    ),
    (lambda: mrihvae.reconstruct(K, LINES, maps=C), "maps need several coils; give k-space with a coil axis"),
    (lambda: mrihvae.reconstruct(C, LINES, maps=C[:, :2]), r"maps of shape \(2, 2, 24, 40\) do not fit k-space"),
    (lambda: mrihvae.reconstruct(C, LINES, maps=np.nan * C), "maps hold NaN or infinite values"),
    (lambda: mrihvae.reconstruct(K, LINES, method="magic"), "method 'magic' is unknown; choose one of hybrid"),
    (lambda: mrihvae.reconstruct(K, LINES, method="tv", samples=2), "method 'tv' does not support posterior sampling"),
    (lambda: mrihvae.reconstruct(K, LINES, samples=1), "samples is 1; give 0 for none, or at least 2"),
    (lambda: mrihvae.reconstruct(K, LINES, samples=-1), "samples is -1"),
    (lambda: mrihvae.reconstruct(K, LINES, samples=2.5), "samples is 2.5"),  # type: ignore[arg-type]
    (lambda: mrihvae.reconstruct(K, LINES, samples=2, seed=-1), "seed is -1; give a whole number"),
    (lambda: mrihvae.reconstruct(K, LINES, method=None), "method is None; give a name"),  # type: ignore[arg-type]
    (
        lambda: mrihvae.reconstruct(K, LINES, method=make_method("tv"), weights="x"),
        "the loaded method already has weights",
    ),
    (lambda: mrihvae.reconstruct(K, LINES, weights="nowhere"), "nowhere: neither shipped weights"),
    (
        lambda: mrihvae.reconstruct(C, np.arange(40) == 20, method="sense"),
        "around the center of k-space is only 24 x 1",
    ),
]


@pytest.mark.parametrize(("call", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)

"""The module that stands in for fastMRI's VarNet: in its inference loop, call by call, and what is refused."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastmri
import nibabel
import numpy as np
import pytest
import torch
from fastmri.data import SliceDataset
from fastmri.data.subsample import create_mask_for_mask_type
from fastmri.data.transforms import VarNetDataTransform, center_crop
from fastmri.evaluate import METRIC_FUNCS, evaluate
from fastmri.models import VarNet
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mrihvae.coils.espirit import fast_maps
from mrihvae.coils.map_refinement import refined_maps
from mrihvae.coils.settings import CoilSettings
from mrihvae.errors import InputError
from mrihvae.inference.reconstruct import reconstruct, sample
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.io.fastmri import read_scan
from mrihvae.io.hdf5 import read_dataset
from mrihvae.model.hvae import HVAE
from mrihvae.model.weights import load_model, save_weights
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.catalog import make_method
from mrihvae.recon.methods import HybridMethod
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume
from mrihvae.reconstructor import Reconstructor
from mrihvae.simulation.files import image_groups, simulate_file, undersample_file
from mrihvae.simulation.settings import ScannerSettings
from mrihvae.utils.config import with_settings
from tests.support.files import complex_normal, header, write_scan
from tests.support.small import SMALL, phantom, small_kspace, small_model
from tests.support.small_coils import calibrated, coil_scans, some_bins

SHORT = InferenceSettings(views=2, rounds=1, precision="float32", refinement=RefinementSettings(sweeps=0))
FULL = InferenceSettings(views=2, rounds=2, precision="float32", refinement=RefinementSettings(sweeps=1))
FOURFOLD = Undersampling("random", 4, 0.16)


def module_of(
    model: HVAE, settings: InferenceSettings | None = None, name: str = "hybrid", coils: CoilSettings | None = None
) -> Reconstructor:
    return Reconstructor(make_method(name, model, settings, coils=coils or CoilSettings()))


def hybrid(module: Reconstructor) -> HybridMethod:
    assert isinstance(module.method, HybridMethod)
    return module.method


@pytest.fixture(scope="module")
def ours() -> Iterator[Reconstructor]:
    yield module_of(small_model(), SHORT).eval()


@pytest.fixture(scope="module")
def varnet() -> Iterator[nn.Module]:
    torch.manual_seed(0)
    yield VarNet(num_cascades=1, sens_chans=2, sens_pools=2, chans=2, pools=2).eval()


def batch_of(
    batch: int = 2, coils: int = 3, height: int = 24, width: int = 20, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Make what fastMRI's loader gives: masked k-space (batch, coils, H, W, 2), mask (batch, 1, 1 or H, W, 1)."""
    lines = calibrated(width) if mask is None else mask
    kspace = torch.where(lines, coil_scans(batch, coils, height, width)[0], 0)
    shape = (1, 1, 1, width, 1) if lines.ndim == 1 else (1, 1, *lines.shape, 1)
    return torch.view_as_real(kspace) + 0.0, lines.view(shape).expand(batch, -1, -1, -1, -1)


def one_coil(kspace: Tensor) -> Tensor:
    return torch.view_as_complex(kspace)[:, 0]


# --- fastMRI's inference, with either model --------------------------------------------------------------------------


def simulated(folder: Path, coils: int = 4, matrix: int = 61, slices: int = 2) -> Path:
    """Write a complete scan below `val` and what fastMRI's test files hold of it below `test`."""
    (folder / "images").mkdir(parents=True)
    images = np.stack([phantom(70, 66, k) for k in range(slices)], axis=-1)
    nibabel.save(nibabel.Nifti1Image(images, np.eye(4)), folder / "images" / "head.nii.gz")
    (group,) = image_groups(folder / "images")
    path = folder / "val" / "head.h5"
    assert simulate_file(group, path, ScannerSettings(coils=coils, matrix=matrix, noise=0.005)) == slices
    undersample_file(path, folder / "test" / "head.h5", FOURFOLD)
    return folder


def run_varnet(
    model: nn.Module, dataset: SliceDataset, folder: Path, gradients: bool = False, low: bool = False
) -> None:
    """Reconstruct a folder as fastMRI's script for VarNet does: batch by batch, crop, gather by file, save.

    With `low` the model is told the number of central lines, as fastMRI's LightningModule does.
    """
    outputs: dict[str, list[tuple[int, np.ndarray]]] = {}
    for batch in DataLoader(dataset):
        with torch.set_grad_enabled(gradients):
            output = model(batch.masked_kspace, batch.mask, *([batch.num_low_frequencies] if low else [])).cpu()
        crop_size = batch.crop_size
        if output.shape[-1] < crop_size[1]:
            crop_size = (output.shape[-1], output.shape[-1])
        image = center_crop(output, crop_size)[0]
        outputs.setdefault(batch.fname[0], []).append((int(batch.slice_num[0]), image.detach().numpy()))
    volumes = {name: np.stack([image for _, image in sorted(slices)]) for name, slices in outputs.items()}
    fastmri.save_reconstructions(volumes, folder)


def scores(target: Path, folder: Path, key: str = "reconstruction_rss") -> dict[str, float]:
    arguments = argparse.Namespace(
        target_path=target, predictions_path=folder, acquisition=None, acceleration=None, challenge="multicoil"
    )
    means = evaluate(arguments, key).means()
    return {name: float(np.squeeze(value)) for name, value in means.items()}


@pytest.mark.parametrize("name", ["ours", "varnet"])
@pytest.mark.parametrize("kind", ["val", "test"])
def test_stands_in_for_varnet_in_its_inference(
    name: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Nothing but the model differs; files are complete, with fastMRI's mask drawn for them, or masked already."""
    model = request.getfixturevalue(name)
    simulated(tmp_path)
    mask = create_mask_for_mask_type("random", [0.16], [4]) if kind == "val" else None
    dataset = SliceDataset(tmp_path / kind, "multicoil", VarNetDataTransform(mask_func=mask))
    run_varnet(model, dataset, tmp_path / "reconstructions")
    volume = read_dataset(tmp_path / "reconstructions" / "head.h5", "reconstruction")
    target = read_dataset(tmp_path / "val" / "head.h5", "reconstruction_rss")
    assert volume.shape == target.shape == (2, 61, 61) and volume.dtype == np.float32
    found = scores(tmp_path / "val", tmp_path / "reconstructions")
    assert set(found) == set(METRIC_FUNCS) and all(np.isfinite(value) for value in found.values())
    run_varnet(model, dataset, tmp_path / "again", gradients=True)
    again = read_dataset(tmp_path / "again" / "head.h5", "reconstruction")
    np.testing.assert_allclose(again, volume, rtol=0, atol=1e-5 * float(volume.max()))
    run_varnet(model, dataset, tmp_path / "low", low=True)
    told = read_dataset(tmp_path / "low" / "head.h5", "reconstruction")
    assert np.linalg.norm(told - volume) < 0.1 * np.linalg.norm(volume)
    if name == "ours":  # in the scale of the file, and what `mrihvae reconstruct` gives
        assert found["NMSE"] < 0.2 and found["SSIM"] > 0.5
        scan = read_scan(tmp_path / kind / "head.h5")
        lines = mask_of(scan, FOURFOLD if kind == "val" else None)
        by_volume = reconstruct_volume(scan, lines, model.method)
        np.testing.assert_allclose(volume, by_volume, rtol=0, atol=1e-4 * float(volume.max()))


@pytest.mark.parametrize("kind", ["val", "test"])
def test_default_weights_lower_the_error_of_a_single_coil(kind: str, tmp_path: Path) -> None:
    """Of fastMRI's challenge of that name, whose loader gives k-space without a coil axis."""
    model = Reconstructor.from_pretrained("default")
    simulated(tmp_path, coils=1, matrix=64)
    mask = create_mask_for_mask_type("random", [0.16], [4]) if kind == "val" else None
    dataset = SliceDataset(tmp_path / kind, "singlecoil", VarNetDataTransform(mask_func=mask))
    run_varnet(model, dataset, tmp_path / "reconstructions")
    run_varnet(ZeroFilled(), dataset, tmp_path / "zero")
    found, zero = (
        scores(tmp_path / "val", tmp_path / folder, "reconstruction_esc") for folder in ("reconstructions", "zero")
    )
    assert found["PSNR"] > zero["PSNR"] + 5 and found["SSIM"] > zero["SSIM"] + 0.1


class ZeroFilled(nn.Module):
    """The least that a model can do."""

    def forward(self, masked_kspace: Tensor, mask: Tensor) -> Tensor:
        images = fastmri.complex_abs(fastmri.ifft2c(masked_kspace))
        return images if images.ndim == 3 else fastmri.rss(images, dim=1)


@pytest.mark.parametrize(("coils", "challenge"), [(1, "singlecoil"), (1, "multicoil"), (3, "multicoil")])
@pytest.mark.parametrize("stored", [False, True])
def test_files_with_lines_that_were_not_encoded(
    ours: Reconstructor, coils: int, challenge: str, stored: bool, tmp_path: Path
) -> None:
    """fastMRI's transform of stored masks empties those of one coil then; zeros in the data tell what was measured."""
    shape = (2, 45, 37) if challenge == "singlecoil" else (2, coils, 45, 37)
    lines = calibrated(37, 9)
    kspace = np.array(coil_scans(2, coils, 45, 37)[0].numpy().reshape(shape))
    kspace[..., :3] = kspace[..., 33:] = 0
    changes: dict[str, Any] = {"kspace": kspace}
    if stored:
        changes = {"kspace": np.where(lines, kspace, 0), "mask": lines.numpy(), "reconstruction_rss": None}
        changes |= {"reconstruction_esc": None}
    write_scan(
        tmp_path / "files" / "file1.h5",
        shape,
        ismrmrd_header=header(45, 37, 15, 29),
        attributes={"max": 1.0},
        **changes,
    )
    mask = None if stored else create_mask_for_mask_type("random", [0.2], [3])
    dataset = SliceDataset(tmp_path / "files", challenge, VarNetDataTransform(mask_func=mask))
    run_varnet(ours, dataset, tmp_path / "reconstructions")
    volume = read_dataset(tmp_path / "reconstructions" / "file1.h5", "reconstruction")
    assert volume.shape == (2, 45, 37) and np.isfinite(volume).all() and volume.max() > 0.1
    if stored and challenge == "singlecoil":
        sample = dataset[0]
        assert not sample.mask.any()
        measured = lines & (torch.arange(37) >= 3) & (torch.arange(37) < 33)
        direct = ours(sample.masked_kspace[None, None], measured.view(1, 1, 1, 37, 1))
        np.testing.assert_array_equal(volume[0], direct[0].numpy())


# --- call by call ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ours", "varnet"])
@pytest.mark.parametrize("size", [(24, 20), (61, 45), (33, 70)])
@pytest.mark.parametrize("low", [None, 0, 8])
def test_called_as_varnet_is(name: str, size: tuple[int, int], low: int | None, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    kspace, mask = batch_of(2, 3, *size)
    before = kspace.clone(), mask.clone()
    with torch.no_grad():
        found = model(kspace, mask) if low is None else model(kspace, mask, low)
    assert found.shape == (2, *size) and found.dtype == torch.float32
    assert bool((found >= 0).all()) and bool(torch.isfinite(found).all())
    assert torch.equal(kspace, before[0]) and torch.equal(mask, before[1])


@pytest.mark.parametrize(
    ("output", "coils", "size"),
    [("rss", 1, (61, 45)), ("rss", 3, (61, 45)), ("rss", 3, (24, 20)), ("combined", 3, (24, 20))],
)
def test_scale(output: str, coils: int, size: tuple[int, int]) -> None:
    model = module_of(small_model(), FULL, coils=CoilSettings(output=output))
    kspace, mask = batch_of(1, coils, *size)
    found = model(kspace, mask)
    assert torch.equal(model(kspace, mask), found)  # not left to chance
    for factor in (2.0, 2.0**-20):
        torch.testing.assert_close(model(factor * kspace, mask) / factor, found, rtol=0, atol=1e-6 * float(found.max()))
    for factor in (1e-8, 1e-4, 1e4):  # the data are rounded anew
        other = model(factor * kspace, mask) / factor
        assert float((other - found).norm() / found.norm()) < 1e-5


@pytest.mark.parametrize("coils", [1, 3])
def test_slices_of_a_batch_do_not_meet(ours: Reconstructor, coils: int) -> None:
    """Neither their masks nor their scales."""
    kspace, _ = batch_of(3, coils, 24, 40)
    kspace = kspace * torch.tensor([1.0, 1e-4, 50.0]).view(3, 1, 1, 1, 1)
    masks = torch.stack([calibrated(40), calibrated(40, 12), calibrated(40).roll(3)]).view(3, 1, 1, 40, 1)
    masks[2, ..., 14:24, :] = True
    together = ours(kspace * masks, masks)
    for k in range(3):
        alone = ours((kspace * masks)[k : k + 1], masks[k : k + 1])
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-5 * float(alone.max()))


@pytest.mark.parametrize("coils", [1, 3])
def test_lines_along_the_height_and_patterns(coils: int) -> None:
    model = module_of(small_model(), FULL)
    kspace, mask = batch_of(1, coils, 24, 40)
    found = model(kspace, mask)
    turned = model(kspace.transpose(2, 3), mask.transpose(2, 3))
    torch.testing.assert_close(turned, found.mT, rtol=0, atol=1e-4 * float(found.max()))
    whole = model(kspace, mask.expand(-1, 1, 24, -1, 1))
    assert torch.equal(whole, found)
    bins = some_bins(24, 40)
    kspace, mask = batch_of(1, coils, 24, 40, bins)
    assert model(kspace, mask).shape == (1, 24, 40)


def test_one_coil_is_the_single_coil_path(ours: Reconstructor) -> None:
    kspace, mask = batch_of(2, 1, 33, 45)
    expected = reconstruct(ours.model, one_coil(kspace), calibrated(45), None, SHORT).abs()
    assert torch.equal(ours(kspace, mask), expected)
    assert torch.equal(ours(kspace[:, 0], mask[:, 0]), expected)  # (batch, H, W, 2), as fastMRI's single-coil loader
    assert torch.equal(ours(kspace[:, 0], mask), expected)
    assert torch.equal(ours(kspace, mask.float()), expected)  # fastMRI's masks may be of floats


@pytest.mark.parametrize("coils", [3, 8])
def test_several_coils_by_hand(ours: Reconstructor, coils: int) -> None:
    """Maps of the calibration lines, or refined ones, inference, measured k-space put in, root-sum-of-squares."""
    pairs, mask = batch_of(1, coils, 48, 40)
    kspace, lines = torch.view_as_complex(pairs), calibrated(40)
    maps = fast_maps(kspace[0, :, 12:36, 16:24], (48, 40))
    if coils == 8:  # for as many the lines are few
        pattern = lines.expand(48, 40)
        low = torch.zeros_like(pattern)
        low[:, 16:24] = True
        maps = refined_maps(kspace[0], low, pattern, fast_maps, CoilSettings().refine_maps)
        low_given = ours(pairs, mask, 8)
        assert torch.equal(low_given, ours(pairs, mask))
    image = reconstruct(ours.model, kspace, lines, maps[None], SHORT)
    completed = torch.where(lines, kspace, fft2c(maps * image[:, None]))
    expected = ifft2c(completed).abs().square().sum(dim=1).sqrt()
    torch.testing.assert_close(ours(pairs, mask), expected, rtol=0, atol=1e-5)
    combined = module_of(ours.model, SHORT, coils=CoilSettings(output="combined"))
    torch.testing.assert_close(combined(pairs, mask), image.abs(), rtol=0, atol=1e-5)


def test_number_of_low_frequencies(ours: Reconstructor) -> None:
    """As found in the mask, or fewer; more than are there count as those that are; loaders make tensors of them."""
    kspace, mask = batch_of(2, 3, 48, 40)
    found = ours(kspace, mask)
    for low in (0, 8, 12, 1000, torch.tensor([8]), torch.tensor([8, 8]), torch.tensor(0), torch.zeros(2).long()):
        assert torch.equal(ours(kspace, mask, low), found), low
    fewer = ours(kspace, mask, 5)
    assert not torch.equal(fewer, found)
    each = ours(kspace, mask, torch.tensor([8, 5]))
    torch.testing.assert_close(each, torch.stack([found[0], fewer[1]]), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="around the center of k-space is only 48 x 3"):
        ours(kspace, mask, 3)
    single, lines = batch_of(1, 1)
    assert torch.equal(ours(single, lines, 1), ours(single, lines))  # of one coil no maps are estimated


def test_what_was_not_measured_counts_nothing(ours: Reconstructor) -> None:
    for coils in (1, 3):
        kspace, mask = batch_of(1, coils)
        spoiled = torch.where(mask, kspace, torch.tensor(3.0))
        torch.testing.assert_close(ours(spoiled, mask), ours(kspace, mask), rtol=0, atol=1e-6)


def test_empty_slices_stay_empty(ours: Reconstructor) -> None:
    for coils in (1, 3):
        kspace, mask = batch_of(2, coils)
        kspace[1] = 0
        found = ours(kspace, mask)
        assert not found[1].any() and bool(found[0].any())


def test_a_silent_coil_is_left_out(ours: Reconstructor) -> None:
    kspace, mask = batch_of(1, 4)
    silent = torch.cat((kspace[:, :2], torch.zeros_like(kspace[:, :1]), kspace[:, 2:]), dim=1)
    found, expected = ours(silent, mask), ours(kspace, mask)
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.max()))


def test_samples_are_drawn_by_seed() -> None:
    kspace, mask = batch_of(2, 3)
    method = make_method("samples", small_model(), SHORT, samples=3)
    one, same, other = (Reconstructor(method, seed=seed)(kspace, mask) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.allclose(one, other, atol=1e-4)
    alone = Reconstructor(method, seed=1)(kspace[1:], mask[1:])
    torch.testing.assert_close(alone[0], one[1], rtol=0, atol=1e-5)
    single, lines = batch_of(1, 1)
    model = Reconstructor(method, seed=4)
    drawn = sample(model.model, one_coil(single), calibrated(20), 3, None, SHORT, seed=4)
    torch.testing.assert_close(model(single, lines), drawn.mean(dim=0).abs(), rtol=0, atol=1e-6)


def test_methods() -> None:
    """ "amortized" is one look, whatever else the solver says."""
    model = small_model()
    for coils in (1, 3):
        kspace, mask = batch_of(1, coils)
        look = module_of(model, FULL, "amortized")(kspace, mask)
        one = module_of(model, with_settings(FULL, views=1, rounds=1, sweeps=0))(kspace, mask)
        assert torch.equal(look, one) and not torch.equal(look, module_of(model, FULL)(kspace, mask))


# --- as a module -----------------------------------------------------------------------------------------------------


def test_state_dict_round_trip(ours: Reconstructor, tmp_path: Path) -> None:
    torch.save(ours.state_dict(), tmp_path / "model.pt")
    other = module_of(small_model(seed=1), SHORT)
    kspace, mask = batch_of()
    assert not torch.equal(other(kspace, mask), ours(kspace, mask))
    other.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert torch.equal(other(kspace, mask), ours(kspace, mask))


def test_gradients_are_not_tracked(ours: Reconstructor) -> None:
    for coils in (1, 3):
        kspace, mask = batch_of(1, coils)
        found = ours(kspace.requires_grad_(), mask)
        assert not found.requires_grad
    assert ours.train()(kspace, mask).equal(ours.eval()(kspace, mask))


# --- loaded ----------------------------------------------------------------------------------------------------------


def test_default_weights() -> None:
    model = Reconstructor.from_pretrained()
    own = load_model("default").state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.model.state_dict().items())
    assert model.method.name == "hybrid" and model.method.coils == CoilSettings() and model.seed == 0
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_weights_of_ones_own_and_a_protocol(tmp_path: Path) -> None:
    save_weights(tmp_path / "own.safetensors", small_model(), {"spread": 1.25})
    path = str(tmp_path / "own.safetensors")
    plain = Reconstructor.from_pretrained(path)
    assert hybrid(plain).inference == InferenceSettings(spread=1.25)
    protocol = tmp_path / "own.toml"
    protocol.write_text(
        f"""challenge = "multicoil"
data = "none"
weights = "{path}"
seed = 3
[mask]
type = "random"
acceleration = 4
center_fraction = 0.08
[solver]
method = "samples"
samples = 2
views = 1
[coils]
output = "combined"
crop = 0.2
"""
    )
    model = Reconstructor.from_pretrained(protocol=protocol)
    assert model.method.name == "samples" and hybrid(model).samples == 2
    assert hybrid(model).inference == InferenceSettings(views=1, spread=1.25)
    assert model.method.coils == CoilSettings(output="combined", crop=0.2) and model.seed == 3
    assert model.model.settings == SMALL
    kspace, mask = batch_of(1)
    assert torch.equal(model(kspace, mask), Reconstructor.from_pretrained(path, protocol)(kspace, mask))
    protocol.write_text(protocol.read_text().replace('output = "combined"', "compress = 8"))
    with pytest.raises(
        InputError, match="whiten and compress only apply to volumes: use `mrihvae run`, or leave them out"
    ):
        Reconstructor.from_pretrained(path, protocol)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere: neither shipped weights"),
        (("default", "nowhere"), "nowhere: neither a protocol of the package"),
        ((None, "pnp_temperature"), "is the protocol of a benchmark; run"),
        (("default", None, "warp"), "--device warp: cannot be used"),
    ],
)
def test_what_cannot_be_loaded(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Reconstructor.from_pretrained(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["pnp", "zero-filled", "sense", "wavelet", "tv"])
def test_methods_that_are_no_modules(method: str) -> None:
    with pytest.raises(InputError, match=f"method '{method}' is not supported here; choose one of hybrid, amort"):
        Reconstructor(make_method(method, small_model()))


@pytest.mark.parametrize("settings", [CoilSettings(whiten=True), CoilSettings(compress=4)])
def test_settings_that_are_of_volumes(settings: CoilSettings) -> None:
    with pytest.raises(InputError, match="whiten and compress only apply to volumes"):
        module_of(small_model(), coils=settings)


def spoiled(kspace: Tensor, value: float) -> Tensor:
    kspace = kspace.clone()
    kspace[0, 0, 3, 10, 1] = value
    return kspace


REFUSED: list[tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], str]] = [
    (lambda k, m: (spoiled(k, float("nan")), m), "masked_kspace holds NaN or infinite values; export the scan again"),
    (lambda k, m: (spoiled(k, float("inf")), m), "masked_kspace holds NaN or infinite values"),
    (lambda k, m: (k[0, 0], m), r"masked_kspace is torch.float32 of shape \(24, 20, 2\); give float32 \(batch, coils,"),
    (lambda k, m: (k[..., :1], m), r"masked_kspace is torch.float32 of shape \(2, 3, 24, 20, 1\); give"),
    (lambda k, m: (torch.view_as_complex(k), m), r"masked_kspace is torch.complex64 of shape \(2, 1, 3, 24, 20\)"),
    (lambda k, m: (k.long(), m), r"masked_kspace is torch.int64 of shape"),
    (lambda k, m: (k, m[..., 1:, :]), r"mask of shape \(2, 1, 1, 19, 1\) does not fit k-space of \(2, 3, 24, 20, 2\)"),
    (lambda k, m: (k, m[0, 0]), r"mask of shape \(1, 20, 1\) does not fit k-space of"),
    (lambda k, m: (k, m.expand(-1, 3, -1, -1, -1)), r"mask of shape \(2, 3, 1, 20, 1\) does not fit"),
    (lambda k, m: (k, m[[0, 0, 0]]), r"mask of shape \(3, 1, 1, 20, 1\) does not fit"),
    (
        lambda k, m: (k, (torch.arange(20) == 10).view(1, 1, 1, 20, 1)),
        "around the center of k-space is only 24 x 1",
    ),
    (lambda k, m: (k, m & (torch.arange(20) < 8).view(20, 1)), "around the center of k-space is only 0 x 0"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED)
def test_refused(ours: Reconstructor, spoil: Callable[..., tuple[Tensor, Tensor]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ours(*spoil(*batch_of()))


def test_one_line_of_one_coil_is_enough(ours: Reconstructor) -> None:
    """However little can be said of it."""
    kspace = torch.view_as_real(torch.where(torch.arange(20) == 10, small_kspace(1, 24, 20), 0))[:, None]
    found = ours(kspace, (torch.arange(20) == 10).view(1, 1, 1, 20, 1))
    assert bool(torch.isfinite(found).all()) and bool(found.any())


def test_noise_alone(ours: Reconstructor) -> None:
    """Coils that agree on nothing: maps are of noise, and the result is finite."""
    kspace = torch.view_as_real(torch.where(calibrated(20), torch.from_numpy(complex_normal((1, 4, 24, 20))), 0))
    assert bool(torch.isfinite(ours(kspace, calibrated(20).view(1, 1, 1, 20, 1))).all())

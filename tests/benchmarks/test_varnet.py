"""fastMRI's variational network as a peer: simulated coils, any size, training that goes on, weights on disk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from numpy.random import Generator

from benchmarks.peers import varnet
from benchmarks.peers.varnet import TrainedVarNet, VarNetRun, VarNetSettings
from mrihvae.errors import InputError
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.sampling import sampling_pattern
from mrihvae.simulation.coil_fields import random_fields
from mrihvae.training.run import TrainSettings
from tests.support.files import truncate
from tests.support.small import phantom

TINY = VarNetSettings(cascades=2, chans=2, sens_chans=2, pools=2, minutes=0.05, learning_rate=0.01, warmup=1)


class Phantoms:
    """A source of magnitude images."""

    def draw(self, count: int, rng: Generator) -> list[tuple[np.ndarray, bool]]:
        return [(phantom(64, 64, int(rng.integers(9))), False)] * count


class Raw:
    """A source of raw k-space."""

    def draw(self, count: int, rng: Generator) -> list[tuple[np.ndarray, bool]]:
        return [(phantom(32, 32).astype(np.complex64), True)] * count


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    small = TrainSettings(shapes=((48, 48), (48, 40)))
    monkeypatch.setattr(varnet, "TrainSettings", lambda: small)


def network(settings: VarNetSettings = TINY) -> TrainedVarNet:
    torch.manual_seed(0)
    return TrainedVarNet(varnet.build(settings).eval(), settings, "abc")


def scan(shape: tuple[int, int], coils: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Make measured k-space (coils, H, W) of a phantom, and its mask (H, W)."""
    fields = random_fields(shape, coils, np.random.default_rng(0))
    mask = sampling_pattern("random", shape, 3, 0.2, 0)
    return np.where(mask, fft2c(fields * torch.from_numpy(phantom(*shape))).numpy(), 0), mask


@pytest.mark.parametrize("shape", [(48, 48), (45, 38)])
def test_any_size_and_scale(shape: tuple[int, int]) -> None:
    kspace, mask = scan(shape)
    image = varnet.reconstruct(network(), 1e-4 * kspace, mask)
    assert image.shape == shape and image.dtype == np.float32
    twice = varnet.reconstruct(network(), 2e-4 * kspace, mask)
    np.testing.assert_allclose(twice, 2 * image, rtol=1e-4, atol=1e-5 * image.max())
    turned = varnet.reconstruct(network(), 1e-4 * kspace.swapaxes(1, 2), mask.T)
    np.testing.assert_allclose(turned, image.T, rtol=1e-5, atol=1e-6 * image.max())


def test_it_is_fastmris_network_with_the_lines_of_the_mask() -> None:
    kspace = torch.from_numpy(scan((40, 40))[0])
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, measured: torch.Tensor, mask: torch.Tensor, lines: int) -> torch.Tensor:
            seen.append((tuple(measured.shape), tuple(mask.shape), lines))
            return measured[:, 0, ..., 0]

    for measured, lines in ((slice(16, 24), 8), (slice(40), 40), (slice(0), 1)):
        mask = torch.zeros(40, 40, dtype=torch.bool)
        mask[:, measured] = True
        varnet.apply(Spy(), kspace, mask)
        assert seen[-1] == ((1, 3, 40, 40, 2), (1, 1, 40, 40, 1), lines)


def test_scans_are_complete_root_sums_of_squares_and_repeat() -> None:
    accelerations, coils, widths = set(), set(), set()
    for step in range(12):
        measured, mask, target = varnet.scan_of_step(Phantoms(), TINY, step)
        again = varnet.scan_of_step(Phantoms(), TINY, step)
        assert all(torch.equal(a, b) for a, b in zip(again, (measured, mask, target)))
        assert target.shape == mask.shape == measured.shape[1:] and (mask == mask[:1]).all()
        assert not measured[:, ~mask].any()
        zero_filled = varnet.combined(measured)
        assert float(torch.quantile(zero_filled, 0.99)) == pytest.approx(1, abs=1e-5)
        assert float(target.square().sum()) > float(measured.abs().square().sum())  # it holds all of k-space
        coils.add(len(measured))
        widths.add(mask.shape[1])
        accelerations.add(round(mask.shape[1] * 0.32 / varnet.calibration_box(mask)[1]) > 5)
    assert coils <= set(range(4, 13)) and len(coils) > 3
    assert accelerations == {True, False} and widths == {40, 48}


def test_coils_have_independent_noise_of_one_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varnet, "NOISE", (100.0, 100.0))  # drowns the image
    settings = dataclasses.replace(TINY, accelerations=(1,), calibration=1.0)
    for step in range(5):
        measured, _, _ = varnet.scan_of_step(Phantoms(), settings, step)
        flat = measured.flatten(1)
        covariance = flat @ flat.mH / flat.shape[1]
        power = covariance.diagonal().real
        np.testing.assert_allclose(power / power.mean(), 1, atol=0.15)
        assert float((covariance / power.mean() - torch.eye(len(power))).abs().max()) < 0.2


def test_losses_by_name() -> None:
    target = torch.from_numpy(phantom(48, 48)).abs()
    image = 1.1 * target
    ssim, l1, both = (float(varnet.loss_of(name, image, target)) for name in varnet.LOSSES)
    assert l1 == pytest.approx(0.1, rel=1e-5) and both == pytest.approx(ssim + l1, rel=1e-6) and 0 < ssim < 0.1
    with pytest.raises(ValueError, match="loss 'l2' is unknown; choose one of ssim, l1"):
        VarNetSettings(loss="l2")


def test_raw_kspace_is_refused() -> None:
    with pytest.raises(InputError, match="leave raw k-space out"):
        varnet.scan_of_step(Raw(), TINY, 0)


def test_training_lowers_the_loss_and_goes_on(tmp_path: Path) -> None:
    run = VarNetRun.new(TINY, "cpu")
    batch = varnet.scan_of_step(Phantoms(), TINY, 0)
    losses = [varnet.train_step(run, *batch) for _ in range(15)]
    assert losses[-1] < 0.97 * losses[0]
    run.log.append({"step": 15, "loss": 0.5})
    varnet.save_run(run, tmp_path, {"data": "phantoms"})
    resumed = varnet.load_run(tmp_path, "cpu")
    assert (resumed.step, resumed.settings, resumed.log) == (15, TINY, run.log)
    assert varnet.train_step(resumed, *batch) == varnet.train_step(run, *batch)
    assert all(torch.equal(a, b) for a, b in zip(resumed.net.parameters(), run.net.parameters()))
    loaded = varnet.load_varnet(tmp_path / "weights.safetensors")
    card = json.loads((tmp_path / "weights.json").read_text())
    assert loaded.settings == TINY and card["data"] == "phantoms" and len(loaded.fingerprint) == 12
    kspace, mask = batch[0].numpy(), batch[1].numpy()
    exact = varnet.reconstruct(TrainedVarNet(varnet.load_run(tmp_path, "cpu").net, TINY, ""), kspace, mask)
    np.testing.assert_allclose(varnet.reconstruct(loaded, kspace, mask), exact, atol=5e-3 * exact.max())


def test_the_learning_rate_rises_and_falls() -> None:
    run = VarNetRun.new(VarNetSettings(chans=2, sens_chans=2, cascades=1, pools=1, warmup=10, minutes=1.0), "cpu")
    assert run.rate() == pytest.approx(1e-4)
    run.step, run.seconds = 100, 30.0
    assert run.rate() == pytest.approx(5e-4)
    run.seconds = 61.0
    assert run.rate() == pytest.approx(0)


def test_a_loss_that_is_not_finite_changes_no_weight() -> None:
    run = VarNetRun.new(TINY, "cpu")
    before = [parameter.detach().clone() for parameter in run.net.parameters()]
    measured, mask, target = varnet.scan_of_step(Phantoms(), TINY, 0)
    varnet.train_step(run, measured * float("nan"), mask, target)
    assert run.step == 1 and all(torch.equal(a, b) for a, b in zip(before, run.net.parameters()))


def test_command_trains_resumes_and_names_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = np.stack([phantom(40, 36, seed) for seed in range(2)], axis=-1)
    (tmp_path / "data").mkdir()
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "data" / "a.nii.gz")
    words = [str(tmp_path / "data"), "--output", str(tmp_path / "run"), "--cascades", "1", "--chans", "2"]
    assert varnet.main([*words, "--minutes", "0.01", "--accelerations", "4"]) == 0
    card = json.loads((tmp_path / "run" / "weights.json").read_text())
    assert card["step"] >= 1 and card["varnet"]["accelerations"] == [4] and card["data"][0]["slices"] == 2
    assert varnet.main(words) == 2 and "already holds a run; add --resume" in capsys.readouterr().err
    assert varnet.main([*words, "--resume"]) == 0  # its minutes are over: nothing to do
    assert json.loads((tmp_path / "run" / "weights.json").read_text())["step"] == card["step"]
    new = [str(tmp_path / "data"), "--output", str(tmp_path / "new")]
    for options, message in (
        (["--accelerations", "0"], "accelerations must be whole numbers of at least 1"),
        (["--minutes", "0"], "minutes and clip must be above 0"),
        (["--chans", "0"], "chans, sens_chans and pools must be at least 1"),
        (["--resume"], "checkpoint.safetensors: missing, damaged"),
    ):
        assert varnet.main([*new, *options]) == 2
        assert message in capsys.readouterr().err


def test_settings_are_checked() -> None:
    for change in ({"mask_type": "poisson"}, {"coils": (5, 4)}, {"calibration": 0.0}):
        with pytest.raises(ValueError, match=r"not of lines|smaller one first|calibration in"):
            VarNetSettings(**change)


@pytest.mark.parametrize("name", ["weights.safetensors", "checkpoint.safetensors"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    varnet.save_run(VarNetRun.new(TINY, "cpu"), tmp_path, {})
    truncate(tmp_path / name)
    with pytest.raises(InputError, match=rf"^\S+{name}: missing, damaged, or of another version \(.*\); \S+[^\n]*$"):
        varnet.load_varnet(tmp_path / name) if name[0] == "w" else varnet.load_run(tmp_path, "cpu")


def test_full_masks_are_full() -> None:
    """VarNet's own search takes a full mask for one of a single central line, so it is told."""
    kspace = fft2c(random_fields((48, 48), 3, np.random.default_rng(0)) * torch.from_numpy(phantom(48, 48)))
    full = torch.ones(48, 48, dtype=torch.bool)
    assert varnet.calibration_box(full) == (48, 48)
    measured = torch.view_as_real(kspace)[None]
    told = network().net(measured, full[None, None, :, :, None], 48)[0]
    torch.testing.assert_close(varnet.apply(network().net, kspace, full), told)
    torch.testing.assert_close(varnet.combined(kspace), ifft2c(kspace).abs().square().sum(0).sqrt())

"""fastMRI's U-Net as a peer: its input and output on any size, its own mask, training that goes on, weights on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator

from benchmarks.peers import unet
from benchmarks.peers.unet import Network, UNetRun, UNetSettings
from benchmarks.singlecoil import contestants, quality
from mrihvae.errors import InputError
from mrihvae.physics.fourier import ifft2c
from mrihvae.physics.sampling import Undersampling, sampling_pattern
from tests.support.files import write_scan
from tests.support.small import phantom, small_kspace

TINY = UNetSettings(chans=4, pools=2, pixels=4096, minutes=0.05, learning_rate=0.01, bf16=False, warmup=1)


class Phantoms:
    """A source of slices: magnitude, and raw k-space of an odd size."""

    def draw(self, count: int, rng: Generator) -> list[tuple[np.ndarray, bool]]:
        raw = small_kspace(1, 45, 39)[0].numpy()
        return [(raw, True) if rng.random() < 0.5 else (phantom(64, 64, int(rng.integers(9))), False)] * count


def network(settings: UNetSettings = TINY) -> Network:
    torch.manual_seed(0)
    return Network(unet.build(settings).eval(), settings, "abc")


@pytest.mark.parametrize("shape", [(32, 32), (33, 29), (40, 27)])
def test_any_size_keeps_measured_bins_scale_and_precision(shape: tuple[int, int]) -> None:
    kspace = 1e-4 * small_kspace(1, *shape)[0].numpy()
    mask = sampling_pattern("random", shape, 2, 0.2, 0)
    measured = np.where(mask, kspace, 0)
    image = unet.reconstruct(network(), measured, mask)
    assert image.shape == shape and image.dtype == np.complex64
    back = unet.fft2c(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(back[mask], measured[mask], atol=1e-5 * np.abs(measured).max())
    assert np.abs(back[~mask]).max() > 0  # the network did something
    twice = unet.reconstruct(network(), 2 * measured, mask)
    np.testing.assert_allclose(twice, 2 * image, atol=1e-5 * np.abs(image).max())


def test_lines_along_h_are_turned() -> None:
    kspace = small_kspace(1, 32, 28)[0].numpy()
    mask = sampling_pattern("random", (32, 28), 2, 0.2, 0)
    measured = np.where(mask, kspace, 0)
    np.testing.assert_allclose(
        unet.reconstruct(network(), measured.T, mask.T), unet.reconstruct(network(), measured, mask).T, atol=1e-6
    )


def test_batches_have_the_protocols_mask_and_repeat() -> None:
    settings = UNetSettings(mask_type="equispaced_fraction", acceleration=4.0, pools=2, pixels=4096)
    kspace, measured, mask = unet.batch_of_step(Phantoms(), settings, 3)
    for again, tensor in zip(unet.batch_of_step(Phantoms(), settings, 3), (kspace, measured, mask)):
        assert torch.equal(again, tensor)
    assert torch.equal(measured, torch.where(mask, kspace, 0))
    quantile = torch.quantile(ifft2c(measured).abs().flatten(1), 0.99, dim=1)
    torch.testing.assert_close(quantile, torch.ones(len(measured)))
    for step in range(6):
        kspace, _, mask = unet.batch_of_step(Phantoms(), settings, step)
        for scan, known in zip(kspace, mask):
            filled = scan != 0
            assert known[~filled].all()  # padding is known to be 0
            extent = known[filled.any(dim=1)][:, filled.any(dim=0)]
            assert (extent == extent[0]).all()  # lines along H
            assert 3.0 < extent.shape[1] / int(extent[0].sum()) < 5.2


def test_losses() -> None:
    truth = torch.zeros(2, 8, 8, dtype=torch.complex64)
    wrong = unet.fft2c(torch.full((2, 8, 8), 3 + 4j, dtype=torch.complex64))
    assert float(unet.loss_of(wrong, truth, "l1")) == pytest.approx(5)
    assert float(unet.loss_of(wrong, truth, "l2")) == pytest.approx(25)
    assert float(unet.loss_of(wrong, truth, "log")) == pytest.approx(np.log(5))


def test_training_lowers_the_loss_and_goes_on(tmp_path: Path) -> None:
    run = UNetRun.new(TINY, "cpu")
    batch = list(unet.batch_of_step(Phantoms(), TINY, 0))
    losses = [unet.train_step(run, batch) for _ in range(20)]
    assert losses[-1] < 0.97 * losses[0]
    unet.save_run(run, tmp_path, {"data": "phantoms"})
    resumed = unet.load_run(tmp_path, "cpu")
    assert (resumed.step, resumed.settings) == (20, TINY)
    assert unet.train_step(resumed, batch) == unet.train_step(run, batch)
    for a, b in zip(resumed.net.parameters(), run.net.parameters()):
        assert torch.equal(a, b)
    for a, b in zip(resumed.average.parameters(), run.average.parameters()):
        assert torch.equal(a, b)
    loaded = unet.load_network(tmp_path / "weights.safetensors")
    assert loaded.settings == TINY and json.loads((tmp_path / "weights.json").read_text())["data"] == "phantoms"
    kspace, mask = batch[1][0].numpy(), batch[2][0].numpy()
    exact = unet.reconstruct(Network(unet.load_run(tmp_path, "cpu").average, TINY, ""), kspace, mask)
    np.testing.assert_allclose(unet.reconstruct(loaded, kspace, mask), exact, atol=5e-3 * np.abs(exact).max())


def test_a_loss_that_is_not_finite_changes_no_weight() -> None:
    run = UNetRun.new(TINY, "cpu")
    before = [parameter.detach().clone() for parameter in run.net.parameters()]
    batch = list(unet.batch_of_step(Phantoms(), TINY, 0))
    batch[0] = batch[0] * float("nan")
    unet.train_step(run, batch)
    assert all(torch.equal(a, b) for a, b in zip(before, run.net.parameters()))
    assert all(bool(parameter.isfinite().all()) for parameter in run.average.parameters())


def test_command_trains_resumes_and_names_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scan(tmp_path / "data" / "a.h5", (2, 40, 36), kspace=small_kspace(2, 40, 36).numpy())
    monkeypatch.setattr(unet, "build", lambda settings, device="cpu": _build(settings))
    words = [str(tmp_path / "data"), "--output", str(tmp_path / "run"), "--pixels", "9216"]
    assert unet.main([*words, "--minutes", "0.01", "--acceleration", "8"]) == 0
    card = json.loads((tmp_path / "run" / "weights.json").read_text())
    assert card["step"] >= 1 and card["unet"]["center_fraction"] == 0.04 and card["data"][0]["slices"] == 2
    assert unet.main(words) == 2 and "already holds a run; add --resume" in capsys.readouterr().err
    assert unet.main([*words, "--resume"]) == 0  # its minutes are over: nothing to do
    assert json.loads((tmp_path / "run" / "weights.json").read_text())["step"] == card["step"]
    for options, message in (
        (["--acceleration", "0.5", "--center-fraction", "0.1"], "not a number of at least 1"),
        (["--minutes", "0"], "minutes and clip above 0"),
    ):
        assert unet.main([str(tmp_path / "data"), "--output", str(tmp_path / "new"), *options]) == 2
        assert message in capsys.readouterr().err
    assert unet.main([str(tmp_path / "data"), "--output", str(tmp_path / "new"), "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named() -> None:
    assert unet.usable_device("cpu") == "cpu"
    with pytest.raises(InputError, match="--device nowhere: cannot be used"):
        unet.usable_device("nowhere")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    unet.save_run(UNetRun.new(TINY, "cpu"), tmp_path, {})
    for name, load in (
        ("weights.safetensors", lambda: unet.load_network(tmp_path / "weights.safetensors")),
        ("checkpoint.safetensors", lambda: unet.load_run(tmp_path, "cpu")),
    ):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(InputError, match=name) as error:
            load()
        assert "\n" not in str(error.value)


def test_benchmark_takes_the_network_of_the_mask_or_says_that_it_is_foreign(tmp_path: Path) -> None:
    files = {}
    for r in (4, 8):
        settings = UNetSettings(chans=4, pools=2, acceleration=float(r), center_fraction=0.32 / r)
        unet.save_run(UNetRun.new(settings, "cpu"), tmp_path / str(r), {})
        files[r] = tmp_path / str(r) / "weights.safetensors"
    networks = quality.read_networks([f"random:{r}={file}" for r, file in files.items()])
    assert list(networks) == ["random 4x", "random 8x"]
    with pytest.raises(InputError, match="were trained for random 8x; name that mask"):
        quality.read_networks([f"random:4={files[8]}"])
    ours: Any = None
    contest = contestants.Contest(ours, [], networks)

    def chosen(*pattern: Any) -> tuple[str, bool]:
        one = contest.contestant("unet", Undersampling(*pattern), "raw")
        return one.made_by.split(" of ")[1], one.foreign

    assert chosen("random", 8, 0.04) == ("random 8x", False)
    assert chosen("random", 8, 0.04, -2) == ("random 8x", False)  # turned
    assert chosen("random", 8, 0.08) == ("random 8x", True)  # of another center
    assert chosen("random", 12, 0.027) == ("random 4x", True)
    assert chosen("radial", 8, 0.04) == ("random 4x", True)
    alone = contestants.Contest(ours, [], {"random 8x": networks["random 8x"]})
    assert alone.contestant("unet", Undersampling("random", 4, 0.08), "raw").foreign


def _build(settings: UNetSettings) -> torch.nn.Module:
    from fastmri.models import Unet

    net: torch.nn.Module = Unet(2, 2, chans=4, num_pool_layers=settings.pools)
    return net

"""The benchmarks that compare ways of inference (refinement.py) and networks (study.py), on a small network."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.singlecoil import refinement
from benchmarks.training import study
from mrihvae.data.scan import Scan
from mrihvae.datasets.mixture import Dataset, WeightedDatasets
from mrihvae.errors import InputError
from mrihvae.evaluation.scores import score_volume
from mrihvae.inference.settings import InferenceSettings
from mrihvae.model.bands import merge
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.sampling import Undersampling
from mrihvae.pnp.settings import FOR_SCANS
from mrihvae.recon.catalog import make_method
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume
from mrihvae.training.objective import decode_means
from mrihvae.utils.config import from_dict
from tests.support.small import phantom, small_kspace, small_model

RANDOM = Undersampling("random", 4, 0.1)


def scan_of_one_slice() -> Scan:
    image = torch.from_numpy(phantom(48, 40)).to(torch.complex64)[None]
    return Scan("one.h5", fft2c(image).numpy(), target=image.abs().numpy())


def row(variant: str, pattern: str = "random 4x", name: str = refinement.TRAINING) -> dict[str, object]:
    numbers = {"slices": 1, "PSNR": 30.0, "gain_dB": 0.1, "gain_std_dB": 0.02, "gaining": 1.0, "seconds": 0.5}
    return {"set": name, "pattern": pattern, "variant": variant, **numbers}


def test_every_variant_can_be_run() -> None:
    model, scan = small_model(), scan_of_one_slice()
    for variant in refinement.ALL:
        psnr, seconds = refinement._psnr_and_seconds(model, scan, mask_of(scan, RANDOM), variant)
        assert math.isfinite(psnr) and seconds > 0, variant


def test_variants_are_what_the_package_does() -> None:
    model, scan = small_model(), scan_of_one_slice()
    assert scan.target is not None
    mask = mask_of(scan, RANDOM)
    for variant, name in ((refinement.ALONE, "amortized"), (refinement.SHIPPED, "hybrid"), (refinement.LOOP, "pnp")):
        volume = reconstruct_volume(scan, mask, make_method(name, model))
        found, _ = refinement._psnr_and_seconds(model, scan, mask, variant)
        assert found == pytest.approx(score_volume(scan.target, volume)["PSNR"], abs=1e-4)
    assert from_dict(InferenceSettings, refinement.VARIANTS[refinement.SHIPPED], "") == InferenceSettings()
    assert replace(FOR_SCANS, **refinement.PNP[refinement.LOOP]) == FOR_SCANS
    for on_training, on_others in refinement.STUDIES.values():
        assert set(on_others) < set(on_training) <= set(refinement.ALL) and refinement.ALONE in on_others


def test_the_way_through_q_keeps_measured_bins() -> None:
    model, kspace = small_model(), small_kspace(2, 33, 30)
    mask = torch.arange(30) % 3 == 0
    found = fft2c(refinement.through_q(model, kspace, mask))
    torch.testing.assert_close(found[..., mask], kspace[..., mask], rtol=1e-4, atol=1e-4)
    assert float(found[..., ~mask].abs().max()) > 0


def test_gains_are_slice_by_slice() -> None:
    found = refinement.summary([(30.0, 1.0), (20.0, 3.0), (25.0, 2.0)], [(29.0, 0.1), (19.0, 0.1), (25.5, 0.1)])
    assert found["slices"] == 3 and found["PSNR"] == 25.0 and found["seconds"] == 2.0
    assert found["gain_dB"] == 0.5 and found["gaining"] == pytest.approx(2 / 3, abs=1e-3)
    assert found["gain_std_dB"] == pytest.approx(float(np.std([1.0, 1.0, -0.5])), abs=1e-3)
    with pytest.raises(InputError, match="not finite"):
        refinement.summary([(math.nan, 1.0)], [(1.0, 1.0)])


def test_table_and_plot_of_variants() -> None:
    rows = [row(variant, pattern) for pattern in ("random 4x", "random 8x") for variant in refinement.ALL]
    rows += [row(variant, "random 4x", "held out") for variant in refinement.STUDIES["pnp"][1]]
    table = refinement.refinement_table({"rows": rows, "threads": 2}).splitlines()
    assert table[0].startswith("| inference | training scans, random 4x | training scans, random 8x | held out, random")
    assert len(table) == 2 + len(refinement.ALL) + 2
    assert f"| {refinement.ALONE} | 30.00 | 30.00 | 30.00 | 0.50 |" in table
    assert "| line search, N = 3 | +0.10 ± 0.02 | +0.10 ± 0.02 |  | 0.50 |" in table
    figure = refinement.over_seconds(rows)
    assert [axis.get_title() for axis in figure.axes] == [
        f"training scans, random {r}x; numbers are N or K" for r in (4, 8)
    ]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("1") == 7 and refinement.THROUGH_Q not in figure.axes[0].get_legend_handles_labels()[1]


@pytest.mark.parametrize("name", ["ladder", "guess"])
def test_a_variant_is_trained_for_its_time_and_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"widths": [16, 16, 16], "layers": 1, "cascades": 0, "guess_widths": [16, 16]}
    monkeypatch.setattr(study, "LADDER", small)
    monkeypatch.setattr(study, "GUESS", {**small, "cascades": 1})
    monkeypatch.setattr(study, "SHAPES", ((32, 32),))
    monkeypatch.setattr(study, "MEASURED", (1, (64, 64)))
    mixture = WeightedDatasets([Dataset(Path("phantoms"), [phantom(64, 64)], False, 1.0)])
    found = study.variant(name, {"fold": 1}, mixture, 1 / 60)
    assert found["steps"] > 1 and found["changes"] == {"fold": 1} and found["inference_cpu_seconds"] > 0
    gains = [key for key in found if key.startswith("gain_dB")]
    assert len(gains) == (3 if name == "ladder" else 2) and all(math.isfinite(found[key]) for key in gains)
    table = study.markdown([{"variant": "as shipped", **found}])
    assert "| as shipped | " in table and f"{found['steps']} |" in table


def test_networks_in_frequency_space_see_bins_and_the_change_is_undone() -> None:
    kspace, mask = small_kspace(1, 32, 24), torch.ones(1, 32, 24, dtype=torch.bool)
    model = small_model()
    before = merge(decode_means(model, kspace, mask, kspace))
    with study._in_frequency_space(True):
        inside = merge(decode_means(model, kspace, mask, kspace))
    assert not torch.allclose(inside, before)
    assert torch.equal(merge(decode_means(model, kspace, mask, kspace)), before)
    assert ifft2c(fft2c(kspace)).allclose(kspace, atol=1e-5)

"""The benchmark of several coils: rows, tables, tuning, seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.common.protocol import ScanSet, read_protocol, scan_files
from benchmarks.multicoil import maps as maps_benchmark
from benchmarks.multicoil import run as multicoil
from benchmarks.multicoil import seconds as multicoil_seconds
from benchmarks.multicoil import tune as tune_multicoil
from benchmarks.multicoil.tables import LABELS, margins, multicoil_seconds_table, multicoil_tables
from benchmarks.peers import bart
from mrihvae.coils.settings import CoilSettings
from mrihvae.io.fastmri import read_scan
from mrihvae.model.weights import save_weights
from mrihvae.physics.fourier import ifft2c
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.sliced_scan import SlicedScan
from mrihvae.recon.undersampling import mask_of
from tests.support import REPOSITORY
from tests.support.files import write_scan
from tests.support.small import small_model
from tests.support.small_coils import coil_scans

PROTOCOL = REPOSITORY / "protocols" / "multicoil.toml"
SMALL = """
methods = ["zero-filled", "sense", "amortized"]
[[patterns]]
mask_type = "random"
acceleration = 2
center_fraction = 0.25
[[scans]]
name = "small"
path = "scans"
"""
BEST = {"best": [{"method": "sense", "acceleration": 4, "kind": "simulated", "strength": 0.01}]}


@pytest.fixture
def bench(tmp_path: Path) -> dict[str, Path]:
    """Write a small scan of 3 coils, a protocol, strengths and weights; give their paths."""
    kspace, _, _ = coil_scans(2, 3, 32, 32)
    target = ifft2c(kspace).abs().square().sum(dim=1).sqrt().numpy()
    write_scan(tmp_path / "data/scans/a.h5", (2, 3, 32, 32), kspace=kspace.numpy(), reconstruction_rss=target)
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "tuned.json").write_text(json.dumps(BEST))
    save_weights(tmp_path / "weights.safetensors", small_model(), {"counters": {"step": 7}})
    return {name: tmp_path / name for name in ("small.toml", "tuned.json", "weights.safetensors", "data", "results")}


def run(bench: dict[str, Path], *options: str) -> int:
    words = [str(bench["small.toml"]), "--data", str(bench["data"]), "--strengths", str(bench["tuned.json"])]
    words += ["--checkpoint", str(bench["weights.safetensors"]), "--results", str(bench["results"])]
    return multicoil.main([*words, "--work", str(bench["data"].parent / "work"), "--threads", "1", *options])


def rows_of(bench: dict[str, Path]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((bench["results"] / "small.json").read_text())["volumes"]
    return rows


def test_shipped_protocol_is_whole() -> None:
    protocol = read_protocol(PROTOCOL, tuple(LABELS))
    assert [pattern.acceleration for pattern in protocol.patterns] == [4, 8]
    assert {scans.coils for scans in protocol.scans[1:]} == {4, 8, 16}
    assert set(protocol.methods) == set(LABELS)


def test_rows_have_both_scores_and_go_on(bench: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bench) == 0
    rows = {row["method"]: row for row in rows_of(bench)}
    assert list(rows) == ["zero-filled", "sense", "amortized"]
    assert rows["sense"]["combined PSNR"] > rows["zero-filled"]["combined PSNR"] + 1
    assert "SenseRecon(lamda=0.01" in rows["sense"]["made_by"]
    assert (bench["data"].parent / "work/small/random_2x/1_a.png").is_file()
    written = (bench["results"] / "small.json").read_text()
    assert run(bench, "--resume") == 0
    assert (bench["results"] / "small.json").read_text() == written
    assert "CG-SENSE (sigpy)" in capsys.readouterr().out


def test_a_part_does_not_replace_results(bench: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bench, "--methods", "zero-filled", "--no-panels") == 0
    assert run(bench, "--methods", "sense") == 2
    assert "add --resume" in capsys.readouterr().err
    assert run(bench, "--methods", "varnet") == 2
    assert "varnet: left out, since no weights are given" in capsys.readouterr().err


def test_complete_images_and_support(bench: dict[str, Path]) -> None:
    """Complete data combined by maps that agree with them have their root-sum-of-squares."""
    scan = read_scan(bench["data"] / "scans/a.h5")
    assert scan.target is not None
    mask = mask_of(scan, Undersampling("random", 2, 0.5))
    volume = SlicedScan(scan, mask, CoilSettings())
    inside = multicoil.support(scan.target)
    assert 0.2 < inside.mean() < 0.9
    combined = multicoil.complete_images(scan, volume)
    error = np.abs(combined - scan.target)[inside].mean() / scan.target[inside].mean()
    assert error < 0.02


def test_simulated_sets_have_their_coils(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    (tmp_path / "pictures").mkdir()
    image = (np.hypot(*np.mgrid[-1:1:64j, -1:1:64j]) < 0.7) * np.uint8(200)
    image_module.fromarray(image.astype(np.uint8)).save(tmp_path / "pictures/1.png")
    (file,) = scan_files(ScanSet("x", "pictures", every=1, coils=3), tmp_path, tmp_path / "work")
    assert read_scan(file).coils == 3 and "coils3" in file.parent.name


def test_tables_and_margins() -> None:
    rows = [
        {"set": name, "pattern": "random 4x", "method": method, "R": 4.0, "PSNR": 30.0, "SSIM": ssim, **extra}
        for name in ("A", "B")
        for method, ssim, extra in (
            ("bart-wavelet", 0.8, {"combined PSNR": 31.0, "combined SSIM": 0.81}),
            ("varnet", 0.85, {}),
            ("hybrid", 0.9, {"combined PSNR": 33.5, "combined SSIM": 0.91}),
        )
    ]
    lines = multicoil_tables(rows).splitlines()
    assert lines[0].startswith("random 4x, R = 4.00")
    assert lines[2] == "| method | A | B |"
    assert lines[5] == "| VarNet (fastMRI) | -; 30.00, 0.850 | -; 30.00, 0.850 |"
    assert lines[6].startswith("| mrihvae (hybrid) | 33.50, 0.910; 30.00, 0.900 |")
    found = margins(rows)
    assert [row["set"] for row in found] == ["A", "B"]
    assert found[0]["combined PSNR"] == pytest.approx(2.5) and found[0]["SSIM"] == pytest.approx(0.1)


def test_contestants_that_are_timed_have_their_strength() -> None:
    """BART with maps of its own has the strength that was tuned with ours."""
    best = [{"method": "bart-wavelet", "acceleration": 4, "kind": "simulated", "strength": 0.0012}]
    for name in ("bart-wavelet", multicoil_seconds.TIMED_AS["bart-wavelet"]):
        made_by = multicoil.contestant(name, multicoil.Ours(small_model(), "abc", 0), None, best, 4.0).made_by
        assert made_by.endswith("-R W:3:0:0.0012")


def test_seconds_are_of_maps_and_image(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = multicoil_seconds.coil_phantom(32, 40, 3)
    assert scan.kspace.shape == (1, 3, 32, 40) and scan.target is not None and scan.target.shape == (1, 32, 40)
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(multicoil_seconds, "PATTERN", Undersampling("random", 2, 0.3))

    def once(kspace: np.ndarray, mask: np.ndarray, maps: np.ndarray) -> None:
        seen.append(maps.shape)

    assert len(multicoil_seconds.seconds_of(once, "hybrid", scan)) == multicoil_seconds.REPEATS
    assert set(seen) == {(3, 32, 40)}
    results = {
        "seconds": {
            "256x256x8": {"hybrid": {"median": 2.0}, "tv": {"median": 9.0}},
            "640x372x15": {"hybrid": {"median": 12.0}},
        },
        "peak_memory_GiB of mrihvae (hybrid)": {"256x256x8": 1.0},
        "repeats": 3,
        "pattern": "random 4x",
        "threads": 2,
    }
    table = multicoil_seconds_table(results)
    assert "| TV (sigpy) | 9.00 | - |" in table and "1.00 GiB at 256 x 256 x 8" in table


def test_tuning_keeps_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kspace, _, _ = coil_scans(1, 3, 32, 32)
    target = ifft2c(kspace).abs().square().sum(dim=1).sqrt().numpy()
    write_scan(tmp_path / "data/scans/a.h5", (1, 3, 32, 32), kspace=kspace.numpy(), reconstruction_rss=target)
    monkeypatch.setattr(tune_multicoil, "SETS", (ScanSet("x", "scans"),))
    monkeypatch.setattr(tune_multicoil, "STRENGTHS", {"sense": (0.003, 3.0)})
    monkeypatch.setattr(tune_multicoil, "PATTERNS", (Undersampling("random", 2, 0.25),))
    words = ["--data", str(tmp_path / "data"), "--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    threads = torch.get_num_threads()
    for more in ([], ["--resume"]):
        assert tune_multicoil.main([*words, *more]) == 0
        best = json.loads((tmp_path / "tune_multicoil.json").read_text())["best"]
        assert [(row["method"], row["strength"]) for row in best] == [("sense", 0.003)]
        assert len((tmp_path / "work/rows.jsonl").read_text().splitlines()) == 2
    torch.set_num_threads(threads)


@pytest.mark.skipif(bart.version() is None, reason="bart is not installed")
def test_kernels_are_tuned_and_used(bench: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_multicoil, "SETS", (ScanSet("x", "scans"),))
    monkeypatch.setattr(tune_multicoil, "KERNELS", (3, 5))
    monkeypatch.setattr(tune_multicoil, "PATTERNS", (Undersampling("random", 2, 0.25),))
    tuned = {"method": "bart-wavelet", "acceleration": 2, "kind": "simulated", "strength": 0.002}
    (tmp_path / "tune_multicoil.json").write_text(json.dumps({"best": [tuned], "means": []}))
    words = ["--data", str(bench["data"]), "--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    threads = torch.get_num_threads()
    assert tune_multicoil.main([*words, "--kernels"]) == 0
    torch.set_num_threads(threads)
    results = json.loads((tmp_path / "tune_multicoil.json").read_text())
    assert results["best"] == [tuned] and [row["kernel"] for row in results["kernel means"]] == [3, 5]
    [best] = results["kernels"]
    assert best["PSNR"] == max(row["PSNR"] for row in results["kernel means"]) and best["lines"] >= 8
    bench["small.toml"].write_text(SMALL.replace('"sense", "amortized"', '"ecalib-wavelet"'))
    bench["tuned.json"].write_text(json.dumps(results))
    assert run(bench) == 0
    row = next(row for row in rows_of(bench) if row["method"] == "ecalib-wavelet")
    assert f"kernel {best['kernel']} at {best['lines']} lines 2x" in row["made_by"] and "combined PSNR" not in row
    assert row["PSNR"] == pytest.approx(best["PSNR"], abs=3)


def test_maps_benchmark_scores_every_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kspace, _, _ = coil_scans(1, 12, 48, 48, noise=0.01)
    target = ifft2c(kspace).abs().square().sum(dim=1).sqrt().numpy()
    write_scan(tmp_path / "multicoil/a.h5", (1, 12, 48, 48), kspace=kspace.numpy(), reconstruction_rss=target)
    save_weights(tmp_path / "weights.safetensors", small_model(), {"counters": {"step": 7}})
    monkeypatch.setattr(maps_benchmark, "REAL", ("a",))
    monkeypatch.setattr(maps_benchmark, "REAL_PATTERNS", (Undersampling("random", 3, 0.17),))
    monkeypatch.setattr(maps_benchmark, "SIMULATED", ())
    monkeypatch.setattr(bart, "version", lambda: None)
    words = ["--data", str(tmp_path), "--results", str(tmp_path), "--checkpoint", str(tmp_path / "weights.safetensors")]
    threads = torch.get_num_threads()
    assert maps_benchmark.main(words) == 0
    made = (tmp_path / "maps.json").read_text()
    [row] = json.loads(made)["scans"]
    assert set(row["maps"]) == {"kernel 6", "chosen kernel", "refined", "complete"} and row["lines"] == 9
    assert len({scores["PSNR"] for scores in row["maps"].values()}) == 4
    assert "| a, random 3x | 9 |" in capsys.readouterr().out and (tmp_path / "maps.png").stat().st_size > 5000
    assert maps_benchmark.main([*words, "--resume"]) == 0
    assert (tmp_path / "maps.json").read_text() == made
    torch.set_num_threads(threads)

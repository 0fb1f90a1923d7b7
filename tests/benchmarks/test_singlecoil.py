"""The benchmark: protocols, peers, the ceiling of noisy targets, results that go on, tables, calibration, packing."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from statistics import NormalDist
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import demo, tables
from benchmarks.common import plots, simulated_scans
from benchmarks.common.ceiling import ceiling, magnitude_error, noise_power, pixel_noise
from benchmarks.common.protocol import METHODS, ScanSet, label, read_protocol, scan_files, subset
from benchmarks.peers import bart
from benchmarks.singlecoil import calibration, contestants, quality, timing, tune_classical
from benchmarks.training import pack_slices
from mrihvae.data.scan import Scan
from mrihvae.datasets.mixture import Dataset
from mrihvae.errors import InputError
from mrihvae.io.fastmri import read_scan
from mrihvae.model.weights import save_weights
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.sampling import Undersampling, sampling_pattern
from mrihvae.recon.catalog import make_method
from mrihvae.recon.volumes import reconstruct_volume
from tests.support import REPOSITORY
from tests.support.files import complex_normal, write_scan
from tests.support.small import phantom, small_kspace, small_model

PROTOCOLS = REPOSITORY / "protocols"
RANDOM = Undersampling("random", 4, 0.08)
BEST = [
    {"method": method, "acceleration": r, "kind": kind, "strength": strength}
    for method in ("wavelet", "tv", "bart-wavelet", "bart-tv")
    for r, kind, strength in ((2, "raw", 0.001), (8, "raw", 0.01), (8, "simulated", 0.02))
]
PROTOCOL = """
methods = ["zero-filled", "amortized"]
[[patterns]]
mask_type = "random"
acceleration = 2
center_fraction = 0.2
[[patterns]]
mask_type = "center"
acceleration = 2
center_fraction = 0.2
[[scans]]
name = "small"
path = "scans"
"""


@pytest.fixture
def bench(tmp_path: Path) -> dict[str, Path]:
    """Write two small scans, a protocol, tuned strengths and weights; give their paths."""
    for seed, name in enumerate(("a.h5", "b.h5")):
        kspace = small_kspace(2, 32, 32, seed=seed).numpy()
        target = ifft2c(torch.from_numpy(kspace)).abs().numpy()
        write_scan(tmp_path / "data" / "scans" / name, (2, 32, 32), kspace=kspace, reconstruction_esc=target)
    (tmp_path / "small.toml").write_text(PROTOCOL)
    (tmp_path / "tuned.json").write_text(json.dumps({"best": BEST}))
    save_weights(
        tmp_path / "weights.safetensors", small_model(), {"temperature": 1.5, "spread": 1.2, "counters": {"step": 7}}
    )
    return {name: tmp_path / name for name in ("small.toml", "tuned.json", "weights.safetensors", "data", "results")}


def run_quality(bench: dict[str, Path], *options: str) -> int:
    words = [str(bench["small.toml"]), "--data", str(bench["data"]), "--strengths", str(bench["tuned.json"])]
    words += ["--checkpoint", str(bench["weights.safetensors"]), "--results", str(bench["results"]), "--no-panels"]
    return quality.main([*words, "--work", str(bench["data"].parent / "work"), "--threads", "1", *options])


def rows_of(bench: dict[str, Path]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((bench["results"] / "small.json").read_text())["volumes"]
    return rows


# protocols


@pytest.mark.parametrize("path", sorted(PROTOCOLS.glob("singlecoil_*.toml")), ids=lambda path: path.stem)
def test_shipped_protocols_are_whole(path: Path) -> None:
    protocol = read_protocol(path)  # draws every pattern once
    names = [label(pattern) for pattern in protocol.patterns]
    assert len(set(names)) == len(names)  # rows are told apart by them
    assert protocol.scans[0].kind == "raw" and {scans.kind for scans in protocol.scans[1:]} == {"simulated"}
    for p in protocol.patterns:
        mask = sampling_pattern(p.mask_type, (128, 126), p.acceleration, p.center_fraction, 1, p.axis)
        assert mask.size / np.count_nonzero(mask) > 0.6 * p.acceleration


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"amortized"', '"amortised"', "method 'amortised' is unknown"),
        ("mask_type", "mask_tipe", "unknown setting 'mask_tipe'; the nearest known one is 'mask_type'"),
        ("acceleration = 2", 'acceleration = "2"', "acceleration is '2'; it should be a valid"),
        ("acceleration = 2", "acceleration = 0.5", "not a number of at least 1"),
        ("[[scans]]", "[[scan]]", "has no [[scans]]"),
        ('methods = ["zero-filled", "amortized"]', "methods = []", "methods is empty"),
        ("[[patterns]]", "[[patterns", "not a readable protocol"),
    ],
)
def test_mistakes_in_a_protocol_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(PROTOCOL.replace(old, new))
    with pytest.raises(InputError, match="p.toml") as error:
        read_protocol(path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_subset_keeps_the_order_and_names_what_is_unknown() -> None:
    assert subset(METHODS, ("tv", "zero-filled"), "x") == ["zero-filled", "tv"]
    assert subset(METHODS, None, "x") == list(METHODS)
    with pytest.raises(InputError, match="--sets: 'c' is unknown; choose from: a, b"):
        subset(["a", "b"], ["c"], "--sets:")


def test_labels() -> None:
    assert label(Undersampling("random", 4.0, 0.08)) == "random 4x"
    assert label(Undersampling("partial_fourier", 1.6, 0.1, -2)) == "partial_fourier 1.6x along H"


def test_simulated_sets_are_made_once_and_tell_their_noise(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    (tmp_path / "pictures").mkdir()
    for number in range(21):
        picture = (255 * phantom(64, 64, number)).clip(0, 255).astype(np.uint8)
        image_module.fromarray(picture).save(tmp_path / "pictures" / f"{number}.png")
    scans = ScanSet("simulated", "pictures", every=1, limit=2)
    files = scan_files(scans, tmp_path, tmp_path / "work")
    assert len(files) == 2 and len(scan_files(scans, tmp_path, tmp_path / "work", limit=1)) == 1
    before = files[0].stat().st_mtime_ns
    assert scan_files(scans, tmp_path, tmp_path / "work")[0].stat().st_mtime_ns == before
    scan = read_scan(files[0])
    outside = ifft2c(torch.from_numpy(scan.kspace)).abs()[:, :40].square().mean(dim=(1, 2)).sqrt()
    np.testing.assert_allclose(pixel_noise(scan), outside, rtol=0.05)


# the ceiling


def test_ceiling_where_signal_dominates_is_half_of_the_missing_noise() -> None:
    error = magnitude_error(np.full((128, 128), 50.0), 0.25, 0.75)
    assert error == pytest.approx(0.75 / 2, rel=0.02)


@pytest.mark.parametrize(("missing", "above"), [(0.75, 1.10), (0.92, 1.36)])
def test_ceiling_without_signal_is_the_closed_form(missing: float, above: float) -> None:
    special = pytest.importorskip("scipy.special")
    seen = 1 - missing
    exact = 1 + seen - math.pi / 2 * math.sqrt(seen) * special.hyp2f1(-0.5, -0.5, 1, seen)
    assert magnitude_error(np.zeros((256, 256)), seen, missing) == pytest.approx(exact, rel=0.02)
    assert exact / (missing / 2) == pytest.approx(above, abs=0.01)


@pytest.mark.parametrize("r", [2, 4, 12])
@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_ceiling_is_the_score_of_a_perfect_reconstruction(r: int, noise: float) -> None:
    """The estimate, from the noisy target alone, is what noise-free missing bins really score."""
    clean = fft2c(torch.from_numpy(phantom(128, 96)).to(torch.complex64))
    noisy = (clean + noise * torch.from_numpy(complex_normal((128, 96)))).numpy()
    scan = Scan("x.h5", noisy[None], target=ifft2c(torch.from_numpy(noisy)).abs().numpy()[None])
    mask = sampling_pattern("random", (128, 96), r, 0.32 / r, 0)
    perfect = ifft2c(torch.from_numpy(np.where(mask, noisy, clean.numpy()))).abs().numpy()
    center = slice(16, 112)
    mse = np.mean((perfect - scan.target[0])[center] ** 2)  # type: ignore[index]
    exact = 10 * math.log10(scan.target[0, center].max() ** 2 / mse)  # type: ignore[index]
    known = Scan(scan.name, scan.kspace, target=scan.target, attributes={"noise": [noise]})
    assert ceiling(known, mask) == pytest.approx(exact, abs=0.25)


def test_noise_is_estimated_line_by_line() -> None:
    """Scanners filter lines; an estimate at the corners of k-space took the noise for half of what it is."""
    profile = 0.2 + np.exp(-(np.linspace(-2, 2, 64) ** 2))
    smooth = np.exp(-8 * (np.linspace(-1, 1, 96)[:, None] ** 2 + np.linspace(-1, 1, 64) ** 2)).astype(np.complex64)
    kspace = np.stack([fft2c(torch.from_numpy(smooth)).numpy()] * 4) + profile * complex_normal((4, 96, 64))
    kspace[:, :, -4:] = 0
    scan = Scan("x.h5", kspace.astype(np.complex64))
    found = np.sqrt(noise_power(scan))
    assert found.shape == (4, 64) and (found[:, -4:] == 0).all()
    np.testing.assert_allclose(found[0, 3:57], profile[3:57], rtol=0.15)
    np.testing.assert_allclose(pixel_noise(scan), np.sqrt((profile[:60] ** 2).sum() / 64), rtol=0.05)


def test_ceiling_needs_something_missing_and_counts_empty_lines_as_known() -> None:
    kspace = complex_normal((2, 32, 32))
    target = np.abs(ifft2c(torch.from_numpy(kspace)).numpy())
    assert ceiling(Scan("x.h5", kspace, target=target), np.ones(32, dtype=bool)) is None
    kspace[:, :, 16:] = 0
    mask = np.arange(32) < 16
    assert ceiling(Scan("x.h5", kspace, target=target), mask) is None
    assert ceiling(Scan("x.h5", kspace[:, None], target=target), mask) is None  # several coils


# peers


@pytest.mark.skipif(bart.version() is None, reason="bart is not installed")
@pytest.mark.parametrize("shape", [(32, 32), (32, 30), (30, 29)])
@pytest.mark.parametrize("method", ["bart-wavelet", "bart-tv"])
def test_bart_has_our_fourier_transform_on_every_size(shape: tuple[int, int], method: str) -> None:
    """On sizes that are no multiple of 4 its image was shifted or of the other sign, and worse than zero-filling."""
    kspace = 1e-4 * small_kspace(1, *shape)[0].numpy()
    image = ifft2c(torch.from_numpy(kspace)).numpy()
    mask = sampling_pattern("random", shape, 2, 0.3, 0)
    whole = bart.reconstruct(kspace, np.ones(1, dtype=bool), method, 1e-6, 20)
    np.testing.assert_allclose(whole, image, atol=1e-5 * np.abs(image).max())
    zero_filled = ifft2c(torch.from_numpy(np.where(mask, kspace, 0))).numpy()
    solved = bart.reconstruct(kspace, mask, method, 0.01)
    assert np.linalg.norm(solved - image) < 0.9 * np.linalg.norm(zero_filled - image)


def test_bart_that_fails_or_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "first\nERROR: bad option\n")

    monkeypatch.setattr(bart, "version", lambda: "v1")
    monkeypatch.setattr(bart.subprocess, "run", fail)
    with pytest.raises(InputError, match=r"bart pics -w 1 .*failed \(ERROR: bad option\)"):
        bart.reconstruct(complex_normal((8, 8)), np.ones(8, dtype=bool), "bart-tv", 0.01)
    monkeypatch.setattr(bart, "version", lambda: None)
    with pytest.raises(InputError, match="not installed"):
        bart.reconstruct(complex_normal((8, 8)), np.ones(8, dtype=bool), "bart-tv", 0.01)


def test_strengths_are_of_the_nearest_acceleration_and_the_same_kind(tmp_path: Path) -> None:
    assert contestants.strength_for(BEST, "tv", 4.1, "raw") == 0.01
    assert contestants.strength_for(BEST, "tv", 3.9, "raw") == 0.001
    assert contestants.strength_for(BEST, "tv", 3.9, "simulated") == 0.02
    with pytest.raises(InputError, match="no tuned strength"):
        contestants.strength_for([], "tv", 4, "raw")
    for text in ("{}", "no JSON", '{"best": [{"method": "tv"}]}'):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(InputError, match=r"t.json: no results of tuning"):
            contestants.read_strengths(tmp_path / "t.json")


def test_slicewise_delivers_as_the_package_does() -> None:
    """Also where the scanner left lines empty, and the target is smaller than k-space."""
    kspace = complex_normal((2, 24, 20))
    kspace[:, :, 16:] = 0
    scan = Scan("x.h5", kspace, target=np.ones((2, 16, 18), dtype=np.float32), padding=(0, 16))
    mask = np.arange(20) % 2 == 0
    seen = []

    def solve(y: np.ndarray, known: np.ndarray) -> np.ndarray:
        seen.append(known)
        return ifft2c(torch.from_numpy(y)).numpy()

    volume = contestants.slicewise(scan, mask, solve)
    np.testing.assert_allclose(volume, reconstruct_volume(scan, mask, make_method("zero-filled")), atol=1e-6)
    assert seen[0].shape == (24, 20) and seen[0][:, 16:].all() and seen[0][0, :16].tolist() == mask[:16].tolist()


# the run


def test_run_writes_a_row_for_every_volume_method_and_pattern(bench: dict[str, Path]) -> None:
    assert run_quality(bench) == 0
    rows = rows_of(bench)
    keys = [(row["pattern"], row["file"], row["method"]) for row in rows]
    patterns, files, methods = ("random 2x", "center 2x"), ("a.h5", "b.h5"), ("zero-filled", "amortized")
    assert keys == [(p, f, m) for p in patterns for f in files for m in methods]
    assert all(10 < row["PSNR"] < row["ceiling"] for row in rows if row["method"] == "zero-filled")
    provenance = json.loads((bench["results"] / "small.json").read_text())
    assert provenance["training_steps"] == 7 and provenance["inference"]["temperature"] == 1.5
    assert "| zero-filled |" in (bench["results"] / "small.md").read_text()


def test_resume_runs_only_what_is_missing_or_out_of_date(
    bench: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, str, str]] = []
    inner = quality.run_job

    def counted(job: quality.Job, given: list[contestants.Contestant], options: Any) -> list[dict[str, Any]]:
        ran.extend((label(job.pattern), job.file.name, one.name) for one in given)
        return inner(job, given, options)

    monkeypatch.setattr(quality, "run_job", counted)
    assert run_quality(bench, "--methods", "zero-filled", "--limit", "1") == 0
    assert ran == [("random 2x", "a.h5", "zero-filled"), ("center 2x", "a.h5", "zero-filled")]
    ran.clear()
    assert run_quality(bench, "--resume") == 0
    assert len(ran) == 6 and ("random 2x", "a.h5", "zero-filled") not in ran
    rows = rows_of(bench)
    assert [row["file"] for row in rows] == ["a.h5", "a.h5", "b.h5", "b.h5"] * 2  # the protocol's order, not the runs'
    ran.clear()
    save_weights(bench["weights.safetensors"], small_model(1), {})
    assert run_quality(bench, "--resume") == 0
    assert {method for _, _, method in ran} == {"amortized"} and len(ran) == 4
    assert len(rows_of(bench)) == 8


def test_interrupted_run_keeps_what_is_done(bench: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    inner = quality.run_job

    def fail(job: quality.Job, given: list[contestants.Contestant], options: Any) -> list[dict[str, Any]]:
        if job.file.name == "b.h5":
            raise InputError("stop")
        return inner(job, given, options)

    monkeypatch.setattr(quality, "run_job", fail)
    assert run_quality(bench) == 2
    assert [row["file"] for row in rows_of(bench)] == ["a.h5", "a.h5"]


def test_a_part_does_not_replace_results(bench: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_quality(bench, "--methods", "zero-filled") == 0
    assert run_quality(bench, "--methods", "zero-filled") == 2
    assert "holds results that a part would replace; add --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "unet"], "no method is left to run"),
        (["--methods", "magic"], "--methods: 'magic' is unknown"),
        (["--sets", "none"], "--sets: 'none' is unknown; choose from: small"),
        (["--unet", "random=file"], "write it as MASK_TYPE:ACCELERATION=FILE"),
        (["--unet", "random:4=nowhere.safetensors"], "nowhere.safetensors: no weights"),
        (["--strengths", "nowhere.json"], "nowhere.json: no results of tuning"),
    ],
)
def test_mistakes_are_one_line(
    bench: dict[str, Path], capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run_quality(bench, *options) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("quality: error: ") and message in last


def test_methods_that_cannot_run_are_left_out_with_a_line(
    bench: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bart, "version", lambda: None)
    assert run_quality(bench, "--methods", "zero-filled", "bart-tv", "unet") == 0
    shown = capsys.readouterr().err
    assert "bart-tv: left out, since bart is not installed" in shown
    assert "unet: left out, since no weights are given" in shown
    assert {row["method"] for row in rows_of(bench)} == {"zero-filled"}


def test_seconds_are_medians_after_a_warm_up(bench: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    assert len(timing.repeat(lambda: calls.append(1), 3)) == 3 and len(calls) == 4
    monkeypatch.setattr(timing, "SHAPES", ((48, 32),))
    assert run_quality(bench, "--time") == 0
    results = json.loads((bench["results"] / "seconds.json").read_text())
    assert set(results["seconds"]["48x32"]) == {"zero-filled", "amortized", "uncertainty"}
    assert 0 < results["peak_memory_GiB"] < 64
    times = results["seconds"]["48x32"]["amortized"]
    assert 0 < times["least"] <= times["median"] <= times["most"] and results["threads"] == 1
    assert not (bench["results"] / "small.json").exists()


def test_phantom_of_the_timing_is_always_the_same() -> None:
    scan = timing.phantom_scan((40, 32))
    np.testing.assert_array_equal(scan.kspace, timing.phantom_scan((40, 32)).kspace)
    assert scan.kspace.shape == (1, 40, 32) and scan.target is not None and scan.target.max() > 0.5


# tuning


def test_best_strength_per_choice() -> None:
    scores = {(2, 0.1): 30.0, (2, 0.2): 31.0, (8, 0.1): 25.0, (8, 0.2): 22.0}
    rows = [
        {"method": "tv", "acceleration": r, "kind": "raw", "strength": s, "PSNR": psnr + shift}
        for (r, s), psnr in scores.items()
        for shift in (-1.0, 1.0)
    ]
    assert [(row["acceleration"], row["strength"], row["PSNR"]) for row in tune_classical.best_of(rows)] == [
        (2, 0.2, 31.0),
        (8, 0.1, 25.0),
    ]
    gains = tune_classical.gains(rows)["tv"]
    assert gains == {"one": 27.5, "per acceleration": 28.0, "per acceleration and kind": 28.0}
    assert json.loads(tune_classical.layout({"best": rows, "gain": gains, "bart": None}))["best"] == rows


# tables and plots


def row(method: str = "tv", pattern: str = "random 4x", scans: str = "raw", **changes: Any) -> dict[str, Any]:
    base = {"set": scans, "file": "a.h5", "pattern": pattern, "method": method, "R": 4.0, "PSNR": 30.0, "SSIM": 0.9}
    return {**base, "NMSE": 0.01, "ceiling": 41.0, "seconds": 2.0, **changes}


def test_table_of_one_pattern() -> None:
    rows = [row(), row(file="b.h5", PSNR=32.0, ceiling=43.0), row("unet", foreign=True), row(scans="T1", ceiling=None)]
    assert tables.quality_tables(rows) == (
        "| method | raw: PSNR, SSIM, NMSE | T1: PSNR, SSIM, NMSE | s / slice, not alone |\n"
        "| --- | --- | --- | --- |\n"
        "| TV (sigpy) | 31.00, 0.900, 0.0100 | 30.00, 0.900, 0.0100 | 2.00 |\n"
        "| U-Net (fastMRI) | 30.00, 0.900, 0.0100* |  | 2.00 |\n"
        "| noise-limited ceiling | 42.00 |  |  |\n"
        "\n\\* this network was trained for another mask\n"
    )
    assert "| s / slice |" in tables.quality_tables(rows, {"tv": 0.5, "unet": 0.1})
    assert "| 0.50 |" in tables.quality_tables(rows, {"tv": 0.5, "unet": 0.1})
    assert "not alone" in tables.quality_tables(rows, {"tv": 0.5})  # not all of them were timed


def test_table_of_several_patterns() -> None:
    rows = [row(), row(pattern="random 8x", R=8.2, PSNR=25.0, ceiling=40.0), row("samples")]
    assert tables.quality_tables(rows) == (
        "| raw: PSNR, SSIM | random 4x (R = 4.0) | random 8x (R = 8.2) |\n"
        "| --- | --- | --- |\n"
        "| TV (sigpy) | 30.00, 0.900 | 25.00, 0.900 |\n"
        "| mrihvae (mean of samples) | 30.00, 0.900 |  |\n"
        "| noise-limited ceiling | 41.00 | 40.00 |\n"
    )


def test_more_patterns_than_methods_are_rows() -> None:
    table = tables.quality_tables([row(), row(pattern="random 8x", R=8.2, PSNR=25.0, ceiling=40.0)])
    assert table == (
        "| raw: PSNR, SSIM | TV (sigpy) | noise-limited ceiling |\n"
        "| --- | --- | --- |\n"
        "| random 4x (R = 4.0) | 30.00, 0.900 | 41.00 |\n"
        "| random 8x (R = 8.2) | 25.00, 0.900 | 40.00 |\n"
    )


def test_readme_tables_are_generated_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, readme = tmp_path / "results", tmp_path / "README.md"
    results.mkdir()
    (results / "p.json").write_text(json.dumps({"volumes": [row()]}))
    levels = {"levels": [0.5, 0.7], "calibration": [{"set": "raw", "pattern": "random 4x", "correlation": 0.41}]}
    levels["calibration"][0]["coverage"] = {"0.5": 0.52, "0.7": 0.7}  # type: ignore[index]
    (results / "calibration.json").write_text(json.dumps(levels))
    readme.write_text(
        "a\n<!-- results:p -->\nold\n<!-- /results -->\nb\n<!-- results:calibration -->\n<!-- /results -->"
    )
    words = ["--pages", str(readme), "--results", str(results)]
    assert tables.main([*words, "--check"]) == 2
    assert "run benchmarks/tables.py" in capsys.readouterr().err and "old" in readme.read_text()
    assert tables.main(words) == 0
    text = readme.read_text()
    assert text.startswith("a\n<!-- results:p -->\n| method |") and "old" not in text
    assert "| raw | random 4x | 52.0 | 0.41 |\n<!-- /results -->" in text
    assert tables.main([*words, "--check"]) == 0
    readme.write_text("<!-- results:q -->\n<!-- /results -->")
    assert tables.main(words) == 2 and "q.json: not readable as results" in capsys.readouterr().err
    readme.write_text("<!-- results:p -->\n")
    assert tables.main(words) == 2 and "has no '<!-- /results -->'" in capsys.readouterr().err


def test_tables_of_several_pages_are_checked_and_generated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pages without tables are left alone; without any table at all it is a mistake."""
    results, plain, page = tmp_path / "results", tmp_path / "plain.md", tmp_path / "page.md"
    results.mkdir()
    (results / "p.json").write_text(json.dumps({"volumes": [row()]}))
    plain.write_text("text\n")
    page.write_text("<!-- results:p -->\nold\n<!-- /results -->\n")
    words = ["--results", str(results), "--pages", str(plain)]
    assert tables.main(words) == 2 and f"{plain}: no table of results" in capsys.readouterr().err
    assert tables.main([*words, str(page), "--check"]) == 2
    assert f"{page}: its tables are not those of the results" in capsys.readouterr().err
    assert tables.main([*words, str(page)]) == 0
    assert plain.read_text() == "text\n" and "| TV (sigpy) |" in page.read_text()
    assert capsys.readouterr().out == f"{page}: 1 tables\n"
    assert tables.main([*words, str(page), "--check"]) == 0


def test_summary_has_real_scans_of_one_coil_and_of_several(tmp_path: Path) -> None:
    for factor in (4, 8):
        volumes = [
            row(set="raw 0.055 T", pattern=f"random {factor}x"),
            row(set="raw 0.055 T", pattern=f"random {factor}x", PSNR=34.0),
            row(set="T1ce, simulated", pattern=f"random {factor}x", PSNR=50.0),
            row(set="raw 0.055 T", pattern=f"random {factor}x", method="unet", PSNR=31.0),
        ]
        (tmp_path / f"singlecoil_random_{factor}x.json").write_text(json.dumps({"volumes": volumes}))
    several = [row(set="MPRAGE, real, 4 coils", pattern="random 8x", method="varnet", PSNR=27.0, SSIM=0.8)]
    (tmp_path / "multicoil.json").write_text(json.dumps({"volumes": several}))
    lines = tables.table_of(tmp_path, "summary").splitlines()
    assert lines[3] == "| TV (sigpy) | 32.00, 0.900 | 32.00, 0.900 |  |  |"
    assert lines[5] == "| U-Net or VarNet (fastMRI) | 31.00, 0.900 | 31.00, 0.900 |  | 27.00, 0.800 |"


def test_plots_are_written_where_there_are_results(tmp_path: Path) -> None:
    assert plots.write_plots(tmp_path) == []
    rows = [row(m, p, s, R=r, PSNR=34 - r) for m in METHODS for s in ("raw", "T1") for p, r in (("a", 2.1), ("b", 4.2))]
    rows[0]["ceiling"] = None
    (tmp_path / "singlecoil_accelerations.json").write_text(json.dumps({"volumes": rows}))
    (tmp_path / "singlecoil_random_4x.json").write_text(json.dumps({"volumes": rows[::2]}))
    written = plots.write_plots(tmp_path)
    assert [path.name for path in written] == ["quality_over_acceleration.png", "quality_over_seconds.png"]
    figure = plots.over_acceleration(rows)
    lines = {line.get_label(): line for line in figure.axes[1].get_lines()}
    np.testing.assert_allclose(lines["TV (sigpy)"].get_xydata(), [(2.1, 31.9), (4.2, 29.8)])
    timed = {name: {"median": 0.5} for name in METHODS}
    (tmp_path / "seconds.json").write_text(json.dumps({"seconds": {"256x256": timed}}))
    seconds = plots.seconds_of(tmp_path)
    assert seconds == dict.fromkeys(METHODS, 0.5)
    assert plots.over_seconds(rows, seconds).axes[0].get_xlabel() == "seconds per slice of 256 x 256"
    assert "not alone" in plots.over_seconds(rows).axes[0].get_xlabel()


# calibration


def test_coverage_of_gaussians_is_the_level() -> None:
    rng = np.random.default_rng(0)
    std = rng.uniform(0.5, 2, 40_000)
    error = np.abs(std * rng.standard_normal(len(std)))
    found = np.array(calibration.covered(error, std)) / len(std)
    np.testing.assert_allclose(found, calibration.LEVELS, atol=0.01)
    too_narrow = np.array(calibration.covered(error, std / 2)) / len(std)
    expected = 2 * NormalDist().cdf(NormalDist().inv_cdf(0.95) / 2) - 1
    assert too_narrow[calibration.LEVELS.index(0.9)] == pytest.approx(expected, abs=0.01)


def test_summary_pools_pixels_and_averages_slices() -> None:
    count = len(calibration.LEVELS)
    one = {"pixels": 100, "covered": [50] * count, "correlation": 0.5, "relative": [1.0, 2.0]}
    two = {"pixels": 300, "covered": [300] * count, "correlation": 0.1, "relative": [2.0, 1.0]}
    found = calibration.summary([one, two])
    assert found["coverage"]["0.9"] == 0.875 and found["coverage_of_slices"]["0.9"] == 0.75
    assert found["correlation"] == 0.3 and found["deviation_over_error"] == 1.0
    with pytest.raises(InputError, match="no slice has a head"):
        calibration.summary([])


def test_bisection_finds_the_spread() -> None:
    assert calibration.bisect(lambda t: 1 - math.exp(-t), 1 - math.exp(-1.7)) == pytest.approx(1.7, rel=0.02)
    for constant in (0.5, 0.95):
        with pytest.raises(InputError, match="no factor from 0.2 to 20.0 covers 90%"):
            calibration.bisect(lambda t, constant=constant: constant, 0.9)  # type: ignore[misc]


def test_head_is_found_in_noise() -> None:
    clean = np.pad(phantom(64, 64), 16)
    clean[40:46, 40:46] = 0  # a dark hole in it
    white = torch.from_numpy(complex_normal(clean.shape)).numpy()
    head = calibration.head_mask(np.abs(clean + 0.08 * white), 0.08)
    truth = np.pad(phantom(64, 64), 16) > 0.3
    truth[40:46, 40:46] = True
    assert np.count_nonzero(head & truth) > 0.85 * np.count_nonzero(truth) and head[43, 43]
    assert np.count_nonzero(head & ~truth) < 0.1 * np.count_nonzero(truth)  # a margin of a pixel
    assert not calibration.head_mask(np.abs(0.1 * white), 0.1).any()


def test_calibration_runs_and_fits(bench: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    words = [str(bench["small.toml"]), "--data", str(bench["data"]), "--results", str(bench["results"])]
    words += ["--checkpoint", str(bench["weights.safetensors"]), "--samples", "3", "--threads", "1"]
    assert calibration.main(words) == 0
    results = json.loads((bench["results"] / "calibration.json").read_text())
    assert [(one["set"], one["pattern"], one["slices"]) for one in results["calibration"]] == [
        ("small", "random 2x", 4),
        ("small", "center 2x", 4),
    ]
    assert results["temperature"] == 1.5 and results["spread"] == 1.2  # the card's
    for one in results["calibration"]:
        assert list(one["coverage"].values()) == sorted(one["coverage"].values())
    assert (bench["results"] / "calibration.png").exists() and (bench["results"] / "calibration.md").exists()
    scan = read_scan(bench["data"] / "scans" / "a.h5").single_slice(0)
    monkeypatch.setattr(calibration, "training_scans", lambda data: [(scan, "raw")])
    assert calibration.main([*words, "--fit"]) == 0
    fit = json.loads((bench["results"] / "calibration_fit.json").read_text())
    assert fit["coverage"][f"{fit['spread']:g}"] == pytest.approx(0.9, abs=0.01) and len(fit["weights"]) == 12
    assert calibration.main([*words, "--spread", "0"]) == 0
    none = json.loads((bench["results"] / "calibration.json").read_text())["calibration"]
    assert all(a["coverage"]["0.9"] > b["coverage"]["0.9"] for a, b in zip(results["calibration"], none, strict=True))


# packed slices


def packable() -> list[Dataset]:
    rng = np.random.default_rng(0)
    raw = [complex_normal((24, 20 + 2 * (k % 2)), k) for k in range(6)]
    pictures = [rng.integers(0, 4000, (300, 200)).astype(np.uint16) for _ in range(9)]
    return [Dataset(Path("a/raw/train"), raw, True, 0.25), Dataset(Path("b/train"), pictures, False, 0.75)]


def test_packed_slices_round_trip(tmp_path: Path) -> None:
    datasets, path = packable(), tmp_path / "slices.h5"
    pack_slices.pack(datasets, path, 1e7)
    raw, pictures = pack_slices.read_packed(path)
    assert (raw.path, raw.raw, raw.weight) == (Path("raw/train"), True, 0.25)
    for array, original in zip(raw.arrays, datasets[0].arrays, strict=True):  # two matrix sizes, in the old order
        np.testing.assert_array_equal(array, original)
    assert not pictures.raw and pictures.weight == 0.75 and len(pictures.arrays) == 9
    assert {(array.shape, array.dtype.name, int(array.max())) for array in pictures.arrays} == {
        ((256, 171), "uint8", 255)
    }
    pack_slices.pack(datasets, path, 1e7, bits=16)
    small = pack_slices.packed_slice(phantom(64, 48), False, 16)
    np.testing.assert_allclose(small / 65535, phantom(64, 48) / phantom(64, 48).max(), atol=1e-5)
    assert pack_slices.read_packed(path)[1].arrays[0].dtype == np.uint16


def test_packed_slices_fit_and_are_evenly_spread(tmp_path: Path) -> None:
    datasets = packable()
    pack_slices.pack(datasets, tmp_path / "slices.h5", 250_000)
    assert (tmp_path / "slices.h5").stat().st_size <= 250_000
    raw, pictures = pack_slices.read_packed(tmp_path / "slices.h5")
    assert len(raw.arrays) == 6 and 3 <= len(pictures.arrays) < 9
    np.testing.assert_array_equal(pictures.arrays[0], pack_slices.packed_slice(datasets[1].arrays[0], False, 8))
    with pytest.raises(InputError, match="do not hold a slice of each dataset"):
        pack_slices.pack(datasets, tmp_path / "none.h5", 5000)
    assert [path.name for path in tmp_path.iterdir()] == ["slices.h5"]


def test_what_a_mask_costs_is_against_random_lines_of_equal_acceleration() -> None:
    def rows(pattern: str, effective: float, psnr: float, **more: Any) -> list[dict[str, Any]]:
        both = [("unet", psnr - 1), ("hybrid", psnr)]
        about = {"set": "raw", "file": "a.h5", "pattern": pattern, "R": effective}
        return [{**about, "method": method, "PSNR": level, **more} for method, level in both]

    random = rows("random 2x", 2.0, 34.0) + rows("random 8x", 8.0, 28.0) + rows("random 12x", 12.0, 20.0, foreign=True)
    masks = rows("random 2x", 2.0, 34.0) + rows("spiral 4x", 4.0, 30.9) + rows("radial 3x", 10.0, 40.0)
    masks += rows("magic 2x", 1.8, 34.0)
    lines = tables.mask_loss_table(masks, random).splitlines()
    assert lines[0] == "| mask | raw: U-Net (fastMRI), mrihvae (hybrid) |"
    # 31 at 4x, 34.46 on the line's short way beyond 2x; far beyond 8x there is nothing to compare
    assert lines[2:] == ["| spiral 4x (R = 4.0) | -0.10, -0.10 |", "| magic 2x (R = 1.8) | -0.46, -0.46 |"]


def test_sizes_are_shared_by_weight() -> None:
    assert pack_slices.share_out([100, 100], [1.0, 1.0], [3.0, 1.0], 40) == [30, 10]
    assert pack_slices.share_out([10, 100], [1.0, 1.0], [3.0, 1.0], 40) == [10, 30]
    assert pack_slices.share_out([10, 10], [1.0, 1.0], [3.0, 1.0], 40) == [10, 10]


def test_files_that_are_not_packed_slices_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    (tmp_path / "text.h5").write_text("no")
    for name, message in (("other.h5", "holds no packed"), ("text.h5", "not readable"), ("none.h5", "not readable")):
        with pytest.raises(InputError, match=message):
            pack_slices.read_packed(tmp_path / name)


def test_simulate_gives_what_the_noise_is_of() -> None:
    """`simulate` and the noise that files tell of are one computation."""
    rng = np.random.RandomState(1)
    kspace, noise = simulated_scans._simulate(phantom(64, 64), np.random.RandomState(1))
    torch.testing.assert_close(simulated_scans.simulate(phantom(64, 64), rng), kspace)
    assert noise == pytest.approx(0.01 * float(torch.quantile(ifft2c(kspace).abs(), 0.99)), rel=0.05)


# the demo of README.md


@pytest.mark.parametrize("timed", [True, False])
def test_block_of_the_demo(tmp_path: Path, timed: bool) -> None:
    """It is what the demo printed; seconds of a busy machine are left out."""
    (tmp_path / "out" / "comparison").mkdir(parents=True)
    Image.new("L", (40, 30)).save(tmp_path / "out" / "comparison" / f"{demo.SHOWN}.png")
    scores = {"tv": {"PSNR": 30.0, "SSIM": 0.5, "seconds": 2.0}}
    found = {"acceleration": 4, "threads": 2, "scans": [{"file": "x.h5", "title": "x", "scores": scores}]}
    (tmp_path / "out" / "demo.json").write_text(json.dumps(found))
    demo.keep(tmp_path / "out", tmp_path, timed)
    block = tables.render("<!-- results:demo -->\n<!-- /results -->\n", tmp_path, Path("README.md")).splitlines()
    assert block[1] == "```text" and block[5:7] == [f"Random masks, 4x{'; 2 CPU threads' if timed else ''}.", "```"]
    assert block[2].split() == ["x", "PSNR", "/", "dB", "SSIM", *(["s", "/", "slice"] if timed else [])]
    assert block[3].split() == ["TV", "(sigpy)", "30.00", "0.5000", *(["2.00"] if timed else [])]
    assert (tmp_path / "demo.png").is_file()

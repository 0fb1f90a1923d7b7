"""The evaluate command against fastMRI's own, its filters, its files and its errors."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from mrihvae.cli import evaluate as cli_evaluate
from mrihvae.cli.main import parse
from mrihvae.errors import InputError
from mrihvae.evaluation.scores import METRICS, evaluate
from tests.support.files import write_h5

KEYS = {"singlecoil": "reconstruction_esc", "multicoil": "reconstruction_rss"}


def perturb(targets: Path, predictions: Path, key: str, pad: int = 0, dtype: type = np.float32) -> None:
    """Write a prediction for every target: the target, wider by `pad`, plus noise that grows from file to file."""
    rng = np.random.default_rng(1)
    for k, path in enumerate(sorted(targets.iterdir())):
        with h5py.File(path) as file:
            target = file[key][()]
        target = np.pad(target, ((0, 0), (pad, pad), (pad, pad)))
        noise = rng.standard_normal(target.shape) * 0.02 * (k + 1) * target.max()
        write_h5(predictions / path.name, reconstruction=(target + noise).astype(dtype))


def fastmri_metrics(targets: Path, predictions: Path, key: str, acquisition: str | None = None) -> Any:
    from fastmri.evaluate import evaluate as fastmri_evaluate

    filters = {"acquisition": acquisition, "acceleration": None}
    return fastmri_evaluate(SimpleNamespace(target_path=targets, predictions_path=predictions, **filters), key)


def plain(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(np.asarray(value).item()) for name, value in values.items()}


def fastmri_line(metrics: Any) -> str:
    """Print as fastMRI's `Metrics.__repr__` would if its scalars could be formatted."""
    means, stddevs = plain(metrics.means()), plain(metrics.stddevs())
    return " ".join(f"{name} = {means[name]:.4g} +/- {2 * stddevs[name]:.4g}" for name in sorted(means))


def command(*words: str | Path) -> None:
    cli_evaluate.run(parse(["evaluate", *map(str, words)]))


@pytest.fixture
def volumes(tmp_path: Path) -> tuple[Path, Path]:
    """Targets of two acquisitions and accelerations with H above W, and predictions larger than them."""
    targets, predictions = tmp_path / "targets", tmp_path / "reconstructions"
    rng = np.random.default_rng(0)
    told = [("AXT1", 4), ("AXT2", 4), ("AXT2", 8), ("AXT2", 8), ("AXT1", 4)]
    for k, (acquisition, acceleration) in enumerate(told):
        images = rng.random((2 + k % 2, 23, 16 + k % 3), dtype=np.float32) * 1e-4
        attributes = {"acquisition": acquisition, "acceleration": acceleration}
        write_h5(targets / f"file{k}.h5", attributes, reconstruction_esc=images, reconstruction_rss=2 * images)
    perturb(targets, predictions, "reconstruction_esc", pad=3)
    return targets, predictions


@pytest.mark.parametrize("challenge", ["singlecoil", "multicoil"])
@pytest.mark.parametrize("acquisition", [None, "AXT1", "AXT2"])
def test_equals_fastmri_to_the_last_digit(
    volumes: tuple[Path, Path], challenge: str, acquisition: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = fastmri_metrics(*volumes, KEYS[challenge], acquisition)
    ours = evaluate(*volumes, challenge, acquisition)
    assert ours.means() == plain(theirs.means())
    assert ours.stddevs() == plain(theirs.stddevs())
    assert len(ours.rows) == {None: 5, "AXT1": 2, "AXT2": 3}[acquisition]
    words: list[str | Path] = ["--target-path", volumes[0], "--predictions-path", volumes[1], "--challenge", challenge]
    command(*words, *(["--acquisition", acquisition] if acquisition else []))
    assert capsys.readouterr().out.splitlines()[-1] == fastmri_line(theirs)


def test_accumulates_in_the_order_of_the_folder(volumes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = {
        volumes[0]: [volumes[0] / f"file{k}.h5" for k in (3, 0, 4, 2, 1)],
        volumes[1]: sorted(volumes[1].iterdir()),
    }
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(folder[path]))
    theirs = fastmri_metrics(*volumes, "reconstruction_esc")
    ours = evaluate(*volumes, "singlecoil")
    assert [row.file for row in ours.rows] == [path.name for path in folder[volumes[0]]]
    assert (ours.means(), ours.stddevs()) == (plain(theirs.means()), plain(theirs.stddevs()))


def test_equals_fastmri_in_double_precision(volumes: tuple[Path, Path]) -> None:
    shutil.rmtree(volumes[1])
    perturb(*volumes, "reconstruction_esc", dtype=np.float64)
    theirs = fastmri_metrics(*volumes, "reconstruction_esc")
    ours = evaluate(*volumes, "singlecoil")
    assert (ours.means(), ours.stddevs()) == (plain(theirs.means()), plain(theirs.stddevs()))


@pytest.mark.parametrize("challenge", ["singlecoil", "multicoil"])
def test_equals_fastmri_on_real_scans(data_dir: Path, tmp_path: Path, challenge: str) -> None:
    targets = data_dir / ("ulf_singlecoil/val" if challenge == "singlecoil" else "multicoil")
    perturb(targets, tmp_path, KEYS[challenge])
    theirs = fastmri_metrics(targets, tmp_path, KEYS[challenge])
    ours = evaluate(targets, tmp_path, challenge)
    assert ours.means() == plain(theirs.means())
    assert ours.stddevs() == plain(theirs.stddevs())
    assert 0 < ours.means()["NMSE"] < 1


def test_single_volume_has_no_spread(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "usc_mprage.h5"
    (tmp_path / "targets").mkdir()
    shutil.copy(data_dir / "multicoil" / name, tmp_path / "targets" / name)
    perturb(tmp_path / "targets", tmp_path / "predictions", "reconstruction_rss")
    theirs = fastmri_metrics(tmp_path / "targets", tmp_path / "predictions", "reconstruction_rss")
    target, prediction = data_dir / "multicoil" / name, tmp_path / "predictions" / name
    command("--target-path", target, "--predictions-path", prediction, "--challenge", "multicoil")
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == " ".join(f"{metric} = {plain(theirs.means())[metric]:.4g} +/- 0" for metric in METRICS)
    assert evaluate(target, prediction, "multicoil").means() == plain(theirs.means())


def test_table_json_and_csv(volumes: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (volumes[0] / "notes.txt").write_text("left alone")
    places: list[str | Path] = ["--json", tmp_path / "new" / "scores.json", "--csv", tmp_path / "new" / "scores.csv"]
    command("--target-path", volumes[0], "--predictions-path", volumes[1], "--challenge", "singlecoil", *places)
    evaluation = evaluate(*volumes, "singlecoil")
    rows = {row.file: row.scores() for row in evaluation.rows}

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "acquisition", "NMSE", "PSNR", "SSIM", "MSE", "slices"]
    first = rows["file0.h5"]
    assert lines[1].split() == [
        *("file0.h5", "AXT1"),
        *(f"{first[metric]:.4g}" for metric in ("NMSE", "PSNR", "SSIM", "MSE")),
        "2",
    ]
    assert [line.split()[0] for line in lines[1:6]] == sorted(rows)
    axt2 = evaluation.of("AXT2").means()
    assert [line.split()[:4] for line in lines[6:8]][1] == ["mean", "of", "3", "AXT2"]
    assert lines[7].split()[4:] == [*(f"{axt2[metric]:.4g}" for metric in ("NMSE", "PSNR", "SSIM", "MSE")), "8"]

    written = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert written["challenge"] == "singlecoil"
    assert written["filter"] == {"acquisition": None, "acceleration": None}
    assert written["versions"].keys() == {"fastmri", "mrihvae"} and written["versions"]["fastmri"] != "not installed"
    assert written["overall"] == {"volumes": 5, "means": evaluation.means(), "stddevs": evaluation.stddevs()}
    assert list(written["acquisitions"]) == ["AXT1", "AXT2"]
    assert written["acquisitions"]["AXT2"]["means"] == axt2
    assert [volume["file"] for volume in written["volumes"]] == sorted(rows)
    assert {metric: written["volumes"][0][metric] for metric in METRICS} == first

    with (tmp_path / "new" / "scores.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["file"] for row in table] == sorted(rows)
    assert [row["slices"] for row in table] == ["2", "3", "2", "3", "2"]
    assert {metric: float(table[0][metric]) for metric in METRICS} == first
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["scores.csv", "scores.json"]


def test_perfect_prediction_is_written_as_valid_json(volumes: tuple[Path, Path], tmp_path: Path) -> None:
    with h5py.File(volumes[0] / "file0.h5") as file:
        target = file["reconstruction_esc"][()]
    write_h5(volumes[1] / "file0.h5", reconstruction=target)
    pair = ("--target-path", volumes[0] / "file0.h5", "--predictions-path", volumes[1] / "file0.h5")
    command(*pair, "--challenge", "singlecoil", "--json", tmp_path / "scores.json")
    volume = json.loads((tmp_path / "scores.json").read_text())["volumes"][0]
    assert (volume["MSE"], volume["NMSE"], volume["PSNR"], volume["SSIM"]) == (0.0, 0.0, None, pytest.approx(1.0))


def test_acceleration_filter_reads_target_then_prediction(volumes: tuple[Path, Path]) -> None:
    fast = evaluate(*volumes, "singlecoil", acceleration=8)
    assert sorted(row.file for row in fast.rows) == ["file2.h5", "file3.h5"]
    both = evaluate(*volumes, "singlecoil", acquisition="AXT2", acceleration=4)
    assert [row.file for row in both.rows] == ["file1.h5"]
    for k, path in enumerate(sorted(volumes[0].iterdir())):
        with h5py.File(path, "a") as file:
            del file.attrs["acceleration"]
        with h5py.File(volumes[1] / path.name, "a") as file:
            file.attrs["acceleration"] = 6 if k == 4 else 3
    assert [row.file for row in evaluate(*volumes, "singlecoil", acceleration=6).rows] == ["file4.h5"]


def test_acquisition_filter_needs_no_predictions_for_the_rest(volumes: tuple[Path, Path]) -> None:
    for k in (1, 2, 3):
        (volumes[1] / f"file{k}.h5").unlink()
    assert len(evaluate(*volumes, "singlecoil", acquisition="AXT1").rows) == 2


def drop_attribute(targets: Path, predictions: Path) -> None:
    with h5py.File(targets / "file1.h5", "a") as file:
        del file.attrs["acceleration"]


@pytest.mark.parametrize(
    ("filters", "spoil", "message"),
    [
        ({"acquisition": "PD"}, None, "no volume has acquisition 'PD'; there are: AXT1, AXT2"),
        ({"acceleration": 6}, None, "no volume has acceleration 6; there are: 4, 8"),
        (
            {"acquisition": "AXT1", "acceleration": 8},
            None,
            "no volume of acquisition 'AXT1' has acceleration 8; there are: 4",
        ),
        (
            {"acceleration": 4},
            drop_attribute,
            "neither it nor its prediction has the acceleration (attribute 'acceleration'); do not filter by it",
        ),
    ],
)
def test_filter_that_cannot_match(
    volumes: tuple[Path, Path], filters: dict[str, Any], spoil: Callable[[Path, Path], None] | None, message: str
) -> None:
    if spoil:
        spoil(*volumes)
    with pytest.raises(InputError) as caught:
        evaluate(*volumes, "singlecoil", **filters)
    assert str(caught.value).endswith(message) and "\n" not in str(caught.value)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def prediction(images: np.ndarray) -> Callable[[Path, Path], object]:
    return lambda targets, predictions: write_h5(predictions / "file2.h5", reconstruction=images)


def target(images: np.ndarray) -> Callable[[Path, Path], object]:
    return lambda targets, predictions: write_h5(targets / "file2.h5", reconstruction_esc=images)


ONES = np.ones((2, 23, 18), np.float32)
SPOILED: list[tuple[Callable[[Path, Path], object], str, str]] = [
    (lambda t, p: (p / "file2.h5").unlink(), "reconstructions/file2.h5", "needs a prediction"),
    (
        lambda t, p: (p / "file2.h5").rename(p / "file2_repetition1.h5"),
        "reconstructions/file2.h5",
        "filter it out (the folder has file0.h5, file1.h5, file2_repetition1.h5, ",
    ),
    (lambda t, p: write_h5(p / "file2.h5", images=ONES), "reconstructions/file2.h5", "no dataset 'reconstruction'"),
    (lambda t, p: write_h5(t / "file2.h5", kspace=ONES), "targets/file2.h5", "no dataset 'reconstruction_esc'"),
    (lambda t, p: truncate(p / "file2.h5"), "reconstructions/file2.h5", "truncated or not an HDF5 file"),
    (lambda t, p: truncate(t / "file2.h5"), "targets/file2.h5", "truncated or not an HDF5 file"),
    (lambda t, p: (p / "file2.h5").write_text("no"), "reconstructions/file2.h5", "truncated or not an HDF5 file"),
    (prediction(ONES * np.float32("nan")), "reconstructions/file2.h5", "holds NaN or infinite values"),
    (target(ONES * np.float32("inf")), "targets/file2.h5", "holds NaN or infinite values"),
    (
        prediction(ONES[:1]),
        "reconstructions/file2.h5",
        "shape (1, 23, 18); file2.h5 needs 2 slices of at least 18 x 18",
    ),
    (prediction(ONES[:, :17]), "reconstructions/file2.h5", "shape (2, 17, 18); file2.h5 needs 2 slices"),
    (prediction(ONES[:, :, :17]), "reconstructions/file2.h5", "shape (2, 23, 17); file2.h5 needs 2 slices"),
    (prediction(ONES[0]), "reconstructions/file2.h5", "float32 of shape (23, 18); store float32 magnitudes"),
    (prediction(ONES + 0j), "reconstructions/file2.h5", "is complex64 of shape"),
    (target(ONES[:, :17]), "targets/file2.h5", "slices of 17 x 18; fastMRI scores the center 18 x 18"),
    (target(ONES[:, :, :6]), "targets/file2.h5", "needs H >= W >= 7"),
    (target(0 * ONES), "targets/file2.h5", "nowhere above 0"),
]


@pytest.mark.parametrize(("spoil", "file", "message"), SPOILED)
def test_bad_file_is_named_in_one_line(
    volumes: tuple[Path, Path], spoil: Callable[[Path, Path], object], file: str, message: str
) -> None:
    spoil(*volumes)
    with pytest.raises(InputError) as caught:
        evaluate(*volumes, "singlecoil")
    text = str(caught.value)
    assert text.startswith(f"{volumes[0].parent}/{file}: ") and message in text and ";" in text and "\n" not in text


def test_truncated_file_is_named_when_filtering(volumes: tuple[Path, Path]) -> None:
    truncate(volumes[0] / "file1.h5")
    with pytest.raises(InputError, match="file1.h5: truncated or not an HDF5 file"):
        evaluate(*volumes, "singlecoil", acquisition="AXT1")


def test_height_below_width_fails_in_fastmri_too(volumes: tuple[Path, Path]) -> None:
    target(ONES[:, :17])(*volumes)
    with pytest.raises(ValueError, match="Invalid shapes"):
        fastmri_metrics(*volumes, "reconstruction_esc")


def test_bad_places(volumes: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no .h5 file in this folder"):
        evaluate(tmp_path / "empty", volumes[1], "singlecoil")
    with pytest.raises(InputError, match="empty: no .h5 file in this folder; give a reconstruction file"):
        evaluate(volumes[0], tmp_path / "empty", "singlecoil")
    with pytest.raises(InputError, match="nowhere: file not found"):
        evaluate(tmp_path / "nowhere", volumes[1], "singlecoil")
    with pytest.raises(InputError, match="file0.h5: is one file for 5 targets"):
        evaluate(volumes[0], volumes[1] / "file0.h5", "singlecoil")
    with pytest.raises(InputError, match="challenge 'knee' is unknown"):
        evaluate(*volumes, "knee")

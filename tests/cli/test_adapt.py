"""`mrihvae adapt`: from files to weights that `mrihvae reconstruct` takes, and every mistake in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrihvae.cli.main import main
from mrihvae.cli.output_folder import claim_results
from mrihvae.model.weights import load_card, load_model, save_weights
from tests.support.files import error_of, run, truncate, write_scan
from tests.support.small import small_kspace, small_model
from tests.support.small_coils import calibrated, coil_scans

LINES = calibrated(48).numpy()
NO_TARGET: dict[str, Any] = {"reconstruction_esc": None, "reconstruction_rss": None}


def write_undersampled(path: Path, kspace: torch.Tensor, lines: np.ndarray = LINES) -> Path:
    return write_scan(path, tuple(kspace.shape), kspace=np.where(lines, kspace.numpy(), 0), mask=lines, **NO_TARGET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Undersampled scans of one coil and of several, a fully sampled one, and small weights."""
    folder = tmp_path_factory.mktemp("site")
    write_undersampled(folder / "one" / "a.h5", small_kspace(5, 32, 48))
    write_undersampled(folder / "one" / "b.h5", small_kspace(2, 32, 48, seed=9))
    write_undersampled(folder / "several" / "c.h5", coil_scans(2, 3, 32, 48)[0])
    write_undersampled(folder / "few" / "d.h5", small_kspace(1, 32, 48), np.abs(np.arange(48) - 24) < 9)
    write_scan(folder / "full" / "e.h5", (1, 32, 48), kspace=small_kspace(1, 32, 48).numpy())
    save_weights(folder / "small.safetensors", small_model(), {"spread": 1.5, "data": [{"path": "heads"}]})
    return folder


@pytest.mark.parametrize("kind", ["one", "several"])
def test_adapted_weights_reconstruct(
    folder: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site, start = tmp_path / "site", folder / "small.safetensors"
    words = ("--checkpoint", start, "--steps", "2", "--output", site)
    assert run("adapt", folder / kind, *words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("check on held-out lines:") and shown[1].startswith(f"weights: {site}")
    assert shown[-1].startswith(f"next: mrihvae reconstruct {folder / kind} ")  # all scans, as they were given
    command = shown[-1].removeprefix("next: mrihvae ").split()
    command[-1] = str(tmp_path / "out")
    assert main(command) == 0
    assert json.loads((tmp_path / "out" / "reconstruct.json").read_text())["volumes"]
    card = load_card(site / "weights.safetensors")
    scans = card["adapted to"]["scans"]
    assert [scan["name"] for scan in scans] == (["a.h5", "b.h5"] if kind == "one" else ["c.h5"])
    assert scans[0]["acceleration"] == pytest.approx(48 / LINES.sum(), abs=1e-3)
    assert scans[0]["coils"] == (1 if kind == "one" else 3)
    assert card["adapted to"]["license"].startswith("the user's data")
    assert card["spread"] == 1.5 and card["data"] == [{"path": "heads"}]
    assert card["begun"]["all"].startswith("small, SHA-256 ")
    before, after = load_model(str(start)).state_dict(), load_model(str(site / "weights.safetensors")).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("r."))


def test_resumed_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("adapt", folder / "one", "--checkpoint", folder / "small.safetensors", "--output", tmp_path / "site")
    assert run(*words, "--steps", "40", "--minutes", "0.00001") == 0
    assert "stopped at step 1 of 40; continue with --resume" in capsys.readouterr().out
    assert "already holds a run; add --resume" in error_of(capsys, *words)
    assert "the resumed run has 0" in error_of(capsys, *words, "--resume", "--seed", "3")
    other = ("adapt", folder / "one" / "a.h5", *words[2:], "--resume")
    assert "its run was started with other scans" in error_of(capsys, *other)
    assert run(*words, "--resume", "--steps", "3") == 0
    assert "stopped at" not in capsys.readouterr().out
    assert load_card(tmp_path / "site" / "weights.safetensors")["counters"]["steps"] == 3


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("", (), "SCANS: nothing to adapt to"),
        ("full", (), "e.h5: is fully sampled; train on such scans with 'mrihvae train'"),
        ("few", (), "d.h5: too few lines were acquired outside the calibration region"),
        ("nowhere", (), "nowhere"),
        ("one several", (), "SCANS: single-coil and multi-coil scans need different weights"),
        ("one", ("--checkpoint", "restoration"), "these weights have no posterior for undersampled scans"),
        ("one", ("--checkpoint", "nothing"), "nothing: neither shipped weights"),
        ("one", ("--steps", "0"), "--minutes, --steps and --slices: must be above 0"),
        ("one", ("--resume",), "so there is nothing to resume"),
    ],
)
def test_mistakes(
    folder: Path, tmp_path: Path, kind: str, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [folder / name for name in kind.split()]
    assert message in error_of(capsys, "adapt", *paths, "--output", tmp_path / "out", *words)
    assert not list(tmp_path.glob("out/weights*"))


def test_unreadable_file_among_others(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_undersampled(tmp_path / "in" / "a.h5", small_kspace(2, 32, 48))
    truncate(write_undersampled(tmp_path / "in" / "b.h5", small_kspace(2, 32, 48)))
    start = folder / "small.safetensors"
    words = ("--checkpoint", start, "--steps", "1", "--output", tmp_path / "out")
    assert "b.h5" in error_of(capsys, "adapt", tmp_path / "in" / "b.h5", *words)
    assert run("adapt", tmp_path / "in", *words) == 0
    assert "b.h5: truncated" in capsys.readouterr().err
    card = load_card(tmp_path / "out" / "weights.safetensors")
    assert [scan["name"] for scan in card["adapted to"]["scans"]] == ["a.h5"]


def test_folder_that_another_process_writes_to(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    with claim_results(tmp_path / "out", ["weights.safetensors"]):
        found = error_of(capsys, "adapt", folder / "one", "--output", tmp_path / "out")
    assert "is writing weights.safetensors there" in found

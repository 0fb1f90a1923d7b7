"""`mrihvae doctor`: what it checks, and that it notices what is wrong."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from mrihvae.cli import doctor_checks
from mrihvae.cli.main import main
from mrihvae.model import shipped
from mrihvae.model.weights import fingerprint
from mrihvae.utils.precision import PRECISION_VARIABLE

QUICK = {"psnr": 30.0, "expected_psnr": 28.83, "seconds": 0.1, "error": None}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the reconstruction."""
    monkeypatch.setattr("mrihvae.cli.doctor.run_self_test", lambda: QUICK)


def found(capsys: pytest.CaptureFixture[str], status: int) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["doctor", "--json"]) == status
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["ok"] == (not result["problems"]) == (status == 0)
    return result


def test_sound_installation(capsys: pytest.CaptureFixture[str], quick: None) -> None:
    result = found(capsys, 0)
    assert [row["name"] for row in result["weights"]] == ["default", "multicoil", "restoration"]
    for row in result["weights"]:
        assert row["sha256"] == fingerprint(shipped.SHIPPED / f"{row['name']}.safetensors") and row["error"] is None
    environment = result["environment"]
    assert (
        environment["precision"] == "float32" and environment["precision_variable"] == f"{PRECISION_VARIABLE}=float32"
    )
    assert environment["threads"] >= 1 and environment["processors"] >= 1
    assert result["packages"]["torch"] == metadata.version("torch") and None not in result["packages"].values()
    assert [row["extra"] for row in result["extras"]][:4] == ["mrd", "mrd2", "twix", "dicom"]
    assert result["devices"][0]["device"] == "cpu"
    limits = result["limits"]
    assert limits["memory"] >= limits["memory_available"] > 2**20 and str(Path.cwd()) in limits["free_disk"]
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mrihvae       ") and lines[-1] == "result        all checks passed"
    assert any(line.startswith("weights       default: whole, SHA-256 ") for line in lines)


def test_self_test() -> None:
    test = doctor_checks.run_self_test()
    assert test["error"] is None and test["psnr"] == pytest.approx(doctor_checks.PSNR, abs=0.1)


def test_self_test_that_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor_checks, "_reconstruct_phantom", lambda: 20.0)
    problem = f"self-test: PSNR 20.0 dB in place of {doctor_checks.PSNR}; install mrihvae again"
    assert found(capsys, 1)["problems"] == [problem]

    def fail() -> float:
        raise RuntimeError("an instruction\nis illegal")

    monkeypatch.setattr(doctor_checks, "_reconstruct_phantom", fail)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "problem       self-test: failed (an instruction); install mrihvae again" in lines
    assert "self-test     failed" in lines and lines[-1] == "result        1 of the checks failed, see above"


def test_damaged_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    for name in ("default.json", "default.safetensors", "multicoil.json"):
        shutil.copy(shipped.SHIPPED / name, tmp_path)
    path = tmp_path / "default.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path)
    problems = found(capsys, 1)["problems"]
    assert problems[0].startswith(f"{path}: damaged, ") and problems[1].startswith(f"{tmp_path / 'multicoil.safetens'}")
    path.with_suffix(".json").write_text(path.with_suffix(".json").read_text().replace("16", "17"))
    for file in tmp_path.iterdir():
        file.unlink()
    assert found(capsys, 1)["problems"] == [f"{tmp_path}: has no weights; install mrihvae again"]


def test_missing_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick: None) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in ("ismrmrd", "tqdm"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    result = found(capsys, 1)
    assert result["problems"] == ["tqdm: not installed; install mrihvae again, or pip install tqdm"]
    missing = {row["extra"]: row["missing"] for row in result["extras"]}
    assert missing["mrd"] == missing["mrd2"] == missing["twix"] == ["ismrmrd"] and missing["dicom"] == []
    assert all(len(set(names)) == len(names) for names in missing.values())  # docs takes mrd by several ways
    assert main(["doctor"]) == 1
    assert "extra         mrd: missing ismrmrd; pip install 'mrihvae[mrd]'" in capsys.readouterr().out.splitlines()


def test_full_disk_and_few_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    monkeypatch.setattr(doctor_checks, "LEAST_DISK", 2**62)
    monkeypatch.setattr(doctor_checks, "LEAST_FILES", 2**40)
    problems = found(capsys, 1)["problems"]
    assert f"{Path.cwd()}: is full; free space" in problems

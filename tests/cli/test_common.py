"""What commands on files have in common: the output folder, what an earlier call finished, files that fail."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mrihvae.cli import common
from mrihvae.cli.common import Failures, check_output, check_results, finished_before, next_command
from mrihvae.errors import InputError, OutputError

SUMMARY: dict[str, Any] = {"method": "tv", "seed": 3}
FILES = [{"file": "a.h5", "seconds": 1.0}, {"file": "b.h5", "seconds": 2.0}]


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_files_by_name(tmp_path: Path) -> None:
    path = written(tmp_path / "summary.json", {**SUMMARY, "seed": 4, "volumes": FILES})
    found = finished_before(path, SUMMARY, ["method"], "volumes")  # the seed may be another
    assert found == {"a.h5": FILES[0], "b.h5": FILES[1]}


def test_without_a_summary_nothing_is_finished(tmp_path: Path) -> None:
    assert finished_before(tmp_path / "summary.json", SUMMARY, ["method"], "volumes") == {}


def test_call_with_other_settings(tmp_path: Path) -> None:
    path = written(tmp_path / "summary.json", {"method": "tv", "volumes": FILES})
    with pytest.raises(InputError) as caught:
        finished_before(path, SUMMARY, ["method", "seed"], "volumes")
    message = (
        f"{path}: was made with seed None, not 3; choose another --output, or give --overwrite in place of --resume"
    )
    assert str(caught.value) == message


@pytest.mark.parametrize("content", ["{", "[]", "3", {"files": FILES}, {"volumes": [{"name": "a.h5"}]}, {"volumes": 3}])
def test_what_is_no_summary(content: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "summary.json", content)
    with pytest.raises(
        InputError, match=r"summary.json: not a summary of this command \(.*\); give --overwrite in place of"
    ):
        finished_before(path, SUMMARY, ["method"], "volumes")


# --- the output folder -----------------------------------------------------------------------------------------------


def test_folders_that_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output(tmp_path / "a" / "b", "panels")
    monkeypatch.chdir(tmp_path)
    check_output(Path("a"), "panels")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["out", "out/panels"])
def test_a_file_in_the_place_of_a_folder(place: str, tmp_path: Path) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(OutputError) as caught:
        check_output(tmp_path / "out", "panels")
    assert str(caught.value) == f"{path}: cannot be written (it is a file); choose another --output"


def test_a_folder_that_must_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(OutputError) as caught:
        check_output(tmp_path / "out")
    hint = f"(no permission in {tmp_path}); choose another --output"
    assert str(caught.value) == f"{tmp_path / 'out'}: cannot be written {hint}"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OutputError) as caught:
        check_output(tmp_path)
    hint = "(the disk is full); free space or choose another --output"
    assert str(caught.value) == f"{tmp_path}: cannot be written {hint}"


def test_results_that_are_there(tmp_path: Path) -> None:
    record, image = tmp_path / "run.json", tmp_path / "reconstructions" / "a.h5"
    check_results(tmp_path, [record, image], overwrite=False, resume=False)
    image.parent.mkdir()
    image.touch()
    with pytest.raises(InputError) as caught:
        check_results(tmp_path, [record, image], overwrite=False, resume=False)
    hint = "add --resume to continue, --overwrite to replace them, or choose another --output"
    assert str(caught.value) == f"{tmp_path}: has results already (reconstructions/a.h5); {hint}"
    check_results(tmp_path, [record, image], overwrite=True, resume=False)
    check_results(tmp_path, [record, image], overwrite=False, resume=True)
    record.mkdir()
    with pytest.raises(OutputError, match=r"run.json: cannot be written \(it is a folder\); remove it"):
        check_results(tmp_path, [record], overwrite=True, resume=False)


# --- files that fail -------------------------------------------------------------------------------------------------


def process(failures: Failures, **errors: Exception) -> list[str]:
    """Process files, of which some raise errors; return the others."""
    done = []
    for name in ("a", "b", "c")[: failures.total]:
        with failures.collect(name):
            if name in errors:
                raise errors[name]
            done.append(name)
    return done


def test_a_bad_file_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    failures = Failures(3)
    assert process(failures, b=InputError("b: is bad")) == ["a", "c"]
    failures.check_any_left(Path("in"), "restored")
    assert failures.conclude("restored", Path("out"), next_command("report", "my out")) == 1
    assert capsys.readouterr().err.splitlines() == [
        "mrihvae: error: b: is bad",
        "2 of 3 restored, 1 failed: out; next: mrihvae report 'my out'",
    ]
    assert failures.records() == [{"file": "b", "error": "b: is bad"}]


def test_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    failures = Failures(3)
    assert process(failures) == ["a", "b", "c"] and failures.conclude("restored", Path("out"), "pictures: here") == 0
    assert capsys.readouterr().err == "3 of 3 restored: out; pictures: here\n"


def test_all_files_are_bad() -> None:
    failures = Failures(2)
    assert process(failures, a=InputError("a: is bad"), b=InputError("b: is bad")) == []
    with pytest.raises(InputError, match="in: none of its 2 files was restored; the lines above say why"):
        failures.check_any_left(Path("in"), "restored")


@pytest.mark.parametrize(
    ("total", "error"),
    [(1, InputError("a: is bad")), (3, OutputError("a: cannot be written")), (3, RuntimeError("a fault of ours"))],
)
def test_errors_that_end_a_command(total: int, error: Exception) -> None:
    failures = Failures(total)
    with pytest.raises(type(error)):
        process(failures, a=error)
    assert failures.reasons == {}

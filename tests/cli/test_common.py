"""What an earlier call finished, from its summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mrihvae.cli.common import finished_before
from mrihvae.errors import InputError

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

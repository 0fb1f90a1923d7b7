"""The log of a run is cut where it resumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrihvae.errors import InputError
from mrihvae.training.log import cut_log


def test_later_steps_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    cut_log(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("line", ["", "no", "[5]", "{}", '{"step": "x"}', "[" * 100_000, "\x00\x00"])
def test_lines_that_are_no_steps_are_one_error(line: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(InputError, match="is not a log of a run"):
        cut_log(path, 1)

"""`mrihvae protocols`: all of them by kind, with what runs them, or one as it is stored."""

from __future__ import annotations

import pytest

from mrihvae.protocols.evaluation import find_protocol, list_protocols, list_training_protocols
from tests.support import REPOSITORY
from tests.support.files import error_of, run


def test_list_names_every_protocol_below_what_runs_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("protocols") == 0
    parts = capsys.readouterr().out.split("\n\n")
    commands = [part.partition(": ")[2].split()[:2] for part in (parts[0], parts[2])]
    assert commands == [["mrihvae", "run"], ["mrihvae", "train"]]
    evaluations, benchmarks = list_protocols()
    names = [[line.split()[0] for line in part.splitlines() if not line.startswith(" ")] for part in parts[1::2]]
    assert names == [list(evaluations), list(list_training_protocols()), list(benchmarks)]
    stored = {path.stem for path in (REPOSITORY / "protocols").glob("*.toml")}
    assert {name for group in names for name in group} == stored
    for description, command in benchmarks.values():
        assert description in parts[-1] and command in parts[-1]


def test_one_protocol_is_printed_as_it_is_stored(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("protocols", "fastmri_knee_singlecoil_4x") == 0
    assert capsys.readouterr().out == find_protocol("fastmri_knee_singlecoil_4x").read_text()


def test_unknown_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no_such" in error_of(capsys, "protocols", "no_such")

"""One command for all benchmarks: its steps, how they stand, running and resuming them, weights named under tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import HERE, all, tables
from benchmarks.common.made_by import digests_of, note, older_weights
from benchmarks.common.provenance import file_digest, provenance
from benchmarks.ledger import CURRENT, MISSING, STALE, Ledger
from benchmarks.steps import MAKES, Step, read_steps, steps_table
from mrihvae.errors import InputError
from mrihvae.model.weights import save_weights
from tests.support import REPOSITORY
from tests.support.small import small_model

STEPS = """
[[steps]]
name = "first"
command = "group.first protocols/one.toml --data DIR --varnet runs/varnet/weights.safetensors"
measures = "one thing"
results = ["first.json"]
minutes = 3

[[steps]]
name = "second"
command = "group.second --data DIR"
measures = "another"
results = ["second.json"]
inputs = ["first.json"]
minutes = 1

[[steps]]
name = "timed"
command = "group.timed"
measures = "seconds"
results = ["timed.json"]
alone = true

[[steps]]
name = "made"
command = "`python -m benchmarks.peers.varnet`"
measures = "weights"
kind = "makes"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a checkout with steps, a protocol and a folder of results."""
    for folder in ("protocols", "results", "runs/varnet"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "steps.toml").write_text(STEPS)
    (tmp_path / "protocols" / "one.toml").write_text("a = 1\n")
    (tmp_path / "runs" / "varnet" / "weights.safetensors").write_bytes(b"weights")
    return tmp_path


class Bench:
    """Runs steps as if their commands wrote their results; some fail, or are interrupted."""

    def __init__(self, root: Path, failing: str = "", interrupted: str = "") -> None:
        self.root, self.failing, self.interrupted = root, failing, interrupted
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str]) -> int:
        name = command[2].rpartition(".")[2]
        self.commands.append(command[2:])
        if name == self.interrupted:
            raise KeyboardInterrupt
        if name == self.failing:
            return 3
        (self.root / "results" / f"{name}.json").write_text(json.dumps({"rows": []}))
        return 0

    def call(self, *words: str) -> int:
        ledger = Ledger(self.root / "results", self.root)
        return all.main(["--data", "somewhere", *words], self, ledger, self.root / "steps.toml")


def test_steps_run_once_and_again_when_their_protocol_changes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(root)
    assert bench.call() == 0
    first = ["benchmarks.group.first", "protocols/one.toml", "--data", "somewhere", "--varnet"]
    assert bench.commands == [
        [*first, "runs/varnet/weights.safetensors"],
        ["benchmarks.group.second", "--data", "somewhere"],
    ]
    assert "[1/2] first: about 3.0 min; 4.0 min left in all" in capsys.readouterr().out
    record = json.loads((root / "results" / "steps.json").read_text())["first"]
    assert record["protocol_sha256"] == file_digest(root / "protocols" / "one.toml")
    assert record["seconds"] >= 0 and record["threads"] >= 1 and record["processor"] and record["mrihvae"]
    assert bench.call() == 0 and len(bench.commands) == 2
    (root / "protocols" / "one.toml").write_text("a = 2\n")
    capsys.readouterr()
    assert bench.call("--list") == 0 and len(bench.commands) == 2
    lines = capsys.readouterr().out.splitlines()
    assert "stale" in lines[0] and "other protocol" in lines[0] and "current" in lines[1]
    assert bench.call() == 0 and [command[0] for command in bench.commands[2:]] == ["benchmarks.group.first"]


def test_a_changed_input_makes_a_step_stale(root: Path) -> None:
    bench, step = Bench(root), read_steps(root / "steps.toml")[1]
    assert bench.call() == 0
    (root / "results" / "first.json").write_text("{}")
    state = Ledger(root / "results", root).state(step)
    assert (state.name, state.why) == (STALE, "other inputs")


def test_a_step_that_fails_is_named_and_the_others_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(root, failing="first")
    assert bench.call() == 1
    assert len(bench.commands) == 2 and "failed: first (exit status 3)" in capsys.readouterr().err
    bench.failing = ""
    assert bench.call() == 0 and bench.commands[-1][0] == "benchmarks.group.second"  # its input is new


def test_interrupted_it_goes_on_where_it_stopped(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(root, interrupted="second")
    assert bench.call() == all.INTERRUPTED and "the same call goes on" in capsys.readouterr().err
    bench.interrupted = ""
    assert bench.call() == 0
    assert [command[0].rpartition(".")[2] for command in bench.commands] == ["first", "second", "second"]


def test_peers_weights_that_are_not_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "runs" / "varnet" / "weights.safetensors").unlink()
    bench = Bench(root)
    assert bench.call() == 0
    assert "left out: first: needs runs/varnet/weights.safetensors" in capsys.readouterr().out
    assert bench.call("--without-peers") == 0
    assert bench.commands[1] == ["benchmarks.group.first", "protocols/one.toml", "--data", "somewhere"]
    assert bench.call("--list") == 0
    assert "needs runs/varnet/weights.safetensors" in capsys.readouterr().out


def test_steps_that_measure_seconds_run_alone(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all.os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    bench = Bench(root)
    assert bench.call("--alone") == 0 and bench.commands == [["benchmarks.group.timed"]]
    found = capsys.readouterr()
    assert "timed: about ? min" in found.out and "timed: warning: the load is 3.0" in found.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "frist"], "step 'frist' is unknown; choose from: first, second"),
        (["--skip", "made"], "step 'made' trains or makes data, which a person starts"),
    ],
)
def test_mistyped_steps(root: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert Bench(root).call(*words) == 2 and message in capsys.readouterr().err


def test_chosen_and_skipped(root: Path) -> None:
    bench = Bench(root)
    assert bench.call("--only", "timed", "second", "--skip", "second") == 0
    assert bench.commands == [["benchmarks.group.timed"]]


def test_lists_that_are_not_right(tmp_path: Path) -> None:
    path = tmp_path / "steps.toml"
    for text, message in (
        (STEPS + STEPS, "two steps are called 'first'"),
        (STEPS.replace("minutes = 3", "hours = 3"), "unknown"),
        (STEPS.replace('results = ["second.json"]\n', ""), "'second' writes nothing"),
        (STEPS.replace('"makes"', '"made"'), "kind 'made' is unknown"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_steps(path)


def test_every_step_has_its_benchmark_protocol_and_weights() -> None:
    steps = read_steps()
    for step in steps:
        if step.kind != MAKES:
            module = step.command.split()[0].replace(".", "/")
            assert (HERE / f"{module}.py").is_file(), step.name
        assert step.protocol is None or (REPOSITORY / step.protocol).is_file(), step.name
    names = {name for step in steps for name in step.results}
    assert {name for step in steps for name in step.inputs} <= names
    shown = {found[1] for page in tables.PAGES for found in tables.MARKED.findall(page.read_text())}
    assert {f"{name}.json" for name in shown - {tables.STEPS, tables.SUMMARY, tables.MASK_LOSS}} <= names
    assert "| calibration | `python -m benchmarks.singlecoil.calibration" in steps_table(steps)


def test_results_without_a_record_are_judged_by_the_weights_that_they_name(tmp_path: Path) -> None:
    now = provenance(weights="default")["weights"]
    ledger, step = Ledger(tmp_path), Step("one", "group.one", "it", results=("one.json",), weights=("default",))
    assert ledger.state(step).name == MISSING
    for weights, name, why in ((now, CURRENT, "by its own words"), ("0" * 12, STALE, "other weights")):
        (tmp_path / "one.json").write_text(json.dumps({"weights": weights}))
        assert (ledger.state(step).name, ledger.state(step).why) == (name, why)
    (tmp_path / "one.json").write_text("{}")
    assert "does not say" in ledger.state(step).why
    rows = [{"seconds": 2.0, "slices": 30}, {"seconds": 1.0, "slices": 60}]
    (tmp_path / "one.json").write_text(json.dumps({"volumes": rows}))
    assert ledger.seconds(step) == 120


def test_tables_name_weights_that_are_not_the_shipped_ones(tmp_path: Path) -> None:
    save_weights(tmp_path / "old.safetensors", small_model(), {})
    old, now = (
        provenance(weights=str(tmp_path / "old.safetensors"))["weights"],
        provenance(weights="default")["weights"],
    )
    rows = [{"method": "hybrid", "made_by": f"weights {old}, views 2"}, {"method": "unet", "made_by": "weights abc"}]
    assert digests_of({"volumes": rows}) == {old} and older_weights({"weights": now}, ["default"]) == set()
    line = note({"volumes": rows}, ("default",))
    assert f"earlier weights, SHA-256 {old}, not with the shipped `default`, SHA-256 {now}" in line
    assert note({"weights": {"all": now}}, ("default",)) == ""
    found = json.loads((HERE / "results" / "calibration.json").read_text())
    (tmp_path / "calibration.json").write_text(json.dumps({**found, "weights": old}))
    page = tmp_path / "page.md"
    page.write_text("<!-- results:calibration -->\n<!-- /results -->\n")
    words = ["--pages", str(page), "--results", str(tmp_path)]
    assert tables.main([*words, "--check"]) == 2 and tables.main(words) == 0
    assert old in page.read_text() and tables.main([*words, "--check"]) == 0


def test_pages_are_what_results_say_and_name_nobody_ours() -> None:
    assert tables.main(["--check"]) == 0
    assert not [page for page in tables.PAGES if re.search(r"\| ours\b|\bours,", page.read_text())]

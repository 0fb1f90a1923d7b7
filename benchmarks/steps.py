"""Every benchmark by name, read from benchmarks/steps.toml: its command, what it measures, needs and writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks import HERE
from benchmarks.common.complete_scans import read_toml
from mrihvae.errors import InputError
from mrihvae.utils.config import from_dict

FILE = HERE / "steps.toml"
RUNS, CHECKS, MAKES = "runs", "checks", "makes"
ALONE = "; leave the machine alone meanwhile"


@dataclass(frozen=True)
class Step:
    """A benchmark.

    Attributes
    ----------
    name : by which it is chosen
    command : after "python -m benchmarks."; of kind "makes" the whole text
    measures : what the table of benchmarks/README.md says of it
    kind : "runs": its results stand in pages; "checks": of robustness, run with --checks; "makes": weights or data for
        others, or studies that train, which a person starts
    results : files below benchmarks/results; the first one says what made it
    weights : whose results they are: shipped names, or files of benchmarks/weights
    inputs : results of other steps that it reads
    minutes : about how long it takes on 2 cores, until a run has recorded it
    alone : whether it measures seconds, so that nothing else may run
    """

    name: str
    command: str
    measures: str
    kind: str = RUNS
    results: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    minutes: float | None = None
    alone: bool = False

    def __post_init__(self) -> None:
        if self.kind not in (RUNS, CHECKS, MAKES):
            raise InputError(f"kind '{self.kind}' is unknown; choose one of {RUNS}, {CHECKS}, {MAKES}")
        if self.kind != MAKES and not self.results:
            raise InputError(f"step '{self.name}' writes nothing; list its results")

    @property
    def peers(self) -> tuple[str, ...]:
        """Weights of other networks that the command names, below the root of a checkout."""
        return tuple(re.findall(r"runs/[\w/]+\.safetensors", self.command))

    @property
    def protocol(self) -> str | None:
        """The protocol that the command names, below the root of a checkout."""
        found = re.search(r"protocols/\w+\.toml", self.command)
        return found[0] if found else None


def read_steps(path: Path = FILE) -> tuple[Step, ...]:
    """Read the steps, in the order in which they run.

    Raises
    ------
    InputError
        Not readable, an unknown key, or two steps of one name.
    """
    found = read_toml(path).get("steps", [])
    steps = tuple(from_dict(Step, values, f"{path}, steps[{number}]") for number, values in enumerate(found))
    names = [step.name for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: two steps are called '{name}'; give each its own name")
    return steps


def steps_table(steps: tuple[Step, ...]) -> str:
    """Lay out the steps as the table of benchmarks/README.md."""
    lines = ["| step | command | measures | results |", "| --- | --- | --- | --- |"]
    for step in steps:
        command = step.command if step.kind == MAKES else f"`python -m benchmarks.{step.command}`"
        results = ", ".join(f"`results/{_all_forms(name)}`" for name in step.results)
        measures = step.measures + (ALONE if step.alone else "")
        lines.append(f"| {step.name} | {command} | {measures} | {results} |")
    return "\n".join(lines) + "\n"


def _all_forms(name: str) -> str:
    """Write NAME.json, beside which a table and a figure may lie, as NAME.*."""
    return f"{name.removesuffix('.json')}.*" if name.endswith(".json") else name

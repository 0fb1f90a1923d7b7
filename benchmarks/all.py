"""Regenerate every table and figure of README.md and docs/.

    python -m benchmarks.all --data DIR

runs the steps of benchmarks/steps.toml whose results are missing or were made by other weights, protocols, inputs or
commands than those of today, one after the other, and writes the tables of all pages at the end. Interrupt it with
Ctrl-C, and call it again: steps that are done are not run again, and several go on in the middle. A step that fails is
named at the end, and the exit status is 1; the others run all the same.

    python -m benchmarks.all --list                 # steps, whether their results are current, minutes
    python -m benchmarks.all --data DIR --only calibration tables
    python -m benchmarks.all --data DIR --alone     # only the parts that measure seconds: leave the machine alone
    python -m benchmarks.all --data DIR --checks    # robustness, too

How long a step takes is what it took the last time (benchmarks/results/steps.json). Steps that compare with fastMRI's
networks need their weights, which benchmarks.peers.unet and varnet train: give --without-peers to keep those rows as
they are and make the others.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import HERE
from benchmarks.ledger import CURRENT, Ledger, State
from benchmarks.steps import CHECKS, FILE, MAKES, RUNS, Step, read_steps
from mrihvae.errors import InputError

BUSY = 0.5  # load from which seconds are not those of a machine alone
INTERRUPTED = 130
PAGES = "tables"  # the step that writes the pages, at the end of every call
Run = Callable[[list[str]], int]


def main(
    arguments: list[str] | None = None,
    run: Run | None = None,
    ledger: Ledger | None = None,
    listed: Path = FILE,
) -> int:
    """Run the command; returns its exit status.

    Parameters
    ----------
    run : starts a command and returns its exit status
    ledger : of the results; None for those of the checkout
    listed : the file of steps
    """
    options = _parser().parse_args(arguments)
    try:
        steps = choose_steps(read_steps(listed), options)
        ledger = ledger or Ledger(HERE / "results")
        states = {step.name: ledger.state(step) for step in steps}
        if options.list:
            print(listing(steps, states, ledger))
            return 0
        return run_steps(steps, states, ledger, options, run or _start)
    except InputError as error:
        print(f"all: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nall: interrupted; the same call goes on", file=sys.stderr)
        return INTERRUPTED


def choose_steps(steps: Sequence[Step], options: argparse.Namespace) -> list[Step]:
    """Choose the steps that are requested: by name, or those whose results stand in pages.

    Raises
    ------
    InputError
        A name that is no step, or one that a person starts.
    """
    known = {step.name: step for step in steps}
    for name in [*(options.only or ()), *options.skip]:
        if name not in known:
            raise InputError(f"step '{name}' is unknown; choose from: {', '.join(known)}")
        if known[name].kind == MAKES:
            raise InputError(f"step '{name}' trains or makes data, which a person starts; see benchmarks/README.md")
    if options.only:
        chosen = [known[name] for name in known if name in options.only]
    else:
        kinds = (RUNS, CHECKS) if options.checks else (RUNS,)
        chosen = [step for step in steps if step.kind in kinds]
        if not options.list:
            chosen = [step for step in chosen if step.alone == options.alone or step.name == PAGES]
    return [step for step in chosen if step.name not in options.skip]


def listing(steps: Sequence[Step], states: dict[str, State], ledger: Ledger) -> str:
    """Format the steps as a table, a line each: name, state, minutes, and what has changed or is missing."""
    width = max((len(step.name) for step in steps), default=0)
    lines = []
    for step in steps:
        state = states[step.name]
        about = [state.why, f"needs {state.lacks}" if state.lacks else "", "measures seconds" if step.alone else ""]
        told = "; ".join(part for part in about if part)
        lines.append(f"{step.name:{width}}  {state.name:8}{_minutes(ledger.seconds(step)):>9}  {told}".rstrip())
    rest = [step for step in steps if states[step.name].name != CURRENT]
    total = _minutes(sum(ledger.seconds(step) or 0 for step in rest))
    return "\n".join([*lines, f"{len(rest)} of {len(steps)} to run, about {total}"])


def run_steps(
    steps: Sequence[Step], states: dict[str, State], ledger: Ledger, options: argparse.Namespace, run: Run
) -> int:
    """Run what is not current, and say at the end what was left out and what failed; returns the exit status."""
    waiting, left = _waiting(steps, states, options)
    failed = []
    for number, step in enumerate(waiting):
        if ledger.state(step).name == CURRENT and not options.again and step.name != PAGES:
            print(f"{step.name}: current, since its inputs did not change")
            continue
        rest = sum(ledger.seconds(one) or 0 for one in waiting[number:])
        print(
            f"[{number + 1}/{len(waiting)}] {step.name}: about {_minutes(ledger.seconds(step))}; "
            f"{_minutes(rest)} left in all",
            flush=True,
        )
        load = os.getloadavg()[0]
        if step.alone and load > BUSY:
            print(f"{step.name}: warning: the load is {load:.1f}: not seconds of a machine alone", file=sys.stderr)
        began = time.perf_counter()
        status = run(command_of(step, options, ledger.root))
        if status == 0:
            ledger.record(step, time.perf_counter() - began, load)
        else:
            failed.append(f"{step.name} (exit status {status})")
    for line in left:
        print(f"left out: {line}")
    if failed:
        print(f"all: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _waiting(
    steps: Sequence[Step], states: dict[str, State], options: argparse.Namespace
) -> tuple[list[Step], list[str]]:
    """List the steps to run, those among them whose inputs others will write anew, and why others are left out."""
    waiting: list[Step] = []
    left: list[str] = []
    written: set[str] = set()
    for step in steps:
        current = states[step.name].name == CURRENT and not written & set(step.inputs)
        if current and not options.again and step.name != PAGES:
            print(f"{step.name}: current")
        elif refused := _refusal(step, states[step.name], options):
            left.append(f"{step.name}: {refused}")
        else:
            waiting.append(step)
            written |= set(step.results)
    return waiting, left


def command_of(step: Step, options: argparse.Namespace, root: Path = HERE.parent) -> list[str]:
    """Put folders in the place of DIR and FASHION_MNIST, and leave out peers' weights that are not there."""
    module, *words = shlex.split(step.command)
    folders = {"DIR": options.data, "FASHION_MNIST": options.fashion_mnist}
    absent = {word for word in words for peer in step.peers if peer in word and not (root / peer).is_file()}
    words = [str(folders.get(word, word)) for word in words if word not in absent]
    kept = [
        word for k, word in enumerate(words)
        if word not in ("--unet", "--varnet") or (k + 1 < len(words) and not words[k + 1].startswith("--"))
    ]  # fmt: skip
    return [sys.executable, "-m", f"benchmarks.{module}", *kept]


def _refusal(step: Step, state: State, options: argparse.Namespace) -> str:
    """Say why a step cannot run now, or nothing."""
    if state.lacks and not options.without_peers:
        return f"needs {state.lacks}; train it, or give --without-peers"
    for word, value, option in (
        ("DIR", options.data, "--data"),
        ("FASHION_MNIST", options.fashion_mnist, "--fashion-mnist"),
    ):
        if word in step.command.split() and value is None:
            return f"needs {option}"
    return ""


def _start(command: list[str]) -> int:
    """Run a command to its end; Ctrl-C reaches it as well."""
    with subprocess.Popen(command, cwd=HERE.parent) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "? min"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 10 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--fashion-mnist", type=Path, help="folder of Fashion-MNIST, for one step")
    parser.add_argument("--list", action="store_true", help="run nothing; show steps, states and minutes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these steps")
    parser.add_argument("--skip", nargs="+", metavar="NAME", default=[], help="not these steps")
    parser.add_argument("--alone", action="store_true", help="the steps that measure seconds, and these only")
    parser.add_argument("--checks", action="store_true", help="robustness, too")
    parser.add_argument("--again", action="store_true", help="run steps whose results are current, too")
    parser.add_argument("--without-peers", action="store_true", help="run steps whose peers' weights are not there")
    return parser


if __name__ == "__main__":
    sys.exit(main())

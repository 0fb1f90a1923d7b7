"""Whether anything is torn, mixed or lost by SIGKILL at random moments.

    python -m benchmarks.robustness.kills --count 500
    python -m benchmarks.robustness.kills --count 500 --resume
    python -m benchmarks.robustness.kills --quick

Work is done in a process, again and again, until it is finished; then it begins anew, until as many kills as asked for
have hit. Half of them come after a random time, half just before a random operation that changes files (open to write,
wait for the disk, rename, link, removal), so that the moments between two of them are met, too. Processes are forked
from one that has imported everything. After each kill files must be whole or absent, and what finished work leaves must
be that of work which was not interrupted: a training run bit for bit. The cases are in kill_cases.py. Writes
results/kills.json and .md after every case, which --resume keeps; the status is 1 if there was a problem.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.complete_scans import write_results
from benchmarks.robustness.kill_cases import CASES
from benchmarks.robustness.kill_work import Case
from benchmarks.robustness.processes import COUNTED, Moment, run_work
from mrihvae import __version__

QUICK = 2  # kills of each case
NEVER = Moment()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="kills, shared out over the cases")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} kills of each case")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="keep the cases that --output has, of the same numbers")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "kills.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    count = QUICK if options.quick else -(-options.count // len(options.cases))
    there = _finished(options.output, options.seed, count) if options.resume else {}
    rows = []
    for name in options.cases:
        row = there.get(name) or _row(name, count, options.seed)
        rows.append(row)
        print(f"{name}: {row['kills']} kills, {row['finished']} times finished, {len(row['problems'])} problems")
        for text in row["problems"]:
            print(f"  {text}")
        results = {
            "version": __version__, "seed": options.seed, "kills": sum(row["kills"] for row in rows),
            "seconds": sum(row["seconds"] for row in rows), "cases": rows,
        }  # fmt: skip
        write_results(options.output, results, lay_out(results))
    return 1 if any(row["problems"] for row in rows) else 0


def _row(name: str, count: int, seed: int) -> dict[str, Any]:
    """Kill the work of a case so many times, in a folder of its own; return its row."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        row = {"case": name, **kill_case(CASES[name], Path(folder), count, seed)}
    return {**row, "seconds": time.perf_counter() - began}


def _finished(path: Path, seed: int, count: int) -> dict[str, dict[str, Any]]:
    """Return the rows of cases that an earlier call finished without a problem, by name."""
    values = json.loads(path.read_text()) if path.is_file() else {}
    if (values.get("version"), values.get("seed")) != (__version__, seed):
        return {}
    return {row["case"]: row for row in values["cases"] if row["kills"] == count and not row["problems"]}


def kill_case(kind: type[Case], folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill the work of a case so many times; return the counts, and what was wrong.

    Work is done once without a kill before, which says how long it takes, and is finished after the last one.
    """
    rng = random.Random(seed)
    (folder / "work").mkdir()
    case = kind(folder / "work")
    problems = run_work(case, folder, NEVER) or case.after_end()
    operations, seconds = (folder / COUNTED).read_text().split() if not problems else (0, 0)
    kills = {"time": 0, "operation": 0}
    finished = 0
    with tqdm(total=count, desc=kind.__name__, disable=None) as bar:
        while not problems:
            killed = sum(kills.values())
            moment = Moment.draw(rng, float(seconds), int(operations)) if killed < count else NEVER
            errors = run_work(case, folder, moment)
            if errors is None:
                kills["time" if moment.operation is None else "operation"] += 1
                bar.update()
                found = case.after_kill()
            else:
                finished += 1
                found = errors or case.after_end()
            problems += [f"after {sum(kills.values())} kills, the last at {moment}: {text}" for text in found]
            if moment is NEVER:
                break
    return {
        "kills": sum(kills.values()), "by_time": kills["time"], "by_operation": kills["operation"],
        "finished": finished, "operations": int(operations), "seconds_uninterrupted": float(seconds),
        "problems": problems,
    }  # fmt: skip


def lay_out(results: dict[str, Any]) -> str:
    """Lay out the results as a table."""
    head = ["work", "kills", "after a random time", "before a change of files", "finished", "seconds", "problems"]
    lines = ["# Kills at random moments", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in results["cases"]:
        cells = [*(row[key] for key in ("case", "kills", "by_time", "by_operation", "finished")), round(row["seconds"])]
        cells += [len(row["problems"])]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    about = f"{results['kills']} kills (SIGKILL), seed {results['seed']}, {results['seconds']:.0f} s."
    lines += ["", f"{about} After each one files must be whole or absent, and of one write; finished work must leave"]
    lines += ["the files of work that was not interrupted, a training run bit for bit."]
    problems = [f"- {row['case']}: {text}" for row in results["cases"] for text in row["problems"]]
    return "\n".join([*lines, *(["", *problems] if problems else [])]) + "\n"


if __name__ == "__main__":
    sys.exit(main())

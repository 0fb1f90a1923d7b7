"""Whether anything is torn, mixed or lost by SIGKILL at random moments.

    python -m benchmarks.robustness.kills --count 500
    python -m benchmarks.robustness.kills --quick

Work is done in a process, again and again, until it is finished; then it begins anew, until as many kills as asked for
have hit. Half of them come after a random time, half just before a random operation on a file (open, rename, link,
removal), so that the moments between two of them are met, too. After each kill files must be whole or absent, and what
finished work leaves must be that of work which was not interrupted: a training run bit for bit. The cases are in
kill_cases.py. Writes results/kills.json and .md; the status is 1 if there was a problem.
"""

from __future__ import annotations

import argparse
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
from benchmarks.robustness.kill_cases import CASES, Case
from benchmarks.robustness.processes import COUNTED, Moment, run_work
from mrihvae import __version__

QUICK = 4  # kills of each case
NEVER = Moment()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="kills, shared out over the cases")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} kills of each case")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "kills.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    count = QUICK if options.quick else -(-options.count // len(options.cases))
    began = time.perf_counter()
    rows = []
    for name in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            row = {"case": name, **kill_case(CASES[name], Path(folder), count, options.seed)}
        rows.append(row)
        print(f"{name}: {row['kills']} kills, {row['finished']} times finished, {len(row['problems'])} problems")
        for text in row["problems"]:
            print(f"  {text}")
    results = {
        "version": __version__, "seed": options.seed, "kills": sum(row["kills"] for row in rows),
        "seconds": time.perf_counter() - began, "cases": rows,
    }  # fmt: skip
    write_results(options.output, results, lay_out(results))
    return 1 if any(row["problems"] for row in rows) else 0


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
    head = ["work", "kills", "after a random time", "before an operation on a file", "finished", "problems"]
    lines = ["# Kills at random moments", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in results["cases"]:
        cells = [row["case"], row["kills"], row["by_time"], row["by_operation"], row["finished"], len(row["problems"])]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    about = f"{results['kills']} kills (SIGKILL), seed {results['seed']}, {results['seconds']:.0f} s."
    lines += ["", f"{about} After each one files must be whole or absent, and of one write; finished work must leave"]
    lines += ["the files of work that was not interrupted, a training run bit for bit."]
    problems = [f"- {row['case']}: {text}" for row in results["cases"] for text in row["problems"]]
    return "\n".join([*lines, *(["", *problems] if problems else [])]) + "\n"


if __name__ == "__main__":
    sys.exit(main())

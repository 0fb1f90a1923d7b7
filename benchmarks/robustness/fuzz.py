"""How readers take damaged files of every format: structure-aware mutations, in processes with limits.

    python -m benchmarks.robustness.fuzz --count 100000 --processes 2

Good files are small and made by the package and the tests; each case breaks one of them in one place or two: bits,
bytes, pieces of another file, numbers at the ends of their ranges, and the structure of the format, such as shapes,
types and links of HDF5, values of XML, JSON and TOML, fields of headers. A case is right if it is read, or refused by
mrihvae.errors.InputError in one line, within 10 s of computing, and within a limit of memory. A case is made of its
format and number alone: `--show FORMAT NUMBER` reads one, with the error that it raises, and writes its files.

A crash is one of a library, such as HDF5's: it is counted, and has to cost a command no more than the file.

A call goes on where one with the same --first, --count and --formats stopped. Writes results/fuzz.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.complete_scans import write_results
from benchmarks.robustness.cases import make_case
from benchmarks.robustness.readers import FORMATS, read
from benchmarks.robustness.seeds import make_seeds
from benchmarks.robustness.tables import WHATS, fuzz_table
from benchmarks.robustness.workers import HANG_SECONDS, MEMORY_CONSTANT, Batch, Outcome, run_batches
from mrihvae import __version__

BATCH = 100
QUICK = 1500  # cases, of tests
SHOWN = 5  # numbers of each defect
GOOD = ("read", "refused")


def shares(count: int, names: Sequence[str]) -> dict[str, int]:
    """Share `count` cases out over formats."""
    total = sum(FORMATS[name].share for name in names)
    return {name: max(1, round(count * FORMATS[name].share / total)) for name in names}


def run(
    first: int, counts: dict[str, int], processes: int, journal: Path | None = None, quiet: bool = False
) -> list[Outcome]:
    """Read all cases; those that a journal has are taken from it, and others are added."""
    outcomes = _finished(journal)
    known = {(one.form, one.number) for one in outcomes}
    left = [
        Batch(name, number, number + 1)
        for name, count in counts.items()
        for number in range(first, first + count)
        if (name, number) not in known
    ]
    whole = _joined(left)
    with tqdm(total=sum(counts.values()), initial=len(outcomes), unit="case", disable=quiet) as bar:
        for outcome in run_batches(whole, processes) if whole else ():
            outcomes.append(outcome)
            bar.update()
            if journal is not None:
                with journal.open("a") as file:
                    file.write(json.dumps(outcome.row()) + "\n")
    return outcomes


def _joined(single: Sequence[Batch]) -> list[Batch]:
    """Join batches of one case that follow each other."""
    found: list[Batch] = []
    for one in single:
        last = found[-1] if found else None
        if last and last.form == one.form and last.stop == one.start and last.stop - last.start < BATCH:
            found[-1] = Batch(one.form, last.start, one.stop)
        else:
            found.append(one)
    return sorted(found, key=lambda batch: (batch.start, batch.form))


def _finished(journal: Path | None) -> list[Outcome]:
    """Read the outcomes of an earlier call; a last line that was cut is left out."""
    if journal is None or not journal.is_file():
        return []
    lines = journal.read_text().splitlines(keepends=True)
    return [Outcome(**json.loads(line)) for line in lines if line.endswith("\n")]


def summarize(outcomes: Sequence[Outcome], first: int) -> dict[str, Any]:
    """Count outcomes by format, and list defects with the first of their numbers."""
    formats: dict[str, Counter[str]] = {}
    defects: dict[tuple[str, str, str], list[int]] = {}
    for one in sorted(outcomes, key=lambda one: one.number):
        formats.setdefault(one.form, Counter(dict.fromkeys(("cases", *WHATS), 0))).update(["cases", one.what])
        if one.what not in GOOD:
            error = one.error if one.what != "memory" else "beyond the limit"
            defects.setdefault((one.what, one.form, error), []).append(one.number)
    slowest = max(outcomes, key=lambda one: one.seconds)
    return {
        "mrihvae": __version__,
        "first": first,
        "hang_seconds": HANG_SECONDS,
        "memory_constant_MiB": MEMORY_CONSTANT // 2**20,
        "slowest": {"form": slowest.form, "number": slowest.number, "seconds": slowest.seconds},
        "formats": {name: dict(formats[name]) for name in FORMATS if name in formats},
        "defects": [
            {"what": what, "form": form, "error": error, "count": len(numbers), "numbers": numbers[:SHOWN]}
            for (what, form, error), numbers in sorted(defects.items(), key=lambda item: -len(item[1]))
        ],
    }


def show(form: str, number: int, folder: Path) -> None:
    """Write the files of a case, and read them here."""
    case = make_case(form, number, make_seeds(FORMATS[form].build))
    folder.mkdir(parents=True, exist_ok=True)
    path = case.write(folder)
    print(f"{path}: {case.kind}", flush=True)
    print(f"decoded: {read(FORMATS[form], path, number)} bytes")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status, 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="cases of all formats together")
    parser.add_argument("--first", type=int, default=0, help="the first number of each format")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} cases")
    parser.add_argument("--show", nargs=2, metavar=("FORMAT", "NUMBER"), help="one case alone")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "fuzz.json")
    options = parser.parse_args(arguments)
    if options.show:
        show(options.show[0], int(options.show[1]), options.output.with_name("fuzz_case"))
        return 0
    if min(options.count, options.processes) < 1 or options.first < 0:
        parser.error("--count and --processes must be at least 1, and --first at least 0")
    counts = shares(QUICK if options.quick else options.count, options.formats)
    name = f"{options.output.stem}_{options.first}_{sum(counts.values())}_{len(options.formats)}.jsonl"
    options.output.parent.mkdir(parents=True, exist_ok=True)
    journal = options.output.with_name(name)
    outcomes = run(options.first, counts, options.processes, journal)
    results = summarize(outcomes, options.first)
    write_results(options.output, results, fuzz_table(results))
    journal.unlink(missing_ok=True)
    print(fuzz_table(results))
    return 1 if any(found["what"] != "crash" for found in results["defects"]) else 0


if __name__ == "__main__":
    sys.exit(main())

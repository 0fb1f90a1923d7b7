"""Render results as Markdown: the tables of README.md and docs/ (most are in docs/results.md), which are generated.

    python -m benchmarks.tables            # writes the tables of all pages, and the plots
    python -m benchmarks.tables --check    # fails if a page's tables are not those of the results

A page has a table of benchmarks/results/NAME.json between the lines `<!-- results:NAME -->` and
`<!-- /results -->`: of a protocol, of `seconds` (quality.py --time), of `calibration` (calibration.py), of
`restoration` (restoration.py), or what `mrihvae demo` printed (demo.py). Two names stand for several files:
`mask_loss`, what patterns cost against random lines of equal acceleration, and `summary`, the real scans of one and of
several coils. Below a table whose rows of mrihvae were made by other weights than the shipped ones, a line names these.
`steps` is the list of benchmarks/steps.toml.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import HERE
from benchmarks.common.made_by import note, read_results
from benchmarks.common.plots import seconds_of, write_plots
from benchmarks.common.protocol import LABELS
from benchmarks.multicoil.tables import multicoil_seconds_table, multicoil_tables
from benchmarks.restoration.tables import overview
from benchmarks.robustness.tables import fuzz_table, trust_table
from benchmarks.scanner.tables import crowd_table, scanner_tables
from benchmarks.singlecoil.adapt import table as adapt_table
from benchmarks.singlecoil.realism_tables import markdown as realism_table
from benchmarks.singlecoil.realism_tables import prior_draws_table
from benchmarks.steps import read_steps, steps_table
from mrihvae.cli.demo import describe_conditions, table_head, table_row
from mrihvae.errors import InputError
from mrihvae.utils.files import atomic_write

METRICS = ("PSNR", "SSIM", "NMSE")
DIGITS = {"PSNR": 2, "SSIM": 3, "NMSE": 4}
MARKED = re.compile(r"(<!-- results:([\w.-]+) -->\n)(.*?)(<!-- /results -->)", flags=re.DOTALL)
OPENED = re.compile(r"<!-- results:[\w.-]+ -->")
FOREIGN = "* this network was trained for another mask"
CEILING = "noise-limited ceiling"
MASKS, ACCELERATIONS, MASK_LOSS = "singlecoil_masks", "singlecoil_accelerations", "mask_loss"
SUMMARY, STEPS = "summary", "steps"
SUMMARY_SCANS = {  # heading: results, set, pattern
    "1 coil, 0.055 T, 4x": ("singlecoil_random_4x", "raw 0.055 T", "random 4x"),
    "1 coil, 0.055 T, 8x": ("singlecoil_random_8x", "raw 0.055 T", "random 8x"),
    "4 coils, MPRAGE, 4x": ("multicoil", "MPRAGE, real, 4 coils", "random 4x"),
    "4 coils, MPRAGE, 8x": ("multicoil", "MPRAGE, real, 4 coils", "random 8x"),
}
SUMMARY_METHODS = {  # label: names in the results of one coil and of several
    "zero-filled": ("zero-filled",),
    "TV (sigpy)": ("tv",),
    "L1-wavelet (BART)": ("bart-wavelet",),
    "U-Net or VarNet (fastMRI)": ("unet", "varnet"),
    "mrihvae (amortized)": ("amortized",),
    "mrihvae (hybrid)": ("hybrid",),
}
COMPARED = ("unet", "hybrid")
SECONDS_LABELS = {**LABELS, "uncertainty": "mrihvae (16 samples and their SD)"}
SOURCES = {  # tables that are made of several files
    SUMMARY: tuple(dict.fromkeys(source for source, _, _ in SUMMARY_SCANS.values())),
    MASK_LOSS: (MASKS, ACCELERATIONS),
}


def demo_block(found: dict[str, Any]) -> str:
    """Lay out what `mrihvae demo` printed, without its seconds where the machine was busy."""
    scans = [
        [
            table_head(scan["title"], timed=found["threads"] is not None),
            *(table_row(name, scores) for name, scores in scan["scores"].items()),
        ]
        for scan in found["scans"]
    ]
    lines = "\n\n".join("\n".join(lines) for lines in scans)
    conditions = describe_conditions(found["acceleration"], found["threads"])
    return f"```text\n{lines}\n\n{conditions}\n```\n"


SEVERAL: dict[str, Callable[[dict[str, Any]], str]] = {
    "adapt": lambda found: adapt_table(found["runs"]),
    "demo": demo_block,
    "fuzz": fuzz_table,
    "multicoil": lambda found: multicoil_tables(found["volumes"]),
    "multicoil_seconds": multicoil_seconds_table,
    "numerical_trust": trust_table,
    "prior_draws": prior_draws_table,
    "realism": realism_table,
    "scanner_crowd": crowd_table,
    "scanner_robustness": scanner_tables,
}
BEYOND = 1.15  # how far from an acceleration that was measured a line through two of them is carried on
Rows = list[dict[str, Any]]
ROOT = HERE.parent
PAGES = [ROOT / "README.md", HERE / "README.md", *sorted(ROOT.glob("docs/*.md"))]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page differs")
    parser.add_argument("--pages", type=Path, nargs="+", default=PAGES)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    try:
        texts = {page: read_text(page) for page in options.pages}
        rendered = {page: render(text, options.results, page) for page, text in texts.items()}
        tables = {page: len(MARKED.findall(text)) for page, text in rendered.items()}
        if not any(tables.values()):
            pages = ", ".join(map(str, options.pages))
            raise InputError(f"{pages}: no table of results; add lines '<!-- results:NAME -->'")
        changed = [page for page in texts if rendered[page] != texts[page]]
        if options.check and changed:
            raise InputError(f"{changed[0]}: its tables are not those of the results; run benchmarks/tables.py")
        for page in changed:
            with atomic_write(page) as temporary:
                temporary.write_text(rendered[page])
        if not options.check:
            for path in write_plots(options.results):
                print(path)
    except InputError as error:
        print(f"tables: error: {error}", file=sys.stderr)
        return 2
    for page, count in tables.items():
        if count:
            print(f"{page}: {count} tables")
    return 0


def render(text: str, results: Path, where: Path) -> str:
    """Put the tables of the results between the markers of a text.

    Raises
    ------
    InputError
        A marker without its end, or without results.
    """
    if len(OPENED.findall(text)) != len(MARKED.findall(text)):
        raise InputError(f"{where}: a line '<!-- results:NAME -->' has no '<!-- /results -->' after it; add it")
    return MARKED.sub(lambda found: f"{found[1]}{table_of(results, found[2])}{found[4]}", text)


def table_of(results: Path, name: str) -> str:
    """Render the results `name`."""
    if name == STEPS:
        return steps_table(read_steps())
    sources = SOURCES.get(name, (name,))
    return _layout_of(results, name) + "".join(_note(results / f"{one}.json", one) for one in sources)


def _note(path: Path, name: str) -> str:
    """Name earlier weights that made the results `name`, in a line; nothing where they are the shipped ones."""
    weights = next((step.weights for step in read_steps() if f"{name}.json" in step.results), ())
    return note(read_results(path), weights) if weights else ""


def _layout_of(results: Path, name: str) -> str:
    if name == SUMMARY:
        return summary_table(results)
    if name == MASK_LOSS:
        return mask_loss_table(*(read_volumes(results / f"{one}.json") for one in (MASKS, ACCELERATIONS)))
    path = results / f"{name}.json"
    try:
        found = json.loads(path.read_text())
        if name in SEVERAL:
            return SEVERAL[name](found)
        if "volumes" in found:
            return quality_tables(found["volumes"], seconds_of(results))
        for key, layout in LAYOUTS.items():
            if key in found:
                return layout(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable as results ({type(error).__name__}: {error}); run it again") from error
    raise InputError(f"{path}: holds none of volumes, seconds, calibration, tasks; run the benchmark again")


def read_volumes(path: Path) -> Rows:
    """Read the rows of a protocol's results."""
    try:
        rows: Rows = json.loads(path.read_text())["volumes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable as results ({type(error).__name__}: {error}); run it again") from error
    return rows


def summary_table(results: Path) -> str:
    """Lay out PSNR / dB and SSIM of the real scans, means over volumes, a column a number of coils and acceleration.

    Scores of several coils are those of root-sum-of-squares, which all methods deliver.
    """
    columns = []
    for name, scans, pattern in SUMMARY_SCANS.values():
        columns.append(_select(read_volumes(results / f"{name}.json"), set=scans, pattern=pattern))
    cells = [
        [label, *(_scores([row for row in rows if row["method"] in names], METRICS[:2]) for rows in columns)]
        for label, names in SUMMARY_METHODS.items()
    ]
    return _layout(["method: PSNR / dB, SSIM", *SUMMARY_SCANS], cells)


def mask_loss_table(masks: Rows, accelerations: Rows) -> str:
    """Lay out what each pattern costs a method against random lines of equal effective acceleration.

    Both are means over volumes of the PSNR; that of random lines is read off between the accelerations measured, or
    up to `BEYOND` outside of them, linearly in log R. The U-Net's are of networks trained for these lines. Patterns
    further out are left out.
    """
    sets = _names(masks, "set")
    head = ["mask", *(f"{name}: {', '.join(LABELS[method] for method in COMPARED)}" for name in sets)]
    cells = []
    for pattern in _names(masks, "pattern"):
        line = []
        for name in sets:
            losses = []
            for method in COMPARED:
                of_pattern = _select(masks, set=name, pattern=pattern, method=method)
                own = [row for row in _select(accelerations, set=name, method=method) if not row.get("foreign")]
                losses.append(_difference(of_pattern, own))
            line.append(", ".join("-" if loss is None else f"{loss:+.2f}" for loss in losses))
        if any("." in cell for cell in line) and pattern not in _names(accelerations, "pattern"):
            effective = _mean(_select(masks, pattern=pattern), "R")
            cells.append([f"{pattern} (R = {effective:.1f})", *line])
    return _layout(head, cells)


def _difference(rows: Rows, random: Rows) -> float | None:
    """Compute how many dB lie between rows of one pattern and those of random lines at their acceleration."""
    points = [_select(random, pattern=pattern) for pattern in _names(random, "pattern")]
    curve = sorted((math.log(_mean(group, "R")), _mean(group, "PSNR")) for group in points)
    at = math.log(_mean(rows, "R")) if rows else math.nan
    if len(curve) < 2 or not curve[0][0] - math.log(BEYOND) <= at <= curve[-1][0] + math.log(BEYOND):
        return None
    first = max(0, min(len(curve) - 2, sum(x <= at for x, _ in curve) - 1))
    (x0, y0), (x1, y1) = curve[first : first + 2]
    return _mean(rows, "PSNR") - (y0 + (y1 - y0) * (at - x0) / (x1 - x0))


def _select(rows: Rows, **wanted: str) -> Rows:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def quality_tables(rows: Rows, seconds: dict[str, float] | None = None) -> str:
    """Lay out means over volumes: one pattern as a table of all sets, several as a table of PSNR and SSIM per set.

    Parameters
    ----------
    rows : of the results of quality.py
    seconds : per method, measured alone; else the rows' own median, of a machine that may have had other work
    """
    patterns = _names(rows, "pattern")
    if len(patterns) < 2:
        return _table_of_sets(rows, seconds)
    return "\n".join(_table_of_patterns([row for row in rows if row["set"] == name]) for name in _names(rows, "set"))


def seconds_table(results: dict[str, Any]) -> str:
    """Lay out the median seconds of every method, a column a slice size."""
    sizes = results["seconds"]
    threads = results["threads"]
    head = ["method"] + [f"{size.replace('x', ' x ')}, s / slice" for size in sizes]
    cells = [
        [SECONDS_LABELS.get(name, name)] + [f"{found[name]['median']:.3g}" for found in sizes.values()]
        for name in next(iter(sizes.values()))
    ]
    foot = f"Median of 5 runs after a warm-up, {results['pattern']}, {threads} CPU threads."
    if "peak_memory_GiB" in results:
        foot += f" Peak memory of all of them in one process: {results['peak_memory_GiB']:.2f} GiB."
    return _layout(head, cells) + f"\n{foot}\n"


def calibration_table(results: dict[str, Any]) -> str:
    """Lay out the coverage of intervals and the correlation of deviation with error, a row a set and pattern."""
    levels = [level for level in results["levels"] if level in (0.5, 0.8, 0.9, 0.95)]
    head = ["scans", "mask", *(f"{100 * level:g} %" for level in levels), "correlation"]
    cells = [
        [row["set"], row["pattern"]]
        + [f"{100 * row['coverage'][f'{level:g}']:.1f}" for level in levels]
        + [f"{row['correlation']:.2f}"]
        for row in results["calibration"]
    ]
    return _layout(head, cells)


def guarantee_table(results: dict[str, Any]) -> str:
    """Lay out what a calibration holds, a row a set and acceleration, and how well maps say where errors are."""
    head = [
        "scans", "R", "n", "pixels in 90 % intervals", "PSNR bound holds", "SSIM bound holds", "dB above the bound",
        "warned", "correlation: map, samples, gradient", "AUSE: map, samples, gradient",
    ]  # fmt: skip
    cells = []
    for row in results["guarantee"]:
        holds = [f"{100 * row[name]:.0f} %" for name in ("psnr_holds", "ssim_holds")]
        maps = [
            ", ".join(f"{row[key][name]:.2f}" for name in ("calibrated", "samples", "gradient"))
            for key in ("correlation", "sparsification")
        ]
        cells.append([
            row["set"], f"{row['acceleration']:g}x", str(row["scans"]), f"{100 * row['coverage']:.1f} %", *holds,
            f"{row['psnr_spare']:.1f}", f"{100 * row['warned']:.0f} %", *maps,
        ])  # fmt: skip
    return _layout(head, cells)


LAYOUTS = {
    "seconds": seconds_table,
    "calibration": calibration_table,
    "guarantee": guarantee_table,
    "tasks": overview,
}  # by what results hold


def _table_of_sets(rows: Rows, seconds: dict[str, float] | None) -> str:
    """Lay out one pattern: a row per method, a column per set of scans."""
    sets, methods = _names(rows, "set"), _names(rows, "method")
    alone = seconds is not None and all(method in seconds for method in methods)
    head = [
        "method",
        *(f"{name}: {', '.join(METRICS)}" for name in sets),
        "s / slice" if alone else "s / slice, not alone",
    ]
    cells = []
    for method in methods:
        groups = [[row for row in rows if (row["set"], row["method"]) == (name, method)] for name in sets]
        time = (
            seconds[method] if alone and seconds else np.median([row["seconds"] for group in groups for row in group])
        )
        cells.append([LABELS.get(method, method), *(_scores(group, METRICS) for group in groups), f"{time:.2f}"])
    limits = [_ceiling([row for row in rows if row["set"] == name]) for name in sets]
    return _layout(head, [*cells, [CEILING, *limits, ""]]) + _foot(rows)


def _table_of_patterns(rows: Rows) -> str:
    """Lay out one set of scans: a row per method, a column per pattern, or the other way round if these are more."""
    patterns, methods = _names(rows, "pattern"), _names(rows, "method")
    by_pattern = [[row for row in rows if row["pattern"] == pattern] for pattern in patterns]
    effective = [_mean(group, "R") for group in by_pattern]
    names = [f"{name} (R = {r:.1f})" for name, r in zip(patterns, effective)]
    cells = [
        [LABELS.get(method, method)]
        + [_scores([row for row in group if row["method"] == method], METRICS[:2]) for group in by_pattern]
        for method in methods
    ]
    table = [[f"{rows[0]['set']}: PSNR, SSIM", *names], *cells, [CEILING, *(_ceiling(group) for group in by_pattern)]]
    if len(patterns) > len(methods):
        table = [list(column) for column in zip(*table)]
    return _layout(table[0], table[1:]) + _foot(rows)


def _scores(group: Rows, metrics: Iterable[str]) -> str:
    """Write the means over volumes of a cell; a star marks a network that was trained for another mask."""
    if not group:
        return ""
    star = "*" if any(row.get("foreign") for row in group) else ""
    return ", ".join(f"{_mean(group, key):.{DIGITS[key]}f}" for key in metrics) + star


def _ceiling(group: Rows) -> str:
    """Write the mean over volumes of the ceiling, each volume once."""
    limits = {row["file"]: row["ceiling"] for row in group if row.get("ceiling") is not None}
    return f"{np.mean(list(limits.values())):.2f}" if limits else ""


def _foot(rows: Rows) -> str:
    return f"\n\\{FOREIGN}\n" if any(row.get("foreign") for row in rows) else ""


def _mean(group: Rows, key: str) -> float:
    return float(np.mean([math.nan if row[key] is None else row[key] for row in group]))


def _names(rows: Rows, key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _layout(head: list[str], cells: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def read_text(path: Path) -> str:
    """Read a text file."""
    try:
        return path.read_text()
    except OSError as error:
        raise InputError(f"{path}: not readable ({error}); check the path") from error


if __name__ == "__main__":
    sys.exit(main())

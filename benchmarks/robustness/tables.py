"""Lay out how the package holds out, for its results and docs/."""

from __future__ import annotations

from typing import Any

WHATS = ("read", "refused", "exception", "hang", "crash", "memory")
HEADS = {"exception": "other exceptions", "hang": "hangs", "crash": "crashes", "memory": "too much memory"}


def fuzz_table(results: dict[str, Any]) -> str:
    """Lay out how damaged files were taken, a row a format, and what should not have been."""
    lines = [f"| format | cases | {' | '.join(HEADS.get(what, what) for what in WHATS)} |", f"|{'---|' * 8}"]
    rows = results["formats"]
    whole = {what: sum(row.get(what, 0) for row in rows.values()) for what in ("cases", *WHATS)}
    for name, row in {**rows, "all": whole}.items():
        lines.append(f"| {name} | {row['cases']} | {' | '.join(str(row.get(what, 0)) for what in WHATS)} |")
    lines += [
        "",
        f"Cases of a format have the numbers from {results['first']} on; equal numbers are equal files. A crash is one "
        f"of a library inside the process that reads; a hang takes more than {results['hang_seconds']:g} s of "
        "computing; too much memory is more than twice what was decoded, four times the file and "
        f"{results['memory_constant_MiB']} MiB. The slowest case took {results['slowest']['seconds']:.1f} s "
        f"({results['slowest']['form']} {results['slowest']['number']}).",
        "",
    ]
    if results["defects"]:
        lines += ["| what | format | how often | numbers |", "|---|---|---|---|"]
    for found in results["defects"]:
        numbers = ", ".join(map(str, found["numbers"]))
        error = found["error"].replace("|", "\\|")
        lines.append(f"| {found['what']}: {error} | {found['form']} | {found['count']} | {numbers} |")
    return "\n".join([*lines, ""] if results["defects"] else lines)


def trust_table(results: dict[str, Any]) -> str:
    """Lay out how far results differ by how they are computed, a row a check with the worst that was measured."""
    lines = ["| what changes | compared | largest difference | of | limit |", "|---|---|---|---|---|"]
    rows = results["rows"]
    for check in dict.fromkeys(row["check"] for row in rows):
        of_it = [row for row in rows if row["check"] == check]
        worst = max(of_it, key=lambda row: (not row["right"], row["difference"]))
        limit = f"at least {worst['least']:g}" if "least" in worst else f"{worst['limit']:g}"
        lines.append(f"| {check} | {len(of_it)} | {worst['difference']:.2g} | {worst['what']} | {limit} |")
    right = sum(row["right"] for row in rows)
    size = " x ".join(map(str, results["shape"]))
    return "\n".join(
        [
            *lines,
            "",
            f"{right} of {len(rows)} within their limits, on phantoms of {size}; {results['threads']} threads against "
            f"one; {results['processor']}, torch {results['torch']}.",
            "",
        ]
    )

"""Lay out how the server holds out, for its results and docs/scanner.md."""

from __future__ import annotations

from typing import Any

OUTCOMES = {
    "images": "images and a close: the change has no effect, or only changes the image",
    "images, error told": "images of slices before the error, its text, and a close",
    "no image": "only a close, for example when only a close is left of a scan",
    "no image, error told": "the error's text, and a close",
    "timed out": "a text that no complete message came in time, and a close",
}


def crowd_table(results: dict[str, Any]) -> str:
    """Lay out how scans are answered beside a crowd of clients."""
    alone, crowd, memory = results["alone"], results["crowd"], results["memory_MiB"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in results["kinds"].items())
    lines = [
        f"| {results['scan']}, from connection to last image | scans | as expected | median, s | most, s |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {label} | {row['scans']} | {row['right']} | {row['median_seconds']:.3f} | {row['max_seconds']:.3f} |"
        for label, row in (("alone", alone), (f"beside {results['connections']} other connections", crowd))
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"A scan beside the others took {results['ratio']:.2f} times the usual time. The others: {kinds}. The "
            f"server held at most {results['open_files']} open files, and ended {results['ended']} connections, which "
            f"reconnected. Memory was {memory['before']:.0f} MiB before, {memory['crowd']:.0f} MiB beside the others, "
            f"and at most {memory['peak']:.0f} MiB. Of {results['log_lines']} lines in the log, "
            f"{results['log_lines_with_control_characters']} had control characters for a terminal. "
            f"{results['threads']} {'thread' if results['threads'] == 1 else 'threads'}.",
            "",
        ]
    )


def scanner_tables(results: dict[str, Any]) -> str:
    """Lay out all of it."""
    held, broken = results["endurance"], results["mutations"]
    lines = ["| from the last line to the first image | median, s | most, s |", "|---|---|---|"]
    lines += [
        f"| {row['scan']} | {row['median_seconds']:.3f} | {row['max_seconds']:.3f} |" for row in results["latency"]
    ]
    lines += [
        "",
        f"Of {held['scans']} scans sent one after another, {held['right']} gave the expected images, bit for bit, and "
        f"so did {held['right_at_once']} of {held['rounds'] * held['at_once']} scans sent {held['at_once']} at once "
        f"({results['scan']}). From scan {held['settled_after']} on, memory stayed within "
        f"{100 * held['memory_spread']:.2f} %, at {held['memory_MiB'][-1]:.0f} MiB; with {held['at_once']} at once, "
        f"within {100 * held['memory_spread_at_once']:.2f} %, at {held['memory_at_once_MiB'][-1]:.0f} MiB.",
        "",
        "| reply to a mutated stream | streams |",
        "|---|---|",
        *(f"| {OUTCOMES.get(told, told)} | {count} |" for told, count in broken["outcomes"].items()),
        "",
        f"There were {broken['streams']} streams from {broken['clients']} clients at once, in "
        f"{broken['seconds']:.0f} s. Of {broken['good_scans']} good scans between them, {broken['good_scans_right']} "
        f"gave the expected images. Memory was {broken['memory_before_MiB']:.0f} MiB before, "
        f"{broken['memory_after_MiB']:.0f} MiB after, and at most {broken['peak_MiB']:.0f} MiB.",
        "",
        f"{results['threads']} threads.",
        "",
    ]
    return "\n".join(lines)

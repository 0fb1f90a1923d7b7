"""Tables of the multi-coil benchmark: root-sum-of-squares and coil-combined scores, a row a method."""

from __future__ import annotations

from typing import Any

import numpy as np

LABELS = {
    "zero-filled": "zero-filled",
    "sense": "CG-SENSE (sigpy)",
    "wavelet": "L1-wavelet (sigpy)",
    "tv": "TV (sigpy)",
    "bart-wavelet": "ESPIRiT + L1-wavelet (BART)",
    "bart-tv": "ESPIRiT + TV (BART)",
    "ecalib-wavelet": "ESPIRiT of its own + L1-wavelet (BART)",
    "nlinv": "nlinv (BART)",
    "varnet": "VarNet (fastMRI)",
    "amortized": "mrihvae (amortized)",
    "hybrid": "mrihvae (hybrid)",
}
PEER = "bart-wavelet"
Rows = list[dict[str, Any]]


def multicoil_tables(rows: Rows) -> str:
    """Lay out one table a pattern: PSNR / dB and SSIM of both images, means over volumes, a column a set."""
    return "\n".join(_table(pattern, rows) for pattern in _names(rows, "pattern"))


def margins(rows: Rows, method: str = "hybrid", peer: str = PEER) -> Rows:
    """Compute how far a method is ahead of a peer, a row a pattern and set: combined PSNR / dB, and SSIM of RSS."""
    found = []
    for pattern in _names(rows, "pattern"):
        for name in _names(rows, "set"):
            chosen = [row for row in rows if row["pattern"] == pattern and row["set"] == name]
            ours, theirs = ([row for row in chosen if row["method"] == one] for one in (method, peer))
            if ours and theirs:
                gained = {key: _mean(ours, key) - _mean(theirs, key) for key in ("combined PSNR", "SSIM")}
                found.append({"pattern": pattern, "set": name, **gained})
    return found


def multicoil_seconds_table(results: dict[str, Any]) -> str:
    """Lay out the median seconds, a column a size, and the peak memory of the hybrid."""
    sizes = results["seconds"]
    lines = [
        "| method | " + " | ".join(f"{size.replace('x', ' x ')}, s / slice" for size in sizes) + " |",
        "| --- |" + " --- |" * len(sizes),
    ]
    for name in next(iter(sizes.values())):
        cells = [f"{found[name]['median']:.2f}" if name in found else "-" for found in sizes.values()]
        lines.append(f"| {LABELS[name]} | " + " | ".join(cells) + " |")
    memory = results["peak_memory_GiB of mrihvae (hybrid)"]
    peaks = ", ".join(f"{value:.2f} GiB at {size.replace('x', ' x ')}" for size, value in memory.items())
    foot = f"H x W x coils; median of {results['repeats']} runs after a warm-up, maps included, {results['pattern']}, "
    return "\n".join(lines) + f"\n\n{foot}{results['threads']} CPU threads. Peak memory of mrihvae (hybrid): {peaks}.\n"


def _table(pattern: str, rows: Rows) -> str:
    """Lay out a pattern."""
    rows = [row for row in rows if row["pattern"] == pattern]
    sets, methods = _names(rows, "set"), [name for name in LABELS if name in _names(rows, "method")]
    r = float(np.mean([row["R"] for row in rows]))
    lines = [
        f"{pattern}, R = {r:.2f}: combined PSNR / dB, SSIM; root-sum-of-squares PSNR / dB, SSIM\n",
        "| method | " + " | ".join(sets) + " |",
        "| --- |" + " --- |" * len(sets),
    ]
    for method in methods:
        cells = []
        for name in sets:
            group = [row for row in rows if (row["set"], row["method"]) == (name, method)]
            cells.append(f"{_pair(group, 'combined ')}; {_pair(group, '')}")
        lines.append(f"| {LABELS[method]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _pair(group: Rows, prefix: str) -> str:
    if not group or any(f"{prefix}PSNR" not in row for row in group):
        return "-"
    return f"{_mean(group, f'{prefix}PSNR'):.2f}, {_mean(group, f'{prefix}SSIM'):.3f}"


def _mean(group: Rows, key: str) -> float:
    return float(np.mean([row[key] for row in group]))


def _names(rows: Rows, key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))

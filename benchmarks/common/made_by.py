"""Which weights made results, and whether these are the shipped ones: a line under tables where they are not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import HERE
from mrihvae.errors import InputError
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import fingerprint
from mrihvae.recon.settings import SAMPLING_METHODS

DIGEST = re.compile(r"[0-9a-f]{12}")
HEADS = ("weights", "checkpoint", "fingerprint", "separable", "vanilla")  # where results say whose they are
ROWS = re.compile(r"weights ([0-9a-f]{12})")


def weights_path(name: str) -> Path:
    """Find weights of the benchmarks, or shipped ones, or a file."""
    own = HERE / "weights" / f"{name}.safetensors"
    return own if own.is_file() else find_weights(name)


def digests_of(results: dict[str, Any]) -> set[str]:
    """Collect the fingerprints of the weights that results say they were made by; of rows, those of mrihvae's methods.

    Examples
    --------
    >>> from benchmarks.common.made_by import digests_of
    >>> rows = [{"method": "hybrid", "made_by": "weights 0123456789ab, views 2"}, {"method": "tv", "made_by": "sigpy"}]
    >>> digests_of({"weights": "ffffffffffff", "volumes": rows})
    {'0123456789ab'}
    """
    rows = results.get("volumes")
    if isinstance(rows, list):
        made = [str(row.get("made_by")) for row in rows if row.get("method") in SAMPLING_METHODS]
        return {found[1] for found in map(ROWS.match, made) if found}
    values = [results.get(key) for key in HEADS]
    values += results["weights"].values() if isinstance(results.get("weights"), dict) else []
    return {value for value in values if isinstance(value, str) and DIGEST.fullmatch(value)}


def older_weights(
    results: dict[str, Any], names: Iterable[str], digest: Callable[[Path], str] = fingerprint
) -> set[str]:
    """Give those fingerprints of results that are of none of these weights; none where results name no weights."""
    current = {digest(weights_path(name)) for name in names}
    return digests_of(results) - current if current else set()


def note(results: dict[str, Any], names: tuple[str, ...]) -> str:
    """Say, in a line for below a table, that rows were made with other weights than the shipped ones; else nothing."""
    older = sorted(older_weights(results, names))
    if not older:
        return ""
    now = ", ".join(f"`{name}`, SHA-256 {fingerprint(weights_path(name))}" for name in names)
    return (
        f"\nRows of mrihvae were made with earlier weights, SHA-256 {', '.join(older)}, not with the shipped {now}.\n"
    )


def read_results(path: Path) -> dict[str, Any]:
    """Read a results file.

    Raises
    ------
    InputError
        Not readable, or no results.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as results ({type(error).__name__}: {error}); run it again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no results; run it again")
    return found

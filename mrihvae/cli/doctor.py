"""`mrihvae doctor`: whether the installation is sound, and what it would help others to know about it."""

from __future__ import annotations

import json
from typing import Any

from mrihvae.cli import options
from mrihvae.cli.doctor_checks import (
    check_limits,
    check_packages,
    check_weights,
    describe_devices,
    describe_environment,
    run_self_test,
)

LABEL = 14  # letters
GIB = 2**30


def run(arguments: options.Doctor) -> int:
    """Check the installation; prints lines, or with --json an object.

    Returns
    -------
    the exit status: 1 if something is wrong
    """
    found = examine()
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(_lines(found)))
    return 0 if found["ok"] else 1


def examine() -> dict[str, Any]:
    """Make all checks; "problems" lists what is wrong, each with what to do, and "ok" says that there is nothing."""
    environment, problems = describe_environment(), []
    packages, extras, wrong = check_packages()
    problems += wrong
    weights = check_weights()
    problems += [row["error"] for row in weights if row["error"]]
    limits, wrong = check_limits()
    problems += wrong
    devices = describe_devices()
    self_test = run_self_test()
    problems += [self_test["error"]] if self_test["error"] else []
    return {
        "ok": not problems,
        "problems": problems,
        "environment": environment,
        "packages": packages,
        "extras": extras,
        "devices": devices,
        "limits": limits,
        "weights": weights,
        "self_test": self_test,
    }


def _lines(found: dict[str, Any]) -> list[str]:
    """Lay out the checks in lines."""
    environment, limits, test = found["environment"], found["limits"], found["self_test"]
    precision = environment["precision"] + (
        f" ({environment['precision_variable']})" if environment["precision_variable"] else ""
    )
    rows = [
        ("mrihvae", f"{environment['mrihvae']}, {environment['folder']}"),
        ("Python", f"{environment['python']}, {environment['system']}"),
        ("packages", ", ".join(f"{name} {version or 'missing'}" for name, version in found["packages"].items())),
        *(("extra", _extra(row)) for row in found["extras"]),
        *(("device", f"{row['device']}: {row['about']}") for row in found["devices"]),
        ("threads", f"{environment['threads']} of {environment['processors']} processors"),
        ("precision", precision),
        ("memory", f"{_gib(limits['memory'])}, {_gib(limits['memory_available'])} of it free"),
        ("open files", "unlimited" if limits["open_files"] is None else str(limits["open_files"])),
        *(("free disk", f"{_gib(size)} in {folder}") for folder, size in limits["free_disk"].items()),
        *(("weights", _weights(row)) for row in found["weights"]),
        ("self-test", _self_test(test)),
        *(("problem", text) for text in found["problems"]),
        ("result", "all checks passed" if found["ok"] else f"{len(found['problems'])} of the checks failed, see above"),
    ]
    return [f"{label:{LABEL}}{text}" for label, text in rows]


def _extra(row: dict[str, Any]) -> str:
    if not row["missing"]:
        return f"{row['extra']}: installed"
    return f"{row['extra']}: missing {', '.join(row['missing'])}; {row['command']}"


def _weights(row: dict[str, Any]) -> str:
    return f"{row['name']}: {'damaged' if row['error'] else 'whole'}, SHA-256 {row['sha256'] or 'unknown'}"


def _self_test(test: dict[str, Any]) -> str:
    if test["psnr"] is None:
        return "failed"
    return f"PSNR {test['psnr']:.2f} dB, expected {test['expected_psnr']:.2f}, in {test['seconds']:.1f} s"


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / GIB:.1f} GiB"

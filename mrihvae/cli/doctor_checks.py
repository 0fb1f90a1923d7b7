"""The checks of `mrihvae doctor`. None of them raises an error: what is wrong is a line with what to do."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from mrihvae import __version__
from mrihvae.errors import reason
from mrihvae.utils.notices import collect_notices

HIDDEN = ("all", "test", "dev")  # extras that are unions of the others, or for developers
REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w,-]+)\])?[^;]*(?:;.*extra\s*==\s*['\"]([\w-]+)['\"])?")
LEAST_DISK, LEAST_FILES = 2**27, 64  # bytes, open files
SIZE, PSNR, TOLERANCE = 96, 31.29, 0.5  # of the self-test: pixels of a side, dB by the shipped weights, dB
AGAIN = "install mrihvae again"


def describe_environment() -> dict[str, Any]:
    """Describe Python, the system, threads and the precision that "auto" means on the CPU."""
    from mrihvae.utils.precision import PRECISION_VARIABLE

    variable = os.environ.get(PRECISION_VARIABLE)
    found = {
        "mrihvae": __version__,
        "folder": str(Path(__file__).parents[1]),
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": None,
        "precision": "unknown",
        "precision_variable": None if variable is None else f"{PRECISION_VARIABLE}={variable}",
    }
    with suppress(Exception):  # packages and self-test say more
        import torch

        from mrihvae.utils.precision import has_bfloat16

        found["threads"] = torch.get_num_threads()
        found["precision"] = "bfloat16" if has_bfloat16(torch.device("cpu")) else "float32"
    return found


def check_packages() -> tuple[dict[str, str | None], list[dict[str, Any]], list[str]]:
    """Look for the packages that mrihvae takes.

    Returns
    -------
    versions by name, None of a missing one; extras with what they lack and how to install them; problems
    """
    try:
        lines = metadata.requires("mrihvae") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return {}, [], []
    needed: dict[str | None, list[tuple[str, str | None]]] = {}
    for line in lines:
        if match := REQUIREMENT.match(line):
            needed.setdefault(match[3], []).append((match[1], match[2]))
    packages = {name: _version(name) for name, _ in needed.pop(None, [])}
    extras = []
    for extra in needed:
        if extra and extra not in HIDDEN:
            missing = [name for name in _names(needed, extra) if _version(name) is None]
            extras.append({"extra": extra, "missing": missing, "command": f"pip install 'mrihvae[{extra}]'"})
    lacking = [name for name, version in packages.items() if version is None]
    return packages, extras, [f"{name}: not installed; {AGAIN}, or pip install {name}" for name in lacking]


def _names(needed: dict[str | None, list[tuple[str, str | None]]], extra: str) -> list[str]:
    """List the packages of an extra, which may take others."""
    names: list[str] = []
    for name, others in needed.get(extra, []):
        names += [one for other in (others or "").split(",") for one in _names(needed, other)] if others else [name]
    return list(dict.fromkeys(names))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def describe_devices() -> list[dict[str, str]]:
    """Describe the devices that --device may name."""
    try:
        import torch

        found = [{"device": "cpu", "about": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"}]
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            text = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
            found.append({"device": f"cuda:{number}", "about": text})
        return found
    except Exception as error:  # of a driver that does not fit, too
        return [{"device": "cpu", "about": f"others cannot be listed ({reason(error)})"}]


def check_limits() -> tuple[dict[str, Any], list[str]]:
    """Return memory, open files and free disk in bytes, None where unknown or without a limit; and problems."""
    memory, available = _memory()
    open_files = None
    with suppress(ImportError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        open_files = None if soft == resource.RLIM_INFINITY else soft
    free: dict[str, int] = {}
    problems = []
    with suppress(OSError):
        free[str(Path.cwd())] = shutil.disk_usage(Path.cwd()).free
    try:
        free[tempfile.gettempdir()] = shutil.disk_usage(tempfile.gettempdir()).free
    except OSError as error:
        problems.append(f"temporary files: no folder for them ({reason(error)}); set TMPDIR to one with space")
    problems += [f"{folder}: is full; free space" for folder, size in free.items() if size < LEAST_DISK]
    if open_files is not None and open_files < LEAST_FILES:
        problems.append(f"open files: at most {open_files} are allowed; raise the limit with 'ulimit -n 1024'")
    limits = {"memory": memory, "memory_available": available, "open_files": open_files, "free_disk": free}
    return limits, problems


def _memory() -> tuple[int | None, int | None]:
    """Return memory and what of it is free, in bytes, within the limit of a container."""
    total = available = None
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
        total, available = sizes.get("MemTotal"), sizes.get("MemAvailable")
    with suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total = min(limit, total or limit)
        available = min(max(limit - used, 0), limit if available is None else available)
    if total is None and hasattr(os, "sysconf"):
        with suppress(OSError, ValueError):
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total, available


def check_weights() -> list[dict[str, Any]]:
    """Check the shipped weights against the SHA-256 in their cards."""
    try:
        shipped = importlib.import_module("mrihvae.model.shipped")
        module = importlib.import_module("mrihvae.model.weights")
    except Exception as error:
        return [{"name": "shipped", "sha256": None, "error": f"weights: cannot be read ({reason(error)}); {AGAIN}"}]
    rows: list[dict[str, Any]] = []
    for card in shipped.shipped_cards():
        row: dict[str, Any] = {"name": card.stem, "sha256": None, "error": None}
        path = card.with_suffix(".safetensors")
        try:
            with collect_notices() as notices:
                if not module.verify_weights(path):
                    row["error"] = f"{card}: has no SHA-256, so damage cannot be detected; {AGAIN}"
            row["error"] = row["error"] or next(iter(notices), None)
            row["sha256"] = module.fingerprint(path)
        except Exception as error:
            row["error"] = reason(error)
        rows.append(row)
    return rows or [{"name": "shipped", "sha256": None, "error": f"{shipped.SHIPPED}: has no weights; {AGAIN}"}]


def run_self_test() -> dict[str, Any]:
    """Reconstruct a phantom by the weights `default`, and compare its PSNR in dB with what it should be."""
    began = time.perf_counter()
    result: dict[str, Any] = {"psnr": None, "expected_psnr": PSNR, "seconds": None, "error": None}
    try:
        result["psnr"] = round(_reconstruct_phantom(), 3)
    except Exception as error:
        result["error"] = f"self-test: failed ({reason(error)}); {AGAIN}"
    else:
        if not result["psnr"] >= PSNR - TOLERANCE:
            result["error"] = f"self-test: PSNR {result['psnr']} dB in place of {PSNR}; {AGAIN}"
    result["seconds"] = round(time.perf_counter() - began, 3)
    return result


def _reconstruct_phantom() -> float:
    """Compute the PSNR of the Shepp-Logan phantom, from every third line and the center, with noise and a phase."""
    import numpy as np
    from sigpy import shepp_logan

    from mrihvae.recon.arrays import reconstruct

    image = np.abs(shepp_logan((SIZE, SIZE)))
    y, x = np.linspace(-1, 1, SIZE)[:, None], np.linspace(-1, 1, SIZE)
    spectrum = np.fft.fft2(np.fft.ifftshift(image * np.exp(1j * (0.5 * y + 0.3 * x))), norm="ortho")
    real, imaginary = np.random.default_rng(0).standard_normal((2, SIZE, SIZE))
    kspace = np.fft.fftshift(spectrum) + 0.01 * (real + 1j * imaginary) / 2**0.5
    lines = (np.arange(SIZE) % 3 == 0) | (abs(np.arange(SIZE) - SIZE // 2) < SIZE // 16)
    found = reconstruct(kspace, lines, method="hybrid", device="cpu").magnitude
    return float(10 * np.log10(image.max() ** 2 / np.mean((found - image) ** 2)))

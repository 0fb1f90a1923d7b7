"""How `mrihvae reconstruct --workers` holds out: 200 volumes, a worker that is killed twice, overhead and throughput.

    python -m benchmarks.cluster.volumes

Volumes are simulated. They are reconstructed in one process, by one worker, by two, and by two of which one is killed
twice. Each process has one thread. Seconds per volume are those between the first volume and the last
one, by the times in `--log-json`; the overhead of the scheduler is that of one worker over one process. All files are
compared byte for byte with those of one process. Leave the machine alone meanwhile: it takes about ten minutes on two
cores. Writes results/cluster.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks import HERE
from mrihvae import __version__
from mrihvae.physics.fourier import fft2c
from mrihvae.physics.sampling import sampling_pattern
from mrihvae.utils.files import atomic_write

SETTINGS = {"one process": (), "1 worker": ("--workers", "1"), "2 workers": ("--workers", "2")}
KILLED = "2 workers, one killed twice"
TIMED = ("seconds_per_slice", "stages", "peak_memory_mb")  # differ from run to run


def write_volumes(folder: Path, count: int, slices: int, size: int, seed: int) -> None:
    """Write undersampled scans of ellipses, noise and a smooth phase, in fastMRI's form."""
    rng = np.random.default_rng(seed)
    y, x = np.linspace(-1, 1, size)[:, None], np.linspace(-1, 1, size)
    for k in range(count):
        images = np.zeros((slices, size, size))
        for image in images:
            image += 0.6 * (y**2 + (x / 0.8) ** 2 < 0.7)
            for row, column, height in rng.uniform(-0.5, 0.5, (4, 3)):
                image += (height + 0.5) * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 0.02)
        white = rng.standard_normal((2, slices, size, size)) * 0.01
        kspace = fft2c(torch.from_numpy(images * np.exp(1j * (y + 0.5 * x)))).numpy() + white[0] + 1j * white[1]
        mask = sampling_pattern("random", (size, size), 4, 0.08, seed + k)
        with h5py.File(folder / f"volume{k:04d}.h5", "w") as file:
            file["kspace"], file["mask"] = np.where(mask, kspace, 0).astype(np.complex64), mask
            file.attrs["acquisition"] = "phantom"


def reconstruct(data: Path, output: Path, method: str, words: tuple[str, ...], kills: int = 0) -> dict[str, Any]:
    """Run the command; `kills` times kill its first worker on the way. Return its seconds."""
    log, environment = output.with_suffix(".jsonl"), {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mrihvae", "reconstruct", data, "--output", output, "--method", method]
    with subprocess.Popen([*map(str, command), "--log-json", str(log), "--quiet", *words], env=environment) as process:
        total, killed = len(list(data.iterdir())), 0
        while process.poll() is None:
            time.sleep(0.05)
            if killed < kills and len(times_in(log)) > total * (killed + 1) // (kills + 2):
                workers = workers_of(process.pid)
                if workers:
                    os.kill(workers[0], signal.SIGKILL)
                    killed += 1
    times = times_in(log)
    return {
        "status": process.returncode,
        "killed": killed,
        "seconds_per_volume": (times[-1] - times[0]) / (len(times) - 1),
        "seconds_to_first": times[0] - times_in(log, "start")[0],
    }


def times_in(log: Path, event: str = "volume") -> list[float]:
    """Return the times of events of a log, in seconds."""
    lines = log.read_text().splitlines() if log.is_file() else []
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [datetime.fromisoformat(one["time"]).timestamp() for one in events if one["event"] == event]


def workers_of(process: int) -> list[int]:
    """List the worker processes of a command, oldest first (Linux)."""
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(child)
    return sorted(found)


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Compare two output folders: files that differ, rows of the record, and what should not be there."""
    files = [
        {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()} for folder in (one, other)
    ]
    names = sorted(path for path in files[0] if path.suffix != ".json")
    differ = [
        name for name in names if name not in files[1] or files[0][name].read_bytes() != files[1][name].read_bytes()
    ]
    rows = [
        [
            {key: value for key, value in row.items() if key not in TIMED}
            for row in json.loads((folder / "reconstruct.json").read_text())["volumes"]
        ]
        for folder in (one, other)
    ]
    leftovers = [str(name) for name in files[1] if name not in files[0]]
    return {"files": len(names), "different": len(differ), "leftovers": leftovers, "same_rows": rows[0] == rows[1]}


def table(results: dict[str, Any]) -> str:
    """Lay out the results as Markdown."""
    lines = ["| | s / volume | volumes / s | s to the first |", "|---|--:|--:|--:|"]
    for name, found in results["runs"].items():
        seconds = found["seconds_per_volume"]
        lines.append(f"| {name} | {seconds:.4f} | {1 / seconds:.2f} | {found['seconds_to_first']:.1f} |")
    compared = results["compared"][KILLED]
    checks = [
        f"Overhead of the scheduler: {100 * results['overhead']:.1f} %. Throughput of two workers: "
        f"{results['throughput']:.2f} times that of one.",
        f"A worker was killed {results['runs'][KILLED]['killed']} times: of {compared['files']} files "
        f"{compared['different']} differ from those of one process, {len(compared['leftovers'])} are left over, rows "
        f"are {'the same' if compared['same_rows'] else 'NOT the same'}.",
    ]
    about = f"{results['volumes']} volumes of {results['slices']} slices of {results['size']}"
    head = f"{about}, {results['method']}, one thread"
    return "\n\n".join([head, "\n".join(lines), *checks]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns its exit status, 1 if any result was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--method", default="amortized")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="6 volumes of one slice of 32, zero-filled, killed runs alone"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results" / "cluster.json")
    options = parser.parse_args(arguments)
    if options.quick:
        options.volumes, options.slices, options.size, options.method = 6, 1, 32, "zero-filled"
    os.environ.update(OMP_NUM_THREADS="1", MRIHVAE_PRECISION="float32")
    load = os.getloadavg()[0]
    settings = {name: words for name, words in SETTINGS.items() if not options.quick or name == "one process"}
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        data.mkdir(), out.mkdir()
        write_volumes(data, options.volumes, options.slices, options.size, options.seed)
        runs = {name: reconstruct(data, out / name, options.method, words) for name, words in settings.items()}
        runs[KILLED] = reconstruct(data, out / KILLED, options.method, SETTINGS["2 workers"], kills=2)
        compared = {name: compare(out / "one process", out / name) for name in list(runs)[1:]}
    seconds = {name: found["seconds_per_volume"] for name, found in runs.items()}
    results: dict[str, Any] = {
        "mrihvae": __version__, "torch": str(torch.__version__), "command": "python -m benchmarks.cluster.volumes",
        "cores": os.cpu_count(), "load_before": round(load, 2), "volumes": options.volumes, "slices": options.slices,
        "size": f"{options.size}x{options.size}", "method": options.method, "seed": options.seed, "runs": runs,
        "compared": compared,
    }  # fmt: skip
    one, two = seconds.get("1 worker", seconds[KILLED]), seconds.get("2 workers", seconds[KILLED])
    results |= {"overhead": one / seconds["one process"] - 1, "throughput": one / two}
    for path, text in (
        (options.output, json.dumps(results, indent=1) + "\n"),
        (options.output.with_suffix(".md"), table(results)),
    ):
        with atomic_write(path) as temporary:
            temporary.write_text(text)
    print(table(results))
    good = all(not part["different"] and not part["leftovers"] and part["same_rows"] for part in compared.values())
    return 0 if good and not any(run["status"] for run in runs.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

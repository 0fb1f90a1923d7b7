"""What the package gives today, kept by commands alone, so that a change of its code can be compared with it.

    python -m tests.golden store DIR --package CHECKOUT
    python -m tests.golden compare DIR [--tolerance 1e-6] [--package CHECKOUT]

`store` runs commands of the package at CHECKOUT (left out: this one) and writes DIR/golden.npz: reconstructions of one
coil and of several by every method, posterior samples and their deviation, restored images, an MRD file, the server,
the filter, training of 20 steps and draws from the prior, with shipped weights and with small ones. `compare` runs them
again and says what differs: bit by bit, or by more than a tolerance over the maximum of each array. Both sides have to
run on one machine, with the same versions of all libraries. `--data DIR` adds real k-space of several coils.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import nibabel
import numpy as np
from safetensors.numpy import load_file

from tests.support import REPOSITORY, mrd

SMALL = {
    "model": {"widths": [16, 16, 16], "layers": 1, "cascades": 1, "guess_widths": [16, 16], "guess_memory": 2},
    "training": {
        "steps": 20, "warmup": 3, "shapes": [[64, 64], [64, 48]], "pixels": 8192, "guess_only": 4, "masked_start": 8,
        "prior_every": 2, "second_every": 3, "kl_warmup": 4,
    },
    "simulation": {"coils": [1, 4], "one_coil": 0.5},
}  # fmt: skip
MASK = ("--mask-type", "random", "--acceleration", "4")
METHODS = ("hybrid", "amortized", "pnp", "tv", "sense", "zero-filled")
TASKS = {
    "deblur": ("--kernel-width", "2", "--noise", "0.02"),
    "superresolve": ("--factor", "2", "--noise", "0.01"),
    "denoise": ("--noise", "0.05"),
}


@dataclass
class Golden:
    """Runs the commands of a package, and collects what they write."""

    package: Path
    folder: Path
    found: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the commands: one thread and float32, as results depend on both."""
        return {
            **os.environ, "PYTHONPATH": str(self.package), "OMP_NUM_THREADS": "1", "MRIHVAE_PRECISION": "float32",
        }  # fmt: skip

    def command(self, *words: object) -> list[str]:
        """Give the command line of a command."""
        return [sys.executable, "-m", "mrihvae", *map(str, words)]

    def run(self, *words: object) -> None:
        """Run a command, and end where it fails."""
        done = subprocess.run(self.command(*words), env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"golden: {' '.join(map(str, words))} failed:\n{done.stderr}")

    def keep(self, name: str, values: object) -> None:
        """Keep an array."""
        self.found[name] = np.asarray(values)

    def keep_file(self, name: str, path: Path) -> None:
        """Keep all arrays of a file of HDF5, NIfTI or safetensors."""
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                for key in sorted(file):
                    if isinstance(file[key], h5py.Dataset) and file[key].dtype.kind in "fciub":
                        self.keep(f"{name}/{key}", file[key][()])
        elif path.suffix == ".safetensors":
            for key, values in sorted(load_file(path).items()):
                self.keep(f"{name}/{key}", values)
        else:
            self.keep(name, nibabel.load(path).get_fdata())

    def reconstruct(self, name: str, scan: Path, *options: object) -> None:
        """Reconstruct a file, and keep what comes out."""
        output = self.folder / name.replace(" ", "_").replace("/", "_")
        self.run("reconstruct", scan, "--output", output, "--overwrite", *options)
        for path in sorted((output / "reconstructions").iterdir()):
            self.keep_file(f"{name}/{path.stem}", path)


def trained(golden: Golden, scans: Path) -> Path:
    """Train small weights for 20 steps, resumed after 10: gives them."""
    settings, output = golden.folder / "small.json", golden.folder / "small"
    settings.write_text(json.dumps(SMALL))
    golden.run("train", scans, "--settings", settings, "--output", output, "--steps", 10)
    golden.run("train", scans, "--resume", "--output", output, "--steps", 20)
    golden.keep_file("train", output / "weights.safetensors")
    losses = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    for key in ("rollout", "guess", "elbo", "zero_filled"):
        golden.keep(f"train/{key}", [line.get(key, np.nan) for line in losses])
    return output / "weights.safetensors"


def reconstructed(golden: Golden, demo: Path, small: Path) -> None:
    """Reconstruct scans of one coil and of several by every method."""
    for method in METHODS:
        golden.reconstruct(f"one coil/{method}", demo, "--method", method, *MASK)
    golden.reconstruct("one coil/small", demo, "--checkpoint", small, *MASK)
    golden.reconstruct("one coil/samples", demo, "--samples", 3, "--keep-samples", *MASK)
    golden.reconstruct("one coil/lines along H", demo, "--axis", "H", "--method", "amortized", *MASK)
    coils = golden.folder / "coils"
    golden.run("simulate", golden.folder / "images", "--output", coils, "--coils", 5, "--matrix", 96, *MASK)
    complete = sorted(coils.rglob("*val/*.h5"))[0]
    golden.keep_file("simulate", complete)
    for method in METHODS:
        golden.reconstruct(f"several coils/{method}", complete, "--method", method, *MASK)
    golden.reconstruct("several coils/small", complete, "--checkpoint", small, *MASK)
    golden.reconstruct("several coils/combined", complete, "--combine-coils", "combined", "--virtual-coils", 3, *MASK)
    golden.reconstruct("several coils/samples", complete, "--samples", 3, "--keep-samples", *MASK)


def real_coils(golden: Golden, data: Path) -> None:
    """Reconstruct a few slices of real k-space of several coils."""
    for path in sorted((data / "multicoil").rglob("*.h5"))[:2]:
        cut = golden.folder / path.name
        with h5py.File(path) as file, h5py.File(cut, "w") as copy:
            middle = len(file["kspace"]) // 2
            copy["kspace"] = file["kspace"][middle : middle + 2]
            if "ismrmrd_header" in file:
                copy["ismrmrd_header"] = file["ismrmrd_header"][()]
        golden.reconstruct("real coils", cut, *MASK)


def restored(golden: Golden) -> None:
    """Restore images, and draw from the prior."""
    images = sorted((golden.folder / "images").glob("*.nii.gz"))[:1]
    for task, options in TASKS.items():
        output = golden.folder / task
        golden.run("restore", *images, "--task", task, *options, "--output", output, "--iterations", 8)
        for path in sorted(output.glob("*.nii.gz")):
            golden.keep_file(f"restore/{task}", path)
    golden.run("sample", "--output", golden.folder / "sample", "--samples", 2, "--size", 96, 96)
    golden.keep_file("sample", golden.folder / "sample" / "samples.h5")


def kspace_of_phantom(coils: int = 3, height: int = 64, width: int = 48) -> np.ndarray:
    """Make k-space of ellipses with smooth coils, complex64 (2 slices, coils, H, W)."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    body = (x**2 / 0.6 + y**2 / 0.7 < 1) * (1 + 0.3 * np.sin(7 * x) * np.cos(5 * y))
    angles = 2 * np.pi * np.arange(coils) / coils
    fields = [np.exp(-((x - np.cos(a)) ** 2) - (y - np.sin(a)) ** 2 + 1j * (a + x * np.sin(a))) for a in angles]
    images = np.stack([body * np.stack(fields), body[::-1] * np.stack(fields)])
    noise = np.random.default_rng(0).standard_normal((2, *images.shape)) * 0.02
    axes = (-2, -1)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes), norm="ortho"), axes)
    return np.asarray(kspace + noise[0] + 1j * noise[1], np.complex64)


def of_scanner(golden: Golden) -> None:
    """Reconstruct an MRD scan from a file, by the server, and by the filter."""
    kspace = kspace_of_phantom()
    width = kspace.shape[-1]
    mask = np.stack([(np.arange(width) % 3 == 0) | (abs(np.arange(width) - width // 2) < 6)])[:, None]
    lines = mrd.cartesian_lines(kspace, mask=mask, noise_scans=4, noise_covariance=1e-4)
    xml = mrd.cartesian_xml(kspace.shape)
    path = golden.folder / "mrd.h5"
    mrd.write_mrd(path, xml, lines)
    golden.reconstruct("mrd file", path)
    payload = mrd.stream(xml, lines, "mrihvae")
    answers = mrd.reconstruct_pipe(
        golden.command("filter", "--pixels", "float"), payload, env=golden.environment, half_close=False
    )
    golden.keep("filter", [one.data[0, 0] for one in answers.images])
    with subprocess.Popen(
        golden.command("serve", "--port", 0), stdout=subprocess.PIPE, text=True, env=golden.environment
    ) as running:
        assert running.stdout is not None
        port = int(running.stdout.readline().rpartition(":")[2])
        for config in ("mrihvae", "sense"):
            answers = mrd.reconstruct("127.0.0.1", port, mrd.stream(xml, lines, config))
            golden.keep(f"server/{config}", [one.data[0, 0] for one in answers.images])
        running.send_signal(signal.SIGTERM)


def made(package: Path, data: Path | None) -> dict[str, np.ndarray]:
    """Run everything; gives arrays by name."""
    with tempfile.TemporaryDirectory() as folder:
        golden = Golden(package, Path(folder))
        demos = sorted((package / "mrihvae" / "demo_scans").glob("patient_*.h5"))
        (golden.folder / "images").mkdir()
        for demo in demos:
            golden.run("convert", demo, golden.folder / "images" / f"{demo.stem}.nii.gz", "--images")
            golden.keep_file(f"convert/{demo.stem}", golden.folder / "images" / f"{demo.stem}.nii.gz")
        parts: list[Callable[[], object]] = [
            lambda: reconstructed(golden, demos[0], trained(golden, demos[0])),
            lambda: restored(golden),
            lambda: of_scanner(golden),
        ]
        if data is not None:
            parts.append(lambda: real_coils(golden, data))
        for number, part in enumerate(parts, 1):
            part()
            print(f"golden: part {number} of {len(parts)} done, {len(golden.found)} arrays", file=sys.stderr)
    return golden.found


def differences(kept: dict[str, np.ndarray], now: dict[str, np.ndarray], tolerance: float) -> Iterator[str]:
    """Say what is not the same."""
    for name in sorted(kept.keys() | now.keys()):
        if name not in kept or name not in now:
            yield f"{name}: only {'now' if name in now else 'before'}"
        elif kept[name].shape != now[name].shape:
            yield f"{name}: {now[name].shape} instead of {kept[name].shape}"
        elif not np.array_equal(kept[name], now[name], equal_nan=True):
            most = np.nanmax(np.abs(kept[name].astype(complex))) or 1.0
            change = float(np.nanmax(np.abs(kept[name].astype(complex) - now[name])) / most)
            if not change <= tolerance:
                yield f"{name}: differs by {change:.1e} of the maximum"


def main() -> int:
    """Run the command line; returns its exit status, 1 for differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["store", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--package", type=Path, default=REPOSITORY)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"))
    parser.add_argument("--tolerance", type=float, default=0.0)
    options = parser.parse_args()
    path = options.folder / "golden.npz"
    now = made(options.package.resolve(), Path(options.data) if options.data else None)
    if options.what == "store":
        options.folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, **now)
        print(f"golden: {len(now)} arrays in {path}")
        return 0
    with np.load(path) as file:
        found = list(differences(dict(file), now, options.tolerance))
    print("\n".join(found) if found else f"golden: all {len(now)} arrays are the same")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

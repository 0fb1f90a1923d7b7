"""`mrihvae demo`: real scans that come with the package, undersampled, reconstructed, scored, drawn and reported."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrihvae.cli import options, report
from mrihvae.cli.common import check_output
from mrihvae.cli.console import progress
from mrihvae.cli.reconstruct import FOLDERS, summarize
from mrihvae.cli.reconstruct_files import reconstruct_to_files
from mrihvae.cli.reconstruct_options import read_method, read_undersampling
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.comparison import draw_comparison
from mrihvae.evaluation.report.record import RECORDS
from mrihvae.evaluation.scores import score_volume
from mrihvae.io.fastmri import read_scan
from mrihvae.io.formats import list_files
from mrihvae.io.hdf5 import read_dataset
from mrihvae.model.shipped import weights_for
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.recon.catalog import load_method
from mrihvae.recon.methods import Method
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume
from mrihvae.utils.files import atomic_write
from mrihvae.utils.notices import collect_notices

SCANS = Path(__file__).parents[1] / "demo_scans"
TITLES = {  # of the scans, by file name
    "pulseq_brain16.h5": "3 T, 16 coils",
    "patient_6A_FLAIR.h5": "0.055 T, FLAIR",
    "patient_6B_FSE.h5": "0.055 T, FSE",
}
BASELINES = ("zero-filled", "tv")
LABELS = {"tv": "TV (sigpy)", "hybrid": "mrihvae (hybrid)"}
LAZY = ("sigpy.mri.app", "fastmri.evaluate")  # imported before anything is timed
RESULTS = "demo.json"  # scores of all methods
COMPARISON = "comparison"  # folder of pictures
NEXT = (
    ("mrihvae info FILE", "what is in it, and the command to reconstruct it"),
    ("mrihvae reconstruct FILE --output OUT", "images, and a picture of each"),
    ("mrihvae report OUT", "one HTML page of every slice"),
)
Rows = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Compared:
    """A scan that every method reconstructed.

    Attributes
    ----------
    file : its name
    title : its name in tables
    scores : method to "PSNR" (dB), "SSIM" and "seconds" per slice
    """

    file: str
    title: str
    scores: Rows = field(default_factory=dict)


def run(arguments: options.Demo) -> None:
    """Reconstruct the scans with every method; prints a table of each, writes pictures and a report."""
    output = arguments.output
    _check_earlier(output)
    check_output(output, *FOLDERS, COMPARISON)
    order = _order_of(arguments)
    undersampling = read_undersampling(order)
    scans = sorted((read_scan(file) for file in list_files(SCANS)), key=lambda scan: -scan.coils)
    masks = [mask_of(scan, undersampling) for scan in scans]
    checkpoints = [order.checkpoint or weights_for(scan.coils) for scan in scans]
    methods = {name: read_method(order, name) for name in dict.fromkeys(checkpoints)}
    for name in LAZY:
        importlib.import_module(name)
    compared, volumes = [], []
    for scan, mask, name in zip(scans, masks, checkpoints):
        one = Compared(scan.name, TITLES.get(scan.name, Path(scan.name).stem))
        print(table_head(one.title), flush=True)
        volumes.append(_compare(scan, mask, methods[name], order, one))
        compared.append(one)
        print(flush=True)
    settings = summarize(order, methods, undersampling)
    conditions = {"acceleration": arguments.acceleration, "threads": torch.get_num_threads()}
    found = {**conditions, "weights": settings["weights"], "scans": list(map(asdict, compared))}
    _write_json(output / RESULTS, found)
    _write_json(output / "reconstruct.json", {**settings, "volumes": volumes, "failed": []})
    print(f"{describe_conditions(**conditions)}\n\nPictures: {output / COMPARISON}")
    report.run(options.Report(folder=output, title="mrihvae demo"))
    print(f"\nNext, with your own scan:\n{_next_commands()}")


def table_head(title: str, timed: bool = True) -> str:
    """Return the first line of a scan's table, with or without seconds."""
    return f"{title:<20} {'PSNR / dB':>9} {'SSIM':>7}" + (f" {'s / slice':>10}" if timed else "")


def table_row(method: str, scores: Mapping[str, float]) -> str:
    """Return the line of a method in a scan's table; without "seconds" there is no column for them."""
    numbers = f"{scores['PSNR']:>9.2f} {scores['SSIM']:>7.4f}"
    seconds = f" {scores['seconds']:>10.2f}" if "seconds" in scores else ""
    return f"{LABELS.get(method, method):<20} {numbers}{seconds}"


def describe_conditions(acceleration: float, threads: int | None) -> str:
    """Return the line below the tables; without threads for tables without seconds."""
    counted = "" if threads is None else f"; {threads} CPU thread{'' if threads == 1 else 's'}"
    return f"Random masks, {acceleration:g}x{counted}."


def _compare(
    scan: Scan, mask: np.ndarray, hybrid: Method, order: options.Reconstruct, compared: Compared
) -> dict[str, Any]:
    """Reconstruct a scan with the baselines, and as `mrihvae reconstruct` does; prints a line per method.

    Returns
    -------
    the row of the volume, for reconstruct.json
    """
    target, images = scan.target, dict[str, np.ndarray]()
    assert target is not None

    def show(name: str, volume: np.ndarray, seconds: float) -> None:
        images[name], scores = volume, score_volume(target, volume)
        compared.scores[name] = {"PSNR": scores["PSNR"], "SSIM": scores["SSIM"], "seconds": seconds}
        print(table_row(name, compared.scores[name]), flush=True)

    for name in BASELINES:
        method, began = load_method(name), time.perf_counter()
        with collect_notices(), _progress(compared.title, name, len(target)) as advance:  # the hybrid's row has them
            volume = reconstruct_volume(scan, mask, method, progress=advance)
        show(name, volume, (time.perf_counter() - began) / len(volume))
    output = order.output
    row = reconstruct_to_files(scan, SCANS / scan.name, output, hybrid, read_undersampling(order), order.batch_size)
    volume = read_dataset(output / "reconstructions" / scan.name, "reconstruction")
    show(hybrid.name, volume, row["seconds_per_slice"])
    _draw(output / COMPARISON / f"{Path(scan.name).stem}.png", scan, mask, images, compared)
    return row


def _draw(path: Path, scan: Scan, mask: np.ndarray, images: Mapping[str, np.ndarray], compared: Compared) -> None:
    """Draw the middle slice by every method."""
    assert scan.target is not None
    slices = len(scan.target)
    which = f", slice {slices // 2 + 1} of {slices}; scores of all slices" if slices > 1 else ""
    title = f"{compared.title}: {scan.name}, effective acceleration {effective_acceleration(mask):.2f}{which}"
    labeled = {LABELS.get(name, name): volume for name, volume in images.items()}
    scores = {LABELS.get(name, name): values for name, values in compared.scores.items()}
    draw_comparison(path, title, labeled, scan.target, scores, mask)


def _order_of(arguments: options.Demo) -> options.Reconstruct:
    """Return the call of `mrihvae reconstruct` that gives the same reconstructions."""
    return options.Reconstruct(
        input=SCANS, output=arguments.output, checkpoint=arguments.checkpoint, mask_type="random",
        acceleration=arguments.acceleration,
    )  # fmt: skip


def _check_earlier(output: Path) -> None:
    """Raise InputError if the folder has results of another command, which would be replaced."""
    for name in RECORDS:
        if (output / name).exists() and not (output / RESULTS).exists():
            raise InputError(f"{output}: has results of another command ({name}); choose another --output")


@contextmanager
def _progress(title: str, name: str, slices: int) -> Iterator[Callable[[int], None]]:
    """Show the scan and the method that are at work."""
    with progress(title=f"{title}: {LABELS.get(name, name)}", unit="slice", total=slices) as bar:
        yield lambda count: bar.update(count) and None


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def _next_commands() -> str:
    """List what to type next, in two columns."""
    width = max(len(command) for command, _ in NEXT)
    return "\n".join(f"  {command:<{width}}   {what}" for command, what in NEXT)

"""`mrihvae report`: what `mrihvae run` or `mrihvae reconstruct` wrote, as one HTML file."""

from __future__ import annotations

import shlex
from datetime import datetime

from mrihvae import __version__
from mrihvae.cli import options
from mrihvae.cli.console import progress
from mrihvae.errors import InputError
from mrihvae.evaluation.report.data import Report
from mrihvae.evaluation.report.page import render
from mrihvae.evaluation.report.record import quantity, read_record
from mrihvae.evaluation.report.volumes import ScanFinder, collect_volume, mean_rows
from mrihvae.utils.files import atomic_write


def run(arguments: options.Report) -> None:
    """Write the report; prints progress on standard error and a line on standard output."""
    if arguments.slices is not None and arguments.slices < 1:
        raise InputError(f"--slices {arguments.slices}: must be at least 1")
    record = read_record(arguments.folder)
    scans = ScanFinder(record, arguments.data)
    for path in map(record.reconstruction, record.rows):  # before anything is computed
        if not path.is_file():
            raise InputError(f"{path}: file not found, but {record.path} lists it; reconstruct it with --resume")
    rows = progress(record.rows, "report")
    volumes = [collect_volume(record, row, scans, arguments.slices) for row in rows]
    now = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}"
    report = Report(
        title=str(arguments.title or record.values.get("protocol") or f"Reconstructions, {record.method}"),
        about=record.describe(sum(volume.slices for volume in volumes)),
        volumes=volumes,
        means=mean_rows(record, volumes),
        settings={
            "this report": {"date": now, "command": _command(arguments), "mrihvae": __version__},
            **record.values,
        },
        record_name=record.path.name,
        record_text=record.text,
        method=record.method,
        failed=record.failed(),
    )
    text = render(report)
    output = arguments.output or arguments.folder / "report.html"
    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="\n")  # names need not be UTF-8
    pictures = sum(len(panel.pictures) for volume in volumes for panel in volume.pictures.panels)
    size = f"{len(text) / 1e6:.1f} MB"
    print(
        f"{output}: {quantity(len(volumes), 'volume')}, {quantity(pictures, 'picture')}, {size}; open it in a browser"
    )


def _command(arguments: options.Report) -> str:
    """Return the command that makes the report again."""
    words = ["mrihvae", "report", str(arguments.folder)]
    for name in ("data", "output", "title", "slices"):
        if getattr(arguments, name) is not None:
            words += [f"--{name}", str(getattr(arguments, name))]
    return shlex.join(words)

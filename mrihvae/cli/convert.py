"""`mrihvae convert`: k-space or images in one format to another, with the geometry of the scan."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mrihvae.errors import InputError


def run(arguments: argparse.Namespace) -> None:
    """Convert; prints the names of the files written, one for each contrast and repetition."""
    from mrihvae.data.volume import DATASETS, Volume
    from mrihvae.io.kspace import open_kspace
    from mrihvae.io.mrd.image_files import mrd_image_groups, read_mrd_images
    from mrihvae.io.write_images import WRITERS, has_images, read_volume
    from mrihvae.recon.convert import KSPACE_WRITERS, images_of, left_out

    source, output = arguments.input, arguments.output
    suffix = _suffix(output, tuple(WRITERS))
    if _same(source, output):
        raise InputError(f"{output}: is the input, too; choose another name")

    def chosen(volume: Volume) -> Volume:
        if arguments.slice is None:
            return volume
        if not 0 <= arguments.slice < len(volume.pixels):
            raise InputError(f"--slice {arguments.slice}: must be 0 to {len(volume.pixels) - 1}")
        return volume.one(arguments.slice)

    series = mrd_image_groups(source)
    if has_images(source) or (arguments.dataset is not None and not series):
        WRITERS[suffix](output, chosen(read_volume(source, arguments.dataset or DATASETS[0])))
        print(output)
        return
    if series:
        WRITERS[suffix](output, chosen(read_mrd_images(source, arguments.dataset)))
        print(output)
        return
    scans = open_kspace(source)
    for scan in scans:
        special = Path(scan.name).stem.removeprefix(source.name.split(".")[0]) if len(scans) > 1 else ""
        path = output.with_name(f"{output.name.removesuffix(suffix)}{special}{suffix}")
        if suffix in KSPACE_WRITERS and not arguments.images:
            KSPACE_WRITERS[suffix](path, scan)
            if lost := left_out(scan, suffix):
                print(f"{path}: {suffix} has no place for {', '.join(lost)}", file=sys.stderr)
        else:
            WRITERS[suffix](path, chosen(images_of(scan)))
        print(path)


def _suffix(path: Path, known: tuple[str, ...]) -> str:
    """Find the format that a name asks for."""
    found = [suffix for suffix in known if path.name.lower().endswith(suffix)]
    if not found:
        raise InputError(f"{path}: no format is known by this suffix; choose one of {', '.join(known)}")
    return max(found, key=len)


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.exists() and one.samefile(other)

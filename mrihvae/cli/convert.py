"""`mrihvae convert`: k-space or images in one format to another, with the geometry of the scan."""

from __future__ import annotations

import sys
from pathlib import Path

from mrihvae.cli import options
from mrihvae.errors import InputError


def run(arguments: options.Convert) -> None:
    """Convert; prints the names of the files written, one for each contrast and repetition."""
    from mrihvae.data.volume import DATASETS, ImageVolume
    from mrihvae.io.kspace import open_kspace
    from mrihvae.io.mrd.image_files import mrd_image_groups, read_mrd_images
    from mrihvae.io.write_images import has_images, read_volume
    from mrihvae.recon.convert import KSPACE_WRITERS, images_of, save, suffix_of

    source, output = arguments.input, arguments.output
    suffix = suffix_of(output)
    if _same(source, output):
        raise InputError(f"{output}: is the input, too; choose another name")

    def choose_slices(volume: ImageVolume) -> ImageVolume:
        if arguments.slice is None:
            return volume
        if not 0 <= arguments.slice < len(volume.pixels):
            raise InputError(f"--slice {arguments.slice}: must be 0 to {len(volume.pixels) - 1}")
        return volume.single_slice(arguments.slice)

    series = mrd_image_groups(source)
    if has_images(source) or (arguments.dataset is not None and not series):
        save(output, choose_slices(read_volume(source, arguments.dataset or DATASETS[0])))
        print(output)
        return
    if series:
        save(output, choose_slices(read_mrd_images(source, arguments.dataset)))
        print(output)
        return
    scans = open_kspace(source)
    for scan in scans:
        special = Path(scan.name).stem.removeprefix(source.name.split(".")[0]) if len(scans) > 1 else ""
        path = output.with_name(f"{output.name.removesuffix(suffix)}{special}{suffix}")
        as_images = arguments.images or suffix not in KSPACE_WRITERS
        if lost := save(path, choose_slices(images_of(scan)) if as_images else scan):
            print(f"{path}: {suffix} has no place for {', '.join(lost)}", file=sys.stderr)
        print(path)


def _same(first: Path, second: Path) -> bool:
    return second.exists() and first.exists() and first.samefile(second)

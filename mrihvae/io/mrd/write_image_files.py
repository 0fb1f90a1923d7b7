"""Images of a server in HDF5, as usual clients store them: a group for each series, images in the order they came."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import ismrmrd
import numpy as np

from mrihvae.io.hdf5 import new_file
from mrihvae.io.mrd.messages import ReceivedImage

GROUP = "dataset"
TEXT = h5py.string_dtype()
COMPLEX = {  # ISMRMRD's names of the parts, by type
    np.dtype("<c8"): np.dtype([("real", "<f4"), ("imag", "<f4")]),
    np.dtype("<c16"): np.dtype([("real", "<f8"), ("imag", "<f8")]),
}


def write_received_images(path: Path | str, images: Sequence[ReceivedImage], xml: str = "") -> dict[str, int]:
    """Write images, and the header of their scan, to group `dataset` of a file; return the number of each series.

    Series are `image_1`, `image_2`, ... by the number that images have; those of a series whose size or type of pixels
    is another one go to `image_1_2` and so on.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    path = Path(path)
    series = _by_series(images)
    with new_file(path, sum(image.data.nbytes + len(image.attributes) for image in images)) as file:
        group = file.create_group(GROUP)
        if xml:
            group.create_dataset("xml", data=np.array([xml.encode()], dtype=object), dtype=h5py.string_dtype())
        for name, alike in series.items():
            data = np.stack([image.data for image in alike])
            heads = np.concatenate([np.frombuffer(bytes(image.head), np.dtype(ismrmrd.ImageHeader)) for image in alike])
            stored = group.create_group(name)
            stored["data"] = data.view(COMPLEX[data.dtype]) if data.dtype in COMPLEX else data
            stored["header"] = heads
            texts = np.array([image.attributes.decode(errors="replace") for image in alike], dtype=object)
            stored.create_dataset("attributes", data=texts, dtype=TEXT)
    return {name: len(alike) for name, alike in series.items()}


def _by_series(images: Sequence[ReceivedImage]) -> dict[str, list[ReceivedImage]]:
    """Sort images into series of one size and type, in the order of their numbers."""
    series: dict[str, list[ReceivedImage]] = {}
    for image in sorted(images, key=lambda image: image.head.image_series_index):
        name = usual = f"image_{image.head.image_series_index}"
        number = 1
        while name in series and not _is_alike(series[name][0], image):
            number += 1
            name = f"{usual}_{number}"
        series.setdefault(name, []).append(image)
    return series


def _is_alike(image: ReceivedImage, other: ReceivedImage) -> bool:
    return image.data.shape == other.data.shape and image.data.dtype == other.data.dtype

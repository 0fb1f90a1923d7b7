"""The conventions of the field's reference client and server, python-ismrmrd-server, as they were found by running it.

Its client names a configuration, in 1024 bytes, or sends the text of a file; then header, the JSON of a file or of the
group's `configAdditional`, lines or images in stored order, and the close message. Texts have a zero at their end. It
stores images by series in the order in which they came, `image_<series>` of a group that is named by a date if not by
the user.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.support.mrd import messages as mrd

DEFAULT_CONFIG = "invertcontrast"
# what the JSON beside that configuration holds; its values are text
ADDITIONAL = {"version": "1.1.0", "parameters": {"options": "", "sendOriginal": "False"}}


def reference_stream(
    xml: str,
    items: Iterable[mrd.Line | mrd.Image],
    config: str = DEFAULT_CONFIG,
    config_text: str | None = None,
    additional: Mapping[str, Any] | None = None,
    closing: bool = True,
) -> bytes:
    """Write all that the reference client sends: lines or images `items`, parameters as JSON text if `additional`."""
    first = mrd.config_file(config) if config_text is None else mrd.config_text(config_text, nul=True)
    text = b"" if additional is None else mrd.text(json.dumps(additional, indent=2), nul=True)
    sent = (mrd.acquisition(item) if isinstance(item, mrd.Line) else mrd.image(item) for item in items)
    return b"".join([first, mrd.header(xml, nul=True), text, *sent, mrd.close() * closing])


def store_images(path: Path, images: Sequence[mrd.Image], xml: str, group: str = "2026-01-01 12:00:00.000000") -> None:
    """Store images as the reference client does."""
    series: dict[int, list[mrd.Image]] = {}
    for image in images:
        series.setdefault(image.image_series_index, []).append(image)
    with h5py.File(path, "w") as file:
        for number, alike in series.items():
            stored = file.create_group(f"{group}/image_{number}")
            heads = b"".join(image.pack()[: mrd.IMAGE_SIZE] for image in alike)
            stored["header"] = np.frombuffer(heads, mrd.IMAGE_FIELDS)
            stored["data"] = np.stack([image.data for image in alike])
            stored.create_dataset("attributes", data=[image.attributes for image in alike], dtype=h5py.string_dtype())
        file.create_dataset(f"{group}/xml", data=[xml.encode()], dtype=h5py.string_dtype())

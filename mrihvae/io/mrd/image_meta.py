"""Meta attributes of stored MRD images: what they are, and how their pixels become values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import h5py
import numpy as np

from mrihvae.errors import InputError
from mrihvae.io.mrd.strict_xml import parse_xml
from mrihvae.utils.notices import warn

Meta = Mapping[str, list[str]]


def read_metas(group: h5py.Group, rows: Sequence[int]) -> list[Meta]:
    """Read the meta attributes of some images of a group; empty ones, with a warning, where they are not readable."""
    dataset = group.get("attributes")
    texts = np.ravel(dataset[()]) if isinstance(dataset, h5py.Dataset) else np.array([])
    if len(texts) != len(group["data"]):
        return [{}] * len(rows)
    chosen = [texts[row] for row in rows]
    return [_parse(text.decode(errors="replace") if isinstance(text, bytes) else str(text)) for text in chosen]


def _parse(text: str) -> Meta:
    """Parse an `ismrmrdMeta`."""
    text = text.strip("\0 \r\n\t")
    if not text:
        return {}
    try:
        root = parse_xml(text)
    except ValueError as error:
        warn(f"the meta attributes of images are not XML ({error}); their pixels are not rescaled")
        return {}
    return {
        (meta.findtext("name") or "").strip(): [(value.text or "").strip() for value in meta.findall("value")]
        for meta in root.iter("meta")
    }


def rescaling(meta: Meta) -> tuple[float, float]:
    """Return slope and intercept of an image: value = pixel * slope + intercept.

    They are `RescaleSlope` and `RescaleIntercept` where it has either, else 1 / `PixelFactor` and 0.

    Raises
    ------
    InputError
        Not finite numbers, or a slope or factor of 0.
    """
    if "RescaleSlope" in meta or "RescaleIntercept" in meta:
        return _number(meta, "RescaleSlope", 1.0), _number(meta, "RescaleIntercept", 0.0)
    return 1 / _number(meta, "PixelFactor", 1.0), 0.0


def _number(meta: Meta, name: str, default: float) -> float:
    """Return the first value of an attribute; 0 is refused where `default` is not 0."""
    if not meta.get(name):
        return default
    text = meta[name][0]
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number) or (number == 0 and default != 0):
        raise InputError(f"{name} of an image is '{text}', which is not a valid scale; correct it or leave it out")
    return number

"""Images that a client sends: denoised, with their headers and attributes."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import ismrmrd
import numpy as np
import torch

from mrihvae import __version__
from mrihvae.errors import InputError
from mrihvae.io.mrd.messages import ReceivedImage, StreamError
from mrihvae.io.mrd.strict_xml import parse_xml
from mrihvae.model.hvae import HVAE
from mrihvae.model.weights import load_on
from mrihvae.recon.restoration import Degradation, RestorationJob, check_size, restore_volume
from mrihvae.utils.memory import is_out_of_memory
from mrihvae.utils.notices import warn

WEIGHTS = "restoration"
DENOISED = "denoised"
NAME = Path("image")  # of images that have no file
TYPES = (0, ismrmrd.IMTYPE_MAGNITUDE)  # of images that can be denoised; 0 where a client gave none
LARGEST = 2**22  # pixels of a slice: more, as in a damaged header, would take all memory


@lru_cache(maxsize=1)
def load_denoiser(device: str) -> HVAE:
    """Load the weights of image restoration, once in a process."""
    return load_on(WEIGHTS, device)


def denoise(image: ReceivedImage, device: str) -> ReceivedImage:
    """Return an image denoised by PnP-HVAE, with the same pixel type, header and attributes; its noise is estimated.

    Images that cannot be denoised, as phases and complex ones, are returned unchanged, with a warning.

    Raises
    ------
    InputError
        Too little memory, or attributes that are not those of MRD.
    """
    attributes = _attributes(image)
    reason = _obstacle(image)
    if reason:
        warn(f"an image of series {image.head.image_series_index} is {reason}: it was sent back unchanged")
        return image
    job = RestorationJob(load_denoiser(device), Degradation("denoise"), None, {}, 1)
    values = np.array(image.data.reshape(-1, *image.data.shape[2:]), np.float32)  # what was received is read-only
    try:
        check_size(NAME, (values.shape[1], values.shape[2]), job)
        with torch.no_grad():
            found = restore_volume(NAME, values, np.ones(values.shape, bool), job, lambda done: None)
    except InputError as error:
        warn(f"{error}; it was sent back unchanged")
        return image
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise StreamError(f"stream: too little memory for an image of {values.shape[1]} x {values.shape[2]}") from error
    for text in found.warnings:
        warn(text)
    if not np.isfinite(found.restored).all():
        warn("an image could not be denoised, because the result is not finite: it was sent back unchanged")
        return image
    restored = found.restored.reshape(image.data.shape)
    if image.data.dtype.kind in "iu":
        limits = np.iinfo(image.data.dtype)
        restored = np.clip(np.rint(restored.astype(np.float64)), limits.min, limits.max)
    return replace(image, attributes=attributes, data=restored.astype(image.data.dtype))


def _obstacle(image: ReceivedImage) -> str:
    """Say why an image cannot be denoised; nothing if it can be."""
    if image.data.dtype.kind == "c" or image.head.image_type not in TYPES:
        return "not a magnitude image"
    if image.data.shape[2] * image.data.shape[3] > LARGEST:
        return f"larger than {LARGEST} pixels"
    return "" if np.isfinite(image.data).all() else "not finite"


def _attributes(image: ReceivedImage) -> bytes:
    """Return the attributes of an image, and what was done to it."""
    try:
        xml = image.attributes.decode()
        if xml:  # it may be empty
            parse_xml(xml)
        meta = ismrmrd.Meta.deserialize(xml)
    except (SyntaxError, ValueError, AssertionError) as error:  # ElementTree's error is the first
        raise StreamError(
            "stream: attributes of an image are not those of MRD; check the program that wrote them"
        ) from error
    meta = ismrmrd.Meta({name: _listed(value) or "" for name, value in meta.items() if name})
    for name, text in (
        ("ImageProcessingHistory", ["MRIHVAE", DENOISED]),
        ("ImageComments", [f"mrihvae {__version__}, {DENOISED}"]),
    ):
        meta[name] = _listed(meta.get(name)) + text
    meta["SeriesDescription"] = " ".join([*_listed(meta.get("SeriesDescription")), f"mrihvae {DENOISED}"])
    return str(meta.serialize()).encode()


def _listed(value: object) -> list[str]:
    """Return the values of an attribute."""
    values = value if isinstance(value, list) else [value]
    return [str(each) for each in values if each is not None]

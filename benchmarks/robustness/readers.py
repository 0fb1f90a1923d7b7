"""Every format that is read: its good files, and what its public reader is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.robustness import seeds
from benchmarks.robustness.seeds import Files
from mrihvae.cli.common import finished_before
from mrihvae.cli.train import _read_settings
from mrihvae.datasets.collections import read_collection
from mrihvae.datasets.mixture import read_packed
from mrihvae.errors import InputError
from mrihvae.evaluation.report.record import read_record
from mrihvae.io.images import read_images, read_kernel, read_mask
from mrihvae.io.kspace import open_brief, open_kspace
from mrihvae.io.magnitudes import usable_slices
from mrihvae.io.mrd.messages import read_messages
from mrihvae.io.mrd.noise_files import read_noise_lines
from mrihvae.io.mrd.stored_messages import list_groups, read_messages_of
from mrihvae.io.mrd.v2 import StreamV2
from mrihvae.io.volumes import read_volumes
from mrihvae.model.settings import ModelSettings
from mrihvae.model.weights import load_model
from mrihvae.protocols.evaluation import read_protocol
from mrihvae.protocols.training import read_training_protocol
from mrihvae.recon.catalog import make_method
from mrihvae.server.engine import Engine
from mrihvae.server.request import Request
from mrihvae.server.session import reconstruct_stream
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.run import TrainSettings, load_checkpoint
from mrihvae.utils.config import from_dict

Reader = Callable[[Path], int]  # returns the bytes of what was decoded

ZERO_FILLED = "zero-filled"


@dataclass(frozen=True)
class Format:
    """A format that is read.

    Attributes
    ----------
    name : of the format
    build : makes good files
    readers : they take turns with the damaged files
    share : how many of all cases are of it, relative to the others
    """

    name: str
    build: Callable[[Path], list[Files]]
    readers: Sequence[Reader]
    share: int = 4


class Answers:
    """Takes what is sent back."""

    def __init__(self) -> None:
        self.size = 0

    def image(self, image: Any) -> None:
        """Count the bytes of an image."""
        self.size += image.data.nbytes

    def text(self, text: str) -> None:
        """Check that a text can be sent."""
        text.encode()


def _kspace(path: Path) -> int:
    scans = open_kspace(path)
    return sum(_size(scan) + scan.kspace.nbytes for scan in scans)


def _lazy(path: Path) -> int:
    """Read slice by slice, as commands do."""
    size = 0
    for scan in open_kspace(path, lazy=True):
        size += _size(scan)
        for k in range(len(scan.kspace)):
            size += np.asarray(scan.single_slice(k).kspace[0]).nbytes
    return size


def _brief(path: Path) -> int:
    return sum(scan.kspace.shape[-1] for scan in open_brief(path))


def _size(scan: Any) -> int:
    """Return the bytes of arrays that a scan has beside k-space."""
    values = (getattr(scan, field.name) for field in dataclasses.fields(scan) if field.name != "kspace")
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


def _volumes(path: Path) -> int:
    found = [one.images for one in read_volumes(path)]
    beside = [one.uncertainty for one in found] + [one.samples for one in found]
    return sum(one.pixels.nbytes for one in found) + sum(array.nbytes for array in beside if array is not None)


def _images(path: Path) -> int:
    return read_images(path).values.nbytes


def _magnitudes(path: Path) -> int:
    return sum(one.nbytes for one in usable_slices(path).values())


def _of_folder(reader: Reader) -> Reader:
    """Read the folder in place of the file, as of DICOM."""
    return lambda path: reader(path.parent)


def _engine() -> Engine:
    return Engine({kind: make_method(ZERO_FILLED) for kind in (1, 2)})


def _stream(path: Path) -> int:
    answers = Answers()
    with path.open("rb") as file:
        reconstruct_stream(read_messages(file.read), _engine(), answers)
    return answers.size


def _stream_v2(path: Path) -> int:
    answers = Answers()
    with path.open("rb") as file:
        stream = StreamV2(file.read, len)
        reconstruct_stream(stream.messages(), _engine(), answers)
    return answers.size


def _noise(path: Path) -> int:
    return sum(line.data.nbytes for line in read_noise_lines(path))


def _stored_messages(path: Path) -> int:
    return sum(len(one) for group in list_groups(path) for one in read_messages_of(path, group).messages)


def _weights(path: Path) -> int:
    return _held(load_model(str(path)))


def _checkpoint(path: Path) -> int:
    return 3 * _held(load_checkpoint(path.parent, "cpu").model)


def _held(model: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def _protocol(path: Path) -> int:
    protocol = read_protocol(path)
    return len(str(protocol.coil_settings() if hasattr(protocol, "coil_settings") else protocol))


def _training_protocol(path: Path) -> int:
    settings = read_training_protocol(path).settings
    return _sections(settings, str(path))


def _settings(path: Path) -> int:
    return _sections(_read_settings(path), str(path))


def _sections(settings: Any, where: str) -> int:
    kinds = {"model": ModelSettings, "training": TrainSettings, "simulation": SimulationSettings}
    return sum(len(str(from_dict(kind, settings.get(name, {}), where))) for name, kind in kinds.items())


def _record(path: Path) -> int:
    record = read_record(path.parent)
    return len(str(record.method) + str(record.undersampling) + str(record.rows))


def _finished(path: Path) -> int:
    return len(finished_before(path, {"method": ZERO_FILLED}, ("method",), "volumes"))


def _request(path: Path) -> int:
    return len(str(Request().from_text(path.read_text(errors="replace"))))


def _mask(path: Path) -> int:
    return read_mask(path).nbytes


def _kernel(path: Path) -> int:
    return read_kernel(path).nbytes


def _collection(path: Path) -> int:
    return read_collection(path).nbytes


def _packed(path: Path) -> int:
    return sum(sum(array.nbytes for array in one.arrays) for one in read_packed(path))


_GRAY = (_images, _magnitudes, _mask)
FORMATS = {
    one.name: one
    for one in (
        Format("fastmri", seeds.fastmri, (_lazy, _kspace, _brief), 10),
        Format("images_hdf5", seeds.reconstructions, (_volumes,)),
        Format("mrd", seeds.mrd_scans, (_kspace, _kspace, _stored_messages, _noise), 6),
        Format("mrd_images", seeds.mrd_images, (_volumes, _stored_messages)),
        Format("stream", seeds.streams, (_stream, _stream, _noise), 8),
        Format("stream_v2", seeds.streams_v2, (_stream_v2, _noise), 4),
        Format("twix", seeds.siemens, (_kspace,), 6),
        Format("bart", seeds.bart, (_kspace, _volumes)),
        Format("numpy", seeds.numpy_arrays, (_kspace, _volumes)),
        Format("matlab", seeds.matlab, (_kspace, _lazy)),
        Format("matlab_hdf5", seeds.matlab_hdf5, (_kspace, _lazy)),
        Format("dicom", seeds.dicom, (_of_folder(_volumes), _images, _of_folder(_magnitudes)), 6),
        Format("nifti", seeds.nifti, (_volumes, *_GRAY), 6),
        Format("nifti_gzip", seeds.nifti_gzip, (_volumes, *_GRAY), 4),
        Format("png", seeds.png, _GRAY),
        Format("jpeg", seeds.jpeg, _GRAY),
        Format("tiff", seeds.tiff, _GRAY),
        Format("kernel", seeds.kernels, (_kernel,), 2),
        Format("cifar", seeds.cifar, (_collection,), 1),
        Format("idx", seeds.idx, (_collection,), 2),
        Format("packed", seeds.packed, (_packed,), 2),
        Format("weights", seeds.weights, (_weights,), 3),
        Format("checkpoint", seeds.checkpoints, (_checkpoint,), 3),
        Format("protocol", seeds.protocols, (_protocol, _training_protocol)),
        Format("settings", seeds.training_settings, (_settings,)),
        Format("record", seeds.records, (_record, _finished)),
        Format("request", seeds.requests, (_request,), 3),
    )
}


def read(form: Format, path: Path, number: int) -> int | None:
    """Read a damaged file by one of the readers of its format.

    Returns
    -------
    bytes of what was decoded; None if the file was refused, in one line
    """
    try:
        return form.readers[number % len(form.readers)](path)
    except InputError as error:
        if "\n" in str(error).rstrip("\n"):
            raise RuntimeError("a refusal of several lines") from error
        return None

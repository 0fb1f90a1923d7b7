"""Which volumes are among stored MRD images, by their headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np

from mrihvae.data.volume import UNCERTAINTY
from mrihvae.errors import InputError
from mrihvae.io.mrd.image_meta import Meta, read_metas
from mrihvae.io.mrd.image_place import alike, numbers_of

NUMBERS = ("repetition", "contrast", "phase", "set")  # in the order in which volumes are sorted
KINDS = {2: "phase", 3: "real", 4: "imaginary"}  # image types of headers; magnitude and complex show in the pixels


@dataclass(frozen=True)
class StoredImages:
    """The images of one volume in a file, which are not read yet.

    Attributes
    ----------
    group : of the file, such as "dataset/image_1"
    series : its image_series_index
    numbers : of `NUMBERS`
    kind : magnitude, phase, real, imaginary or complex
    role : "uncertainty" of a map of standard deviations, else ""
    stack : counts volumes with slices of other directions or another field of view
    rows : of the images in the datasets of the group
    """

    group: str
    series: int
    numbers: tuple[int, ...]
    kind: str
    role: str
    stack: int
    rows: tuple[int, ...]

    def number(self, name: str) -> int:
        """Return one of `NUMBERS`."""
        return self.numbers[NUMBERS.index(name)]

    def is_like(self, other: StoredImages) -> bool:
        """Return whether this volume shows what another one does, such as its phase or uncertainty."""
        mine, theirs = ((one.numbers, one.stack, len(one.rows)) for one in (self, other))
        return mine == theirs

    def labels(self) -> dict[str, str]:
        """Return what may tell this volume from others, in words for file names."""
        numbers = {name: f"{name}{self.number(name)}" for name in NUMBERS}
        return {
            "group": self.group.replace("/", "_"), "series": f"series{self.series}", **numbers,
            "kind": self.kind, "role": self.role, "stack": f"stack{self.stack}",
        }  # fmt: skip


def name_volumes(volumes: Sequence[StoredImages]) -> list[str]:
    """Return names of volumes, such as "image_1_contrast0", by what differs between them; "" of a single one."""
    labels = [one.labels() for one in volumes]
    last = [one.group.rpartition("/")[2] for one in volumes]
    if len(set(last)) == len({one.group for one in volumes}):
        labels = [{**each, "group": name} for each, name in zip(labels, last, strict=True)]
    differing = [key for key in (labels or [{}])[0] if len({each[key] for each in labels}) > 1]
    within = {(one.group, one.series) for one in volumes}
    if "series" in differing and len(within) == len({one.group for one in volumes}):
        differing.remove("series")  # says what the group says
    return ["_".join(text for key in differing if (text := each[key])) for each in labels]


def list_volumes(group: h5py.Group, name: str) -> list[StoredImages]:
    """List the volumes of a group, in the order of `NUMBERS`.

    Raises
    ------
    InputError
        Images of several channels or in color.
    ValueError
        Datasets that do not fit each other.
    """
    data, heads = group["data"], group["header"][()]
    has_complex = data.dtype.kind == "c" or data.dtype.names is not None
    if data.ndim != 5 or data.shape[1] != 1 or not (has_complex or data.dtype.kind in "iuf"):
        raise InputError(f"'{name}' is {data.dtype} of shape {data.shape}; give magnitudes of one channel")
    if len(heads) != len(data) or not len(heads) or heads.dtype.names is None:
        raise ValueError(f"{len(heads)} headers of {len(data)} images")
    types = numbers_of(heads, "image_type")
    kinds = ["complex" if has_complex else KINDS.get(int(each), "magnitude") for each in types]
    series = [int(number) for number in numbers_of(heads, "image_series_index")]
    roles = [_role(meta) for meta in read_metas(group, range(len(heads)))]
    numbers = zip(*([int(number) for number in numbers_of(heads, each)] for each in NUMBERS), strict=True)
    keys = list(zip(series, numbers, kinds, roles, strict=True))
    found = []
    for key in sorted(set(keys)):
        rows = np.array([k for k, each in enumerate(keys) if each == key])
        stack = 0
        while len(rows):
            same = alike(heads[rows])
            found.append(StoredImages(name, *key, stack, tuple(map(int, rows[same]))))
            rows, stack = rows[~same], stack + 1
    return found


def _role(meta: Meta) -> str:
    """Return "uncertainty" for images that say so, as those of `mrihvae serve` do."""
    words = {text.lower() for key in ("DataRole", "ImageProcessingHistory") for text in meta.get(key, ())}
    return UNCERTAINTY if UNCERTAINTY in words else ""

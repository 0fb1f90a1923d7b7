"""HDF5 files of others: nothing outside of the file is read, and nothing larger than the limit of memory.

HDF5 lets a file name others, whose bytes then look like its own: by external links, by external storage of a dataset,
and by virtual datasets. All of these are refused, and so are soft links to nothing. Soft links within the file are
followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mrihvae.errors import InputError
from mrihvae.io.contained import check_in_worker
from mrihvae.io.sequences import check_sequences
from mrihvae.utils.memory import SMALL, check_expansion, check_size, limit
from mrihvae.utils.text import printable

MAX_LINKS = 16  # soft links on the way to one object
MAX_OBJECTS = 20000  # of a group, and of a file of which all objects are visited
LISTED, LETTERS = 8, 60  # names in an error, and letters of each
LARGEST_ATTRIBUTE = 2**24  # bytes
FEW = 64  # texts of an attribute
SELF_CONTAINED = "store the data in the file itself"


class OutsideError(InputError):
    """A file that names data outside of it."""


class CheckedGroup(h5py.Group):  # type: ignore[misc]
    """A group, from which objects are taken with checks."""

    def __getitem__(self, name: Any) -> Any:
        """Return an object of the file.

        Raises
        ------
        KeyError
            No such object.
        OutsideError
            A link that leads out of the file or to nothing, or a dataset whose data are outside of the file.
        """
        return _find(self, _text(name), _Links())

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, as str where they are not UTF-8, too.

        Raises
        ------
        InputError
            More than `MAX_OBJECTS`.
        """
        _check_count(len(self))
        return map(_text, super().__iter__())

    def __contains__(self, name: Any) -> bool:
        """Return whether there is such an object; it raises what `__getitem__` does."""
        try:
            self[name]
        except KeyError:
            return False
        return True

    def get(self, name: Any, default: Any = None, **options: Any) -> Any:
        """Return an object, or `default` where there is none; without the options of h5py, which do not check."""
        if options:
            raise TypeError(f"checked groups have no {', '.join(options)}")
        try:
            return self[name]
        except KeyError:
            return default

    def visititems(self, func: Any) -> Any:
        """Call `func` with names and objects of this group and all below it, until it returns something."""
        visited = 0

        def visit(name: Any) -> Any:
            nonlocal visited
            visited += 1
            _check_count(visited)
            return func(_text(name), self[name])

        return self.visit(visit)

    @property
    def attrs(self) -> CheckedAttributes:
        """The attributes."""
        return CheckedAttributes(self)


class CheckedFile(CheckedGroup, h5py.File):  # type: ignore[misc]
    """A file to read, from which objects are taken with checks."""


class CheckedDataset(h5py.Dataset):  # type: ignore[misc]
    """A dataset within its file; what is read at once has the limit of `mrihvae.utils.memory.limit`."""

    _has_sane_sequences = False  # once they were looked at

    def __getitem__(self, args: Any, new_dtype: Any = None) -> Any:
        """Read a part.

        Raises
        ------
        InputError
            More than the limit, or than what is stored can hold, or compressed by an unknown filter.
        """
        item, what = self.dtype.itemsize, _name_of(self)
        check_size(what, _count(self.shape or (), args) * item)
        if self.chunks is not None:
            check_size(f"a chunk of {what}", math.prod(self.chunks) * item)
        total = math.prod(self.shape or ()) * item
        if total > SMALL:  # for others it may take long to add up what is stored
            check_expansion(what, total, self.id.get_storage_size())
        if self.dtype.hasobject and not self._has_sane_sequences:
            check_sequences(self, what)
            self._has_sane_sequences = True
        try:
            return super().__getitem__(args, new_dtype)
        except OSError as error:
            if missing := _missing_filters(self):
                hint = "export it again without, or with gzip"
                raise InputError(
                    f"{what} is compressed by a filter that is not installed, {missing}; {hint}"
                ) from error
            raise

    def __array__(self, dtype: Any = None, copy: bool | None = True) -> np.ndarray:
        """Read all of it."""
        return np.asarray(self[()], dtype)

    @property
    def attrs(self) -> CheckedAttributes:
        """The attributes."""
        return CheckedAttributes(self)


class CheckedAttributes(h5py.AttributeManager):  # type: ignore[misc]
    """Attributes of at most `LARGEST_ATTRIBUTE` bytes each."""

    def __getitem__(self, name: Any) -> Any:
        """Read an attribute.

        Raises
        ------
        KeyError
            No such attribute.
        InputError
            Larger than any text or table of numbers beside images.
        """
        stored = self.get_id(name)
        count = math.prod(stored.shape or ())
        texts = count * h5py.h5i.get_file_id(stored).get_filesize() if stored.dtype.hasobject and count > FEW else 0
        if count * stored.dtype.itemsize > LARGEST_ATTRIBUTE or texts > limit():  # each may be the same large text
            raise InputError(f"attribute '{printable(_text(name))}' claims {stored.shape} numbers; leave it out")
        return super().__getitem__(name)


def open_checked(path: Path) -> CheckedFile:
    """Open a file to read, after a worker process has read it (`mrihvae.io.contained.check_in_worker`).

    Errors are h5py's own, for callers that say what they make of them; `mrihvae.io.hdf5.open_hdf5` has those of users.

    Raises
    ------
    OSError
        Missing, or not HDF5.
    InputError
        The worker crashed, or did not end, at this file.
    """
    check_in_worker(path)
    return CheckedFile(path, "r")


def refuse_links(group: h5py.Group) -> None:
    """Raise OutsideError if something in a group is outside of its file; for errors about what it lacks."""
    for name in group:
        group.get(name)


def list_objects(group: h5py.Group) -> str:
    """Return the names in a group for an error: the first ones, shortened, and how many more there are."""
    names = [printable(name) for name in islice(group, LISTED)]
    shown = ", ".join(name if len(name) <= LETTERS else f"{name[:LETTERS]}..." for name in names)
    return f"{shown} and {len(group) - LISTED} more" if len(group) > LISTED else shown or "none"


def _check_count(count: int) -> None:
    """Raise InputError for more objects than a file of one scan has, for they take long to be looked at."""
    if count > MAX_OBJECTS:
        raise InputError(f"has more than {MAX_OBJECTS} objects; store the scan in a file of its own")


class _Links:
    """Soft links that were followed on the way to one object: few in all, for each may name others many times."""

    def __init__(self) -> None:
        self.followed = 0

    def follow(self, place: str) -> None:
        """Count one; raise KeyError beyond `MAX_LINKS`."""
        self.followed += 1
        if self.followed > MAX_LINKS:
            raise KeyError(place)


def _find(group: h5py.Group, name: str, links: _Links) -> Any:
    """Walk to an object, link by link."""
    item: Any = CheckedGroup(h5py.h5g.open(group.id, b"/")) if name.startswith("/") else group
    for part in (part for part in name.split("/") if part not in ("", ".")):
        if not isinstance(item, h5py.Group):
            raise KeyError(f"'{name}' is in no group")
        item = _take(item, part, links)
    return item


def _take(group: h5py.Group, name: str, links: _Links) -> Any:
    """Take what a link of a group leads to."""
    encoded, shown = name.encode(errors="surrogateescape"), printable(name)
    links_of = group.id.links
    if not links_of.exists(encoded):
        raise KeyError(f"no object '{name}'")
    kind = links_of.get_info(encoded).type
    if kind == h5py.h5l.TYPE_EXTERNAL:
        place = printable(_text(links_of.get_val(encoded)[0]))
        raise OutsideError(f"'{shown}' is a link to another file, {place}; {SELF_CONTAINED}")
    if kind == h5py.h5l.TYPE_SOFT:
        place = _text(links_of.get_val(encoded))
        try:
            links.follow(place)
            return _find(group, place, links)
        except KeyError as error:
            why = f"'{shown}' is a link to '{printable(place)}', which does not exist"
            raise OutsideError(f"{why}; {SELF_CONTAINED}") from error
    if kind != h5py.h5l.TYPE_HARD:
        raise OutsideError(f"'{shown}' is a link of an unknown kind; {SELF_CONTAINED}")
    item = h5py.Group.__getitem__(group, name)
    if isinstance(item, h5py.Dataset):
        if item.external is not None or item.is_virtual:
            raise OutsideError(f"'{shown}' has its data in other files; {SELF_CONTAINED}")
        return CheckedDataset(item.id, readonly=True)
    return CheckedGroup(item.id) if isinstance(item, h5py.Group) else item


def _name_of(dataset: h5py.Dataset) -> str:
    return f"'{printable(str(dataset.name or '').strip('/'))}'"


def _text(name: Any) -> str:
    """Return a name of HDF5 as text, in which bytes that are no UTF-8 stay."""
    return name.decode(errors="surrogateescape") if isinstance(name, bytes) else str(name)


def _count(shape: tuple[int, ...], args: Any) -> int:
    """Count the elements that an index takes, or more than these."""
    indices = [one for one in (args if isinstance(args, tuple) else (args,)) if not isinstance(one, str)]
    if Ellipsis in [one for one in indices if not isinstance(one, np.ndarray | list)]:
        place = next(k for k, one in enumerate(indices) if one is Ellipsis)
        indices[place : place + 1] = [slice(None)] * (len(shape) - len(indices) + 1)
    indices += [slice(None)] * (len(shape) - len(indices))
    return math.prod(_length(size, index) for size, index in zip(shape, indices))


def _length(size: int, index: Any) -> int:
    if isinstance(index, slice):
        return len(range(*index.indices(size)))
    return 1 if np.isscalar(index) else int(np.size(index))


def _missing_filters(dataset: h5py.Dataset) -> str:
    """Name the filters of a dataset that this HDF5 library lacks; empty if it has all."""
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(number) for number in range(plist.get_nfilters())]
    return ", ".join(
        printable(_text(name)) or f"number {code}" for code, _, _, name in filters if not h5py.h5z.filter_avail(code)
    )

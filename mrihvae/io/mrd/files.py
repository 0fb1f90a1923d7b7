"""ISMRMRD (MRD) files: lines of k-space in HDF5, as converters of scanner data write them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mrihvae.data.geometry import Geometry
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.checked_hdf5 import list_objects, open_checked
from mrihvae.io.checks import read_errors
from mrihvae.io.mrd.header import ScanHeader, parse_header
from mrihvae.io.mrd.image_files import mrd_image_groups
from mrihvae.io.mrd.noise import NoiseScans
from mrihvae.io.mrd.slices import Slice
from mrihvae.io.mrd.sorter import SliceAssembler
from mrihvae.utils.memory import check_size, limit
from mrihvae.utils.notices import warn

CHUNK_LINES = 256  # that are read at once
DIRECTION_TOLERANCE = 1e-3  # by which directions may differ that are to be the same
OVERLAP_TOLERANCE = 0.01  # of the thickness of slices: how far apart slabs must be at least, to be those of one volume


def read_mrd(path: Path | str, groups: Sequence[str] = ("dataset",)) -> list[Scan]:
    """Read the scans of a file: each contrast, repetition, phase and set of each measurement is one.

    Parameters
    ----------
    groups : one for each measurement, which hold header and lines, in the order in which these were made. Scans of
        several are named after their group. Noise of one counts for those that have none of their coils

    Raises
    ------
    InputError
        Truncated, not ISMRMRD, without lines, or lines that cannot be sorted (see
        `mrihvae.io.mrd.sorter.SliceAssembler`).
    """
    path = Path(path)
    with read_errors(path, "truncated or not an ISMRMRD file", "copy it again"), open_checked(path) as file:
        measurements = _read_measurements(file, path, groups)
        imaging = [one for one in measurements if one.slices]
        if not imaging:
            raise InputError("has no image lines; there is nothing to reconstruct")
        several, scans = len(imaging) > 1, []
        for one in imaging:
            name = f"{path.stem}_{one.group.replace('/', '_')}.h5" if several else path.name
            noise = _noise_of(one, measurements)
            scans += scans_of(one.slices, one.header, name, noise)
            for warning in one.assembler.warnings:
                warn(f"{name}: {warning}" if several else warning)
    if len(groups) > 1:
        warn(f"{path.name}: holds {len(groups)} measurements: {_describe(measurements, groups)}")
    return scans


@dataclass(frozen=True)
class _Measurement:
    """What a group of a file holds."""

    group: str
    header: ScanHeader
    assembler: SliceAssembler
    slices: list[Slice]


def _read_measurements(file: h5py.File, path: Path, groups: Sequence[str]) -> list[_Measurement]:
    """Read the measurements of a file; those that cannot be read are left out with a warning, if others can."""
    found: list[_Measurement] = []
    refusals: list[InputError] = []
    for group in groups:
        try:
            found.append(_read_measurement(file, path, group, found[-1].assembler.noise_scans if found else None))
        except InputError as error:
            refusals.append(InputError(f"group '{group}': {error}" if len(groups) > 1 else str(error)))
    if refusals and not any(one.slices for one in found):
        raise refusals[0]
    for refusal in refusals:
        warn(f"{path.name}: {refusal}; this measurement is left out")
    return found


def _read_measurement(file: h5py.File, path: Path, group: str, noise: NoiseScans | None) -> _Measurement:
    """Read and sort the lines of a group, with the noise of earlier ones."""
    datasets = file[group]
    if "data" not in datasets and (images := mrd_image_groups(path)):
        raise InputError(
            f"{path}: holds images ({', '.join(images)}), not k-space; 'mrihvae convert' writes them in other formats"
        )
    for name in ("xml", "data"):
        if not isinstance(datasets.get(name), h5py.Dataset):
            raise InputError(
                f"{path}: its group '{group}' has no '{name}' (it has {list_objects(datasets)}), "
                "which k-space needs; export the scan with header and lines"
            )
    text = np.ravel(datasets["xml"][()])[0]
    header = parse_header(text.decode() if isinstance(text, bytes) else str(text), str(path))
    assembler = SliceAssembler(header, early=False, max_held=sys.maxsize, noise=noise)
    lines = _lines(path, datasets["data"])
    slices = [slice_ for line in lines for slice_ in assembler.add(line)] + assembler.end()
    return _Measurement(group, header, assembler, slices)


def _noise_of(measurement: _Measurement, others: Sequence[_Measurement]) -> np.ndarray | None:
    """Find the noise of a measurement: its own, that of earlier ones, or that of later ones that hold noise alone."""
    noise = measurement.assembler.noise
    coils = len(measurement.slices[-1].kspace)
    if noise is not None and len(noise) == coils:
        return noise
    alone = [other.assembler.noise_scans.find(coils) for other in others if not other.slices]
    return next((each for each in alone if each is not None), None)


def _describe(measurements: Sequence[_Measurement], groups: Sequence[str]) -> str:
    """Say what each group holds."""
    found = dict.fromkeys(groups, "not readable")
    for one in measurements:
        sizes = {" x ".join(map(str, slice_.matrix)) for slice_ in one.slices}
        count = f"{len(one.slices)} slice{'s' if len(one.slices) != 1 else ''} of {', '.join(sorted(sizes))}"
        rest = "no line of an image" if one.assembler.noise is None else "noise alone"
        found[one.group] = count if one.slices else rest
    return "; ".join(f"{group} ({text})" for group, text in found.items())


def scans_of(slices: Sequence[Slice], header: ScanHeader, name: str, noise: np.ndarray | None) -> list[Scan]:
    """Combine slices to scans, in the order of their keys, or of their positions where these differ.

    Slices of other directions or with other lines are scans of their own, named after what differs, and so are slabs
    that overlap.

    Raises
    ------
    InputError
        No slice at all.
    """
    if not slices:
        raise InputError("has no image lines; there is nothing to reconstruct")
    ordered = sorted(slices, key=lambda slice_: slice_.key)
    stacks = []
    for _, group in groupby(ordered, key=lambda slice_: slice_.key[:-1]):
        rest = list(group)
        while rest:
            alike = [slice_ for slice_ in rest if _same_stack(slice_, rest[0])]
            stacks += [_by_place(stack) for stack in _split_slabs(alike)]
            rest = [slice_ for slice_ in rest if not any(slice_ is other for other in alike)]
            if any(_same_directions(slice_, alike[0]) for slice_ in rest):
                warn("slices of a volume have different lines: slices with the same lines form a scan")
    names = _names(stacks, Path(name).stem)
    return [_scan(stack, header, each, noise) for stack, each in zip(stacks, names, strict=True)]


def scan_of(slice_: Slice, header: ScanHeader, name: str, noise: np.ndarray | None) -> Scan:
    """Return a single slice as a scan."""
    return _scan([slice_], header, name, noise)


def _scan(stack: Sequence[Slice], header: ScanHeader, name: str, noise: np.ndarray | None) -> Scan:
    first = stack[0]
    kspace = np.stack([slice_.kspace for slice_ in stack])
    if min(kspace.shape[-2:]) < 2:
        height, width = kspace.shape[-2:]
        raise InputError(
            f"{name}: according to its header, a slice has {height} x {width} samples, but H and W must be at "
            "least 2; check "
            "matrixSize and fieldOfView_mm of encodedSpace and reconSpace"
        )
    if kspace.shape[1] == 1:
        kspace = kspace[:, 0]
    positions = np.concatenate([slice_.geometry.positions for slice_ in stack])
    geometry: Geometry | None = Geometry(
        positions,
        first.geometry.read, first.geometry.phase, first.geometry.normal, first.geometry.voxel,
    )  # fmt: skip
    if len(stack) > 1 and not np.ptp(positions, axis=0).any():
        geometry = None  # simulators do not tell where slices lie
    calibration = [slice_.calibration for slice_ in stack if slice_.calibration is not None]
    attributes: dict[str, Any] = {"acquisition": header.protocol or "unknown", **header.attributes()}
    names = ("contrast", "repetition", "phase", "set")
    attributes |= {each: value for each, value in zip(names, first.key[1:-1]) if value}
    if noise is not None and len(noise) != len(first.kspace):
        noise = None  # of the coils of another scan
    return Scan(
        name, kspace, first.mask, None, first.padding, first.matrix, attributes, None, noise, geometry,
        calibration if len(calibration) == len(stack) else None, first.geometry.voxel,
    )  # fmt: skip


def _same_stack(slice_: Slice, other: Slice) -> bool:
    """Return whether slices are of one volume: the same size, lines and directions."""
    return (
        slice_.mask.shape == other.mask.shape
        and bool((slice_.mask == other.mask).all())
        and _same_directions(slice_, other)
    )


def _same_directions(slice_: Slice, other: Slice) -> bool:
    """Return whether slices have the same size and directions."""
    mine, theirs = (np.stack((g.read, g.phase, g.normal)) for g in (slice_.geometry, other.geometry))
    same = slice_.kspace.shape == other.kspace.shape
    return same and float(np.abs(mine - theirs).max()) < DIRECTION_TOLERANCE


def _split_slabs(stack: list[Slice]) -> list[list[Slice]]:
    """Split slices by their slabs, if any of these overlap; sorted by place, their slices would mix."""
    slabs: dict[int | None, list[Slice]] = {}
    for slice_ in stack:
        slabs.setdefault(slice_.slab, []).append(slice_)
    spans = sorted((min(places), max(places)) for places in map(_places, slabs.values()))
    thickness = stack[0].geometry.voxel[2]
    if all(second[0] - first[1] > OVERLAP_TOLERANCE * thickness for first, second in pairwise(spans)):
        return [stack]
    warn(
        f"{len(slabs)} slabs overlap, or have no positions: each becomes a separate scan, because their "
        "slices would mix"
    )
    return list(slabs.values())


def _places(stack: Sequence[Slice]) -> np.ndarray:
    """Compute where slices lie along their normal, mm."""
    return np.array([slice_.geometry.positions[0] @ slice_.geometry.normal for slice_ in stack])


def _by_place(stack: list[Slice]) -> list[Slice]:
    """Order slices along their normal, unless their numbers do so already, in either direction."""
    along = _places(stack)
    steps = np.diff(along)
    if len(steps) == 0 or (steps >= 0).all() or (steps <= 0).all():
        return stack
    return [stack[k] for k in np.argsort(along, kind="stable")]


def _names(stacks: Sequence[Sequence[Slice]], stem: str) -> list[str]:
    """Name scans by what differs between them."""
    if len(stacks) == 1:
        return [f"{stem}.h5"]
    keys = [stack[0].key for stack in stacks]
    fields = [name for name in keys[0]._fields[:-1] if len({getattr(key, name) for key in keys}) > 1]
    labels = ["".join(f"_{name}{getattr(key, name)}" for name in fields) for key in keys]
    numbers = [_number_of(stack) for stack in stacks]
    return [f"{stem}{label}{number if labels.count(label) > 1 else ''}.h5" for label, number in zip(labels, numbers)]


def _number_of(stack: Sequence[Slice]) -> str:
    """Name a stack after its slab, or its first slice."""
    slabs = {slice_.slab for slice_ in stack}
    if len(slabs) == 1 and stack[0].slab is not None:
        return f"_slab{stack[0].slab}"
    return f"_slice{min(slice_.key.slice for slice_ in stack)}"


def _lines(path: Path, data: h5py.Dataset) -> Iterator[Any]:
    """Read the lines of a file."""
    import ismrmrd

    if len(data) == 0:
        raise InputError(f"{path}: has no lines; there is nothing to reconstruct")
    packed = np.dtype(ismrmrd.AcquisitionHeader)
    # each line may name the same bytes of the file, however many these are
    count, total = int(min(CHUNK_LINES, max(1, limit() // path.stat().st_size))), 0
    for start in range(0, len(data), count):
        rows = data[start : start + count]
        total += sum(numbers.nbytes for numbers in rows["data"])
        check_size("data of all lines", total)
        heads = np.zeros(len(rows), packed)
        copy_records(rows["head"], heads)
        for number, (head, numbers) in enumerate(zip(heads, rows["data"]), start):
            coils, samples = int(head["active_channels"]), int(head["number_of_samples"])
            if coils * samples * 2 != len(numbers):
                raise InputError(
                    f"{path}: line {number} holds {len(numbers)} numbers, its header says {coils * samples * 2}; "
                    "export it again"
                )
            values = np.asarray(numbers, np.float32).view(np.complex64).reshape(coils, samples)
            head["trajectory_dimensions"] = 0  # not used
            yield ismrmrd.Acquisition(ismrmrd.AcquisitionHeader.from_buffer_copy(head.tobytes()), values)


def copy_records(source: np.ndarray, target: np.ndarray) -> None:
    """Copy records field by field: files have padding between fields, and messages none."""
    for name in target.dtype.names or ():
        if target.dtype[name].names:
            copy_records(source[name], target[name])
        else:
            target[name] = source[name]

"""Slices of a scan, complete: from the lines of a slice or slab to k-space, mask and place in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import ismrmrd
import numpy as np

from mrihvae.data.calibration import Calibration
from mrihvae.data.geometry import Geometry, make_geometry
from mrihvae.errors import InputError
from mrihvae.io.mrd.header import Encoding
from mrihvae.io.mrd.lines import LineGroup, grid_lines, mask_of_lines, padding_of, partitions_of
from mrihvae.io.mrd.orientation import is_reversed, reverse_directions
from mrihvae.io.partitions import check_partitions


class Key(NamedTuple):
    """Indices that identify a slice."""

    encoding: int
    contrast: int
    repetition: int
    phase: int
    set: int
    slice: int


@dataclass(frozen=True)
class Slice:
    """One slice, complete.

    Attributes
    ----------
    key : see there; partitions of 3D scans count as slices
    kspace : complex64 (coils, H, W), readout along H
    mask : bool (W,) of measured lines, or (H, W) where readouts are partial
    padding : first and one past the last line that the scanner would encode, or None for all
    matrix : (h, w) of the image to deliver
    geometry : of this slice alone
    head : header of its first line
    calibration : lines to estimate maps from, or None for those in `kspace`
    slab : number of its slab; None of a 2D scan
    """

    key: Key
    kspace: np.ndarray
    mask: np.ndarray
    padding: tuple[int, int] | None
    matrix: tuple[int, int]
    geometry: Geometry
    head: ismrmrd.AcquisitionHeader
    calibration: Calibration | None
    slab: int | None = None


def cut_slices(key: Key, group: LineGroup, vendor: str) -> tuple[list[Slice], list[str]]:
    """Make the slices of a group of lines in their places, without calibration, and say what about them is doubtful.

    Raises
    ------
    InputError
        Partitions of a 3D scan that are missing, or a matrix that no lines can fill.
    """
    encoding, doubts = group.encoding, []
    partitions = encoding.encoded.matrix[2]
    kspaces, lines = grid_lines(group, partitions)
    if partitions > 1:
        doubts += check_partitions(lines, partitions_of(encoding))
    mask = mask_of_lines(encoding, np.asarray(lines.any(axis=1)), group.rows)
    h, w, depth = (encoding.imaged_size(axis) for axis in range(3))
    slices = []
    for k, z in enumerate(range(partitions)[encoding.imaged_slice(2)], key.slice * depth):
        geometry, doubt = _geometry(group.head, encoding, z, vendor)
        doubts += doubt
        slices.append(
            Slice(
                key._replace(slice=k), kspaces[z], mask, padding_of(encoding), (h, w), geometry, group.head, None,
                key.slice if partitions > 1 else None,
            )
        )  # fmt: skip
    return slices, doubts


def _geometry(head: ismrmrd.AcquisitionHeader, encoding: Encoding, z: int, vendor: str) -> tuple[Geometry, list[str]]:
    """Place a slice in the patient; where directions are wrong, as if it were axial, which is said."""
    doubts = []
    try:
        geometry = geometry_of_line(head, encoding, z)
    except InputError as error:
        doubts.append(f"{error}; the image is placed as an axial one")
        plain = ismrmrd.AcquisitionHeader()
        if np.isfinite(head.position[:]).all():
            plain.position[:] = head.position[:]
        head, geometry = plain, geometry_of_line(plain, encoding, z)
    return (reverse_directions(geometry, head.position[:]) if is_reversed(vendor) else geometry), doubts


def geometry_of_line(head: ismrmrd.AcquisitionHeader, encoding: Encoding, z: int) -> Geometry:
    """Compute where a slice, or partition z of a slab, lies in the patient."""
    x, y, thickness = encoding.voxel()
    geometry = make_geometry(
        np.array(head.position[:]), np.array(head.read_dir[:]), np.array(head.phase_dir[:]),
        np.array(head.slice_dir[:]), (x, y, thickness),
    )  # fmt: skip
    offset = (z - encoding.encoded.matrix[2] // 2) * thickness * geometry.normal
    return Geometry(geometry.positions + offset, geometry.read, geometry.phase, geometry.normal, geometry.voxel)

"""Where images lie in the patient: from the positions and directions of ISMRMRD headers to the affine of NIfTI.

ISMRMRD's coordinates are those of DICOM, millimeters to the patient's left, back (posterior) and head (superior); NIfTI
counts to the right and to the front. A position is that of a slice's center, which a centered Fourier transform puts at
index size // 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.errors import InputError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
ORTHOGONALITY_TOLERANCE = 1e-3  # by which the length of a direction may differ from 1, and directions from right angles
VOXEL_KEY = "voxel_mm"
GEOMETRY_KEYS = ("positions_mm", "read_dir", "phase_dir", "slice_dir", VOXEL_KEY)  # of files, in LPS
SPACING_TOLERANCE = 0.02  # of the distance of slices, by which their positions may differ from a straight, even row


@dataclass(frozen=True)
class Geometry:
    """Place of a stack of parallel slices.

    Attributes
    ----------
    positions : (slices, 3), center of each, mm, to the left, back and head
    read : (3,), direction in which H grows, the readout; of length 1
    phase : (3,), direction in which W grows
    normal : (3,), direction across slices
    voxel : size of a voxel along H, W and `normal`, mm
    """

    positions: np.ndarray
    read: np.ndarray
    phase: np.ndarray
    normal: np.ndarray
    voxel: tuple[float, float, float]

    def single_slice(self, k: int) -> Geometry:
        """Return slice k alone."""
        return replace(self, positions=self.positions[k : k + 1])

    def attributes(self) -> dict[str, np.ndarray]:
        """Return all of it as attributes of an HDF5 file, which `geometry_of` reads."""
        values = (self.positions, self.read, self.phase, self.normal, self.voxel)
        return dict(zip(GEOMETRY_KEYS, map(np.asarray, values), strict=True))

    def affine(self, shape: tuple[int, int]) -> np.ndarray:
        """Compute the NIfTI affine of an array (H, W, slices), slices in the order of `positions`.

        Parameters
        ----------
        shape : (H, W)

        Returns
        -------
        float64 (4, 4), from indices to mm to the right, front and head

        Raises
        ------
        InputError
            Slices that do not lie in a straight, even row, which NIfTI cannot describe.
        """
        across = self._step()
        columns = np.stack([self.read * self.voxel[0], self.phase * self.voxel[1], across], axis=1)
        center = np.array([shape[0] // 2, shape[1] // 2, 0])
        affine = np.eye(4)
        affine[:3, :3] = LPS_TO_RAS @ columns
        affine[:3, 3] = LPS_TO_RAS @ (self.positions[0] - columns @ center)
        return affine

    def _step(self) -> np.ndarray:
        """Compute the way from one slice to the next, (3,) mm."""
        count = len(self.positions)
        if count == 1:
            return self.normal * self.voxel[2]
        step: np.ndarray = (self.positions[-1] - self.positions[0]) / (count - 1)
        distance = float(np.linalg.norm(step))
        expected = self.positions[0] + np.arange(count)[:, None] * step
        off = float(np.abs(self.positions - expected).max())
        if distance == 0 or off > SPACING_TOLERANCE * distance:
            raise InputError(
                f"slices are not evenly spaced: they are {distance:.3g} mm apart, and up to {off:.3g} mm off; "
                "write them as separate files"
            )
        return step


def make_geometry(
    positions: np.ndarray, read: np.ndarray, phase: np.ndarray, normal: np.ndarray, voxel: tuple[float, float, float]
) -> Geometry:
    """Return the geometry that a header describes, checked.

    Directions that are all zero, as simulators and old converters write them, become those of an axial slice: readout
    to the left, phase encoding to the back.

    Parameters
    ----------
    positions, read, phase, normal, voxel : as `Geometry` has them, directions of any length

    Raises
    ------
    InputError
        Directions that are no right angles, voxels without extent, or numbers that are not finite.
    """
    positions = np.atleast_2d(np.asarray(positions, dtype=np.float64))
    directions = np.asarray([read, phase, normal], dtype=np.float64)
    if not (np.isfinite(positions).all() and np.isfinite(directions).all() and np.isfinite(voxel).all()):
        raise InputError("geometry holds NaN or infinite values; export the scan again")
    if min(voxel) <= 0:
        raise InputError(f"voxels of {' x '.join(f'{size:g}' for size in voxel)} mm have no extent; check the header")
    if not directions.any():
        directions = np.eye(3)
    elif not directions[2].any():
        directions[2] = np.cross(directions[0], directions[1])
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    if (lengths == 0).any():
        raise InputError("some directions of the header are zero and others are not; check how it was written")
    directions = directions / lengths
    if np.abs(directions @ directions.T - np.eye(3)).max() > ORTHOGONALITY_TOLERANCE:
        raise InputError("readout, phase and slice directions of the header are not at right angles; check the header")
    return Geometry(positions, directions[0], directions[1], directions[2], voxel)


def voxel_of(attributes: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Read the voxel size along H, W and across slices, mm, from attributes; None where they have none."""
    try:
        x, y, z = (float(size) for size in attributes.get(VOXEL_KEY, ()))
    except (TypeError, ValueError, OverflowError):
        return None
    return (x, y, z) if min(x, y, z) > 0 and np.isfinite((x, y, z)).all() else None


def geometry_of(path: Path, attributes: Mapping[str, Any], slices: int) -> Geometry | None:
    """Read the geometry from attributes of an HDF5 file, if they have one.

    Raises
    ------
    InputError
        Attributes of another form, or as `make_geometry`.
    """
    if not all(name in attributes for name in GEOMETRY_KEYS):
        return None
    try:
        positions, read, phase, normal, voxel = (np.asarray(attributes[name], np.float64) for name in GEOMETRY_KEYS)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: its geometry attributes are not numbers ({error}); leave them out") from error
    if positions.shape != (slices, 3) or any(vector.shape != (3,) for vector in (read, phase, normal, voxel)):
        raise InputError(
            f"{path}: attribute '{GEOMETRY_KEYS[0]}' has shape {positions.shape}, and there are {slices} slices; store "
            "(slices, 3), and 3 numbers in each of the others"
        )
    try:
        return make_geometry(positions, read, phase, normal, (voxel[0], voxel[1], voxel[2]))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def geometry_of_affine(affine: np.ndarray, shape: tuple[int, int], slices: int) -> Geometry:
    """Compute the geometry of an array (H, W, slices) with a NIfTI affine: the inverse of `Geometry.affine`.

    Parameters
    ----------
    affine : (4, 4), from indices to mm to the right, front and head
    shape : (H, W)

    Raises
    ------
    InputError
        As `make_geometry`. Slices may be shifted against each other, but H and W are at right angles.
    """
    columns = LPS_TO_RAS @ affine[:3, :3]
    origin = LPS_TO_RAS @ affine[:3, 3]
    indices = np.stack([np.full(slices, shape[0] // 2), np.full(slices, shape[1] // 2), np.arange(slices)])
    size = np.linalg.norm(columns, axis=0)
    voxel = (float(size[0]), float(size[1]), float(size[2]))
    normal = np.cross(columns[:, 0], columns[:, 1])
    normal = normal if normal @ columns[:, 2] >= 0 else -normal
    return make_geometry(origin + (columns @ indices).T, columns[:, 0], columns[:, 1], normal, voxel)

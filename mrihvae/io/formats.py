"""Names of the formats of k-space files."""

from __future__ import annotations

FORMATS = "fastMRI HDF5, ISMRMRD (MRD) HDF5, BART .cfl with .hdr, or NumPy .npy with a .json of axes"
SUFFIXES = (".h5", ".hdf5", ".mrd", ".cfl", ".npy")

"""Pack training slices into one small HDF5 file, for machines without the data and without fastmri, sigpy and nibabel.

    python -m benchmarks.training.pack_slices DIR/ulf_singlecoil/train=0.25 DIR/images/t1ce/train=0.75 \\
        --output slices.h5

Slices are read as for training (`mrihvae.datasets.mixture`). Raw k-space is kept as it is; magnitude images are
resampled to at most 256 on a side by cropping k-space, by one factor on both axes, scaled to their own maximum and
stored in 8 bits (--bits 16 for 16). If that is more than --megabytes, each dataset keeps slices evenly spread over its
order, in number such that the sizes of datasets stand to each other as their weights.

The file
--------
attribute `format` of the file : "mrihvae slices 1"
one group per dataset, "0", "1", ... : attributes `path` (its last two parts), `raw` (bool), `weight` (float, the share
    of draws, not normalized) and `slices` (how many there were before packing)
in a group, one array per matrix size, "HxW" : (slices, H, W), complex64 if raw, else uint8 or uint16; chunks of one
    slice, compressed with gzip
in a group, `order` : int32 (slices, 2), for each slice in its order: which array (sorted by name), which slice of it

`mrihvae.datasets.mixture.read_packed` gives the datasets back; it needs h5py and numpy alone.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.common.protocol import spread
from mrihvae.datasets.mixture import PACKED_FORMAT, Dataset, load_mixture, read_packed
from mrihvae.errors import InputError
from mrihvae.physics.fourier import fft2c, ifft2c, resize_kspace
from mrihvae.utils.files import atomic_write

LARGEST = 256
GZIP = 6
PROBES = 24  # slices of a dataset whose compressed size is measured
MARGIN = 0.97  # of the size allowed, since sizes are guessed from the probes


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="PATH[=WEIGHT]", help="as for `mrihvae train`")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.h5")
    parser.add_argument("--megabytes", type=float, default=50.0, help="the file's size at most, in 10^6 bytes")
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8, help="of magnitude")
    options = parser.parse_args(arguments)
    try:
        if not options.megabytes > 0:
            raise InputError(f"--megabytes {options.megabytes}: must be above 0")
        datasets = load_mixture(options.data, lambda files: iter(tqdm(files, "reading"))).datasets
        pack(datasets, options.output, options.megabytes * 1e6, options.bits)
        for dataset in read_packed(options.output):
            kind = "raw" if dataset.raw else "magnitude"
            print(f"{dataset.path}: {len(dataset.arrays)} slices, {kind}, weight {dataset.weight:g}")
    except InputError as error:
        print(f"pack_slices: error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")
    return 0


def pack(datasets: list[Dataset], output: Path, size: float, bits: int = 8) -> None:
    """Write as many slices of the datasets as fit into `size` bytes.

    Raises
    ------
    InputError
        Not even one slice of each dataset fits, or the file cannot be written.
    """
    bytes_each = [_bytes_of_a_slice(dataset, bits) for dataset in datasets]
    allowed = MARGIN * size
    with atomic_write(output) as temporary:
        for _ in range(4):
            counts = share_out([len(d.arrays) for d in datasets], bytes_each, [d.weight for d in datasets], allowed)
            if min(counts) < 1:
                raise InputError(f"{output}: {size / 1e6:g} MB do not hold a slice of each dataset; allow more")
            _write(temporary, datasets, counts, bits)
            written = temporary.stat().st_size
            if written <= size:
                return
            allowed *= MARGIN * size / written
        raise InputError(f"{output}: slices compress too unevenly to fit {size / 1e6:g} MB; allow more")


def share_out(have: list[int], bytes_each: list[float], weights: list[float], size: float) -> list[int]:
    """Choose how many slices each dataset keeps: sizes as their weights, and what one does not need goes to others."""
    counts = [0] * len(have)
    open_ones = set(range(len(have)))
    left = size
    while open_ones:
        total = sum(weights[i] for i in open_ones)
        fits = {i: int(left * weights[i] / total / bytes_each[i]) for i in open_ones}
        satisfied = {i for i in open_ones if fits[i] >= have[i]}
        for i in satisfied or open_ones:
            counts[i] = min(have[i], fits[i])
        if not satisfied:
            break
        left -= sum(have[i] * bytes_each[i] for i in satisfied)
        open_ones -= satisfied
    return counts


def packed_slice(array: np.ndarray, raw: bool, bits: int) -> np.ndarray:
    """Bring a slice to the form in which it is stored: complex64 as it is, or magnitude in 8 or 16 bits."""
    if raw:
        return array.astype(np.complex64, copy=False)
    image = torch.from_numpy(np.asarray(array, dtype=np.float32))
    factor = min(1.0, LARGEST / max(image.shape))
    if factor < 1:
        shape = (max(1, round(image.shape[0] * factor)), max(1, round(image.shape[1] * factor)))
        image = ifft2c(resize_kspace(fft2c(image.to(torch.complex64)), shape)).abs()
    greatest = 2**bits - 1
    scaled = (image.clamp_min(0) * (greatest / image.max().clamp_min(1e-12))).round()
    return np.asarray(scaled.numpy().astype(np.uint8 if bits == 8 else np.uint16))


def _write(path: Path, datasets: list[Dataset], counts: list[int], bits: int) -> None:
    """Write the chosen slices of every dataset."""
    with h5py.File(path, "w") as file:
        file.attrs["format"] = PACKED_FORMAT
        for number, (dataset, count) in enumerate(zip(datasets, counts)):
            chosen = [packed_slice(array, dataset.raw, bits) for array in spread(dataset.arrays, count)]
            group = file.create_group(str(number))
            about = {"path": "/".join(dataset.path.parts[-2:]), "raw": dataset.raw, "weight": dataset.weight}
            group.attrs.update({**about, "slices": len(dataset.arrays)})
            names = sorted({_size_name(array) for array in chosen})
            order = []
            for which, name in enumerate(names):
                places = [k for k, array in enumerate(chosen) if _size_name(array) == name]
                stack = np.stack([chosen[k] for k in places])
                options = {"compression": "gzip", "compression_opts": GZIP, "shuffle": stack.dtype != np.uint8}
                group.create_dataset(name, data=stack, chunks=(1, *stack.shape[1:]), **options)
                order += [(k, which, index) for index, k in enumerate(places)]
            group["order"] = np.array([entry[1:] for entry in sorted(order)], dtype=np.int32)


def _bytes_of_a_slice(dataset: Dataset, bits: int) -> float:
    """Guess the mean size of a stored slice from some of them."""
    probes = [packed_slice(array, dataset.raw, bits) for array in spread(dataset.arrays, PROBES)]
    return float(np.mean([len(zlib.compress(_shuffled(array), GZIP)) + 100 for array in probes]))


def _shuffled(array: np.ndarray) -> bytes:
    """Order bytes by their significance, as HDF5's shuffle filter does before it compresses."""
    size = array.dtype.itemsize
    return np.frombuffer(array.tobytes(), np.uint8).reshape(-1, size).T.tobytes() if size > 1 else array.tobytes()


def _size_name(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"


if __name__ == "__main__":
    sys.exit(main())

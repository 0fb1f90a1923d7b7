"""Slices from the partitions of slabs: partial Fourier across them, and slabs beside each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.io.partitions import centered_fft
from tests.support.assembly import phantom, psnr, scan_3d, slab_xml, sort, stacked

EQUAL = 100  # dB from which images are the same


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("first", "end"), [(4, 16), (2, 16), (6, 16), (0, 12), (0, 10)])
@pytest.mark.parametrize("limited", [False, True])
def test_partial_fourier_along_partitions(first: int, end: int, limited: bool, early: bool) -> None:
    """6/8, 7/8, 5/8, from either end: the rest is zero, and a warning says so."""
    slab = centered_fft(phantom(16, 2, 16, 12), 0)
    limits = {"kspace_encoding_step_1": (0, 11, 6)}
    if limited:
        limits["kspace_encoding_step_2"] = (0, end - first - 1, 8 - first)
    lines = scan_3d(slab[first:end])
    if not limited:
        lines = [replace(line, kspace_encode_step_2=line.kspace_encode_step_2 + first) for line in lines]
    sorter, found = sort(slab_xml(slab, limits=limits), lines, early)
    kept = (np.arange(16) >= first) & (np.arange(16) < end)
    truth = centered_fft((slab * kept[:, None, None, None]).astype(np.complex64), 0, inverse=True)
    assert psnr(stacked(found), truth) > EQUAL
    (text,) = sorter.warnings
    assert text.startswith(f"{end - first} of 1") and "partitions were acquired" in text and "partial Fourier" in text


def test_slices_know_their_slab() -> None:
    slabs = [centered_fft(phantom(4, 2, 16, 12, seed), 0) for seed in (0, 1)]
    lines = [replace(line, slice=k) for k, slab in enumerate(slabs) for line in scan_3d(slab)]
    order = np.random.default_rng(0).permutation(len(lines))
    _, found = sort(slab_xml(slabs[0]), [lines[k] for k in order])
    assert [(one.key.slice, one.slab) for one in found] == [(k, k // 4) for k in range(8)]
    for one, slab in enumerate(slabs):
        truth = centered_fft(slab, 0, inverse=True)
        assert psnr(stacked(found[4 * one : 4 * one + 4]), truth) > EQUAL

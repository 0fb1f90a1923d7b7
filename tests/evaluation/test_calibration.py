"""Calibrations fitted on scans whose errors are known, and judged on others."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

from mrihvae.errors import InputError
from mrihvae.evaluation.calibration import CalibrationScan, block_means, fit_calibration, object_mask
from mrihvae.evaluation.judgment import judge_scan, sparsification_curve, spearman
from mrihvae.inference.calibration import Calibration
from mrihvae.inference.error_map import MISFIT, NAMES, NOISE, variance_of

TRUE = np.zeros(len(NAMES))
TRUE[[0, 1, 5, MISFIT]] = -0.2, 0.5, 0.3, 0.2


def scan_of(person: int, acceleration: float, shift: float = 1.0) -> CalibrationScan:
    """Return a scan whose errors are Gaussian, with a scale that differs from person to person."""
    rng = np.random.default_rng([person, int(acceleration)])
    scan = np.array([-11.0, rng.uniform(-8, -6), np.log(acceleration), np.log(0.3 * shift) + 0.2 * rng.normal()])

    def regressors(count: int) -> np.ndarray:
        x = rng.uniform(-9, -5, (len(NAMES), count))
        x[0], x[NOISE:] = 1, scan[:, None]
        return x

    blocks, inside, scale = regressors(200), regressors(500), rng.lognormal(0, 0.15)
    errors = np.abs(scale * np.sqrt(variance_of(inside, TRUE)) * rng.normal(size=500))
    psnr = -10 * np.log10(scale**2 * variance_of(inside, TRUE).mean())
    return CalibrationScan(
        f"person {person}", acceleration, acceleration, blocks, scale**2 * variance_of(blocks, TRUE), inside, errors,
        inside, scan, float(psnr), float(1 - 10 ** (-psnr / 20)), float(np.exp(scan[3])),
    )  # fmt: skip


@cache
def fitted() -> Calibration:
    return fit_calibration([scan_of(k, one) for k in range(60) for one in (4.0, 8.0)], {"views": 2})


def test_coverage_and_bounds_hold_for_new_persons() -> None:
    judged = [judge_scan(fitted(), scan_of(100 + k, one)) for k in range(100) for one in (4.0, 8.0)]
    assert np.mean([one.covered for one in judged]) == pytest.approx(0.915, abs=0.02)
    assert np.mean([one.psnr_spare >= 0 for one in judged]) > 0.84
    assert np.mean([one.ssim_spare >= 0 for one in judged]) > 0.84
    assert np.mean([one.p_value <= 0.05 for one in judged]) < 0.12
    assert np.mean([one.correlation["calibrated"] for one in judged]) > 0.9
    assert np.mean([one.sparsification["calibrated"] for one in judged]) < 0.2


def test_scans_whose_held_out_lines_are_predicted_worse_are_unusual() -> None:
    judged = [judge_scan(fitted(), scan_of(200 + k, 4.0, shift=3.0)) for k in range(40)]
    assert np.mean([one.p_value <= 0.05 for one in judged]) > 0.9


def test_coefficients_and_quantiles_are_of_different_persons() -> None:
    found = fitted()
    assert (found.persons, found.scans) == (60, 120) and [one.persons for one in found.quantiles] == [40, 40]
    assert [one.acceleration for one in found.quantiles] == [4, 8] and len(found.quantiles[0].shift_scores) == 40


def test_too_few_persons() -> None:
    with pytest.raises(InputError, match="scans of 13 subjects: a calibration needs at least 14; give more"):
        fit_calibration([scan_of(k, 4.0) for k in range(13)], {})


def test_a_person_with_many_scans_counts_once() -> None:
    scans = [scan_of(k, 4.0) for k in range(20)]
    again = [dataclasses.replace(one, errors=10 * one.errors) for one in scans[:1] for _ in range(50)]
    assert fit_calibration([*scans, *again], {}).quantiles[0].persons <= 14


def test_object_of_a_noisy_image() -> None:
    image = np.abs(0.02 * np.random.default_rng(0).normal(size=(64, 64)))
    image[16:48, 12:52] += 1
    image[28:36, 28:36] = 0  # a hole in it belongs to it
    found = object_mask(image)
    assert found[20:44, 16:48].all() and not found[:12].any() and not found[:, 56:].any()
    assert not object_mask(np.zeros((32, 32))).any()


def test_blocks() -> None:
    inside = np.zeros((16, 20), dtype=bool)
    inside[:8, :8] = inside[8:12, 8:16] = True
    values = np.stack([np.ones((16, 20)), np.where(inside, 2.0, 7.0)])
    np.testing.assert_allclose(block_means(values, inside), [[1, 1], [2, 2]])


def test_measures_by_hand() -> None:
    assert spearman([1, 2, 3, 4], [1, 4, 9, 16]) == 1 and spearman([1, 1, 1], [1, 2, 3]) == 0
    curve = sparsification_curve(np.array([1.0] * 50 + [3.0] * 50), np.arange(100))
    assert curve[0] == 1 and curve[10] == pytest.approx(1 / np.sqrt(5))

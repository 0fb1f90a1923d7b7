"""Calibrations beside weights: what they promise of a scan, and that they hold for their weights alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from mrihvae.errors import InputError
from mrihvae.inference.calibration import (
    Calibration,
    Quantiles,
    apply_calibration,
    calibration_path,
    load_calibration,
    save_calibration,
)
from mrihvae.inference.error_map import NAMES, error_variance
from mrihvae.inference.evidence import HeldOutMisfit
from tests.inference.test_error_map import evidence

SCORES = tuple(np.linspace(-0.2, 0.2, 39).round(4).tolist())


def calibration(factor: float = 2.0, psnr: float = 1.5, ssim: float = 0.2) -> Calibration:
    """Return one with a variance that is the mean of all powers, and two accelerations."""
    one = Quantiles(4.0, 3.8, 39, factor, psnr, ssim, SCORES)
    two = dataclasses.replace(one, acceleration=8.0, effective=7.2, factor=2 * factor)
    error = (0.0, *[1 / 8] * 8, 0.0, 0.0, 0.0, 0.0)
    line = (0.0, -10.0, 0.0, 0.0, 0.0, 0.0)
    return Calibration(
        0.9,
        {"views": 2},
        NAMES,
        error,
        line,
        (-1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        (-0.5, 0.0),
        (one, two),
        60,
        120,
    )


def test_intervals_and_bounds_by_hand() -> None:
    known = evidence(2.0)
    std, bounds = apply_calibration(calibration(), known)
    variance = error_variance(known, calibration().error)
    np.testing.assert_allclose(std * 1.6448536, 2 * 2.0 * np.sqrt(variance), rtol=1e-5)
    assert bounds.psnr_at_least == pytest.approx(-10 * np.log10(variance.mean()) - 1.5, rel=1e-6)
    assert bounds.ssim_at_least == pytest.approx(1 - 10**-0.8) and bounds.level == 0.9 and bounds.persons == 39


def test_scale_and_unit_of_the_scan() -> None:
    std, bounds = apply_calibration(calibration(), evidence(1.0))
    other, same = apply_calibration(calibration(), dataclasses.replace(evidence(8.0), unit=32.0))
    np.testing.assert_allclose(other, 256 * std, rtol=1e-4)
    assert same.psnr_at_least == pytest.approx(bounds.psnr_at_least, abs=1e-3)


def test_wider_margins_promise_less() -> None:
    found = [apply_calibration(calibration(one, one, one / 10), evidence()) for one in (1.0, 2.0, 3.0)]
    assert found[0][0].mean() < found[1][0].mean() < found[2][0].mean()
    for name in ("psnr_at_least", "ssim_at_least"):
        bounds = [getattr(bounds, name) for _, bounds in found]
        assert bounds == sorted(bounds, reverse=True)


def test_quantiles_are_those_of_the_nearest_acceleration() -> None:
    assert [calibration().at(one).acceleration for one in (2, 4, 5, 5.5, 12)] == [4, 4, 4, 8, 8]
    assert [calibration().reaches(one) for one in (2, 3, 10, 12)] == [False, True, True, False]


@pytest.mark.parametrize(("relative", "unusual"), [(0.3, False), (0.1, False), (0.6, True)])
def test_lines_that_are_predicted_worse_than_usual(relative: float, unusual: bool) -> None:
    """The calibration expects 10^-0.5 = 0.32 of the energy, and has seen 10^0.2 times that at most."""
    known = dataclasses.replace(evidence(), misfit=HeldOutMisfit(1e-3, relative, 0.1))
    bounds = apply_calibration(calibration(), known)[1]
    assert bounds.is_unusual is unusual and (bounds.p_value == 1 / 40) is unusual


def test_files_hold_for_their_weights_alone(tmp_path: Path) -> None:
    path = calibration_path(tmp_path / "a.safetensors")
    assert path.name == "a.calibration.json" and load_calibration(path, "abc") == {}
    save_calibration(path, "abc", {"one coil": calibration()})
    assert load_calibration(path, "abc") == {"one coil": calibration()} and load_calibration(path, "abd") == {}
    values = json.loads(path.read_text())
    values["one coil"]["names"] = ["1", "of another version"]
    path.write_text(json.dumps(values))
    assert load_calibration(path, "abc") == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weights": "abc", "one coil": {}}', '{"weights": "abc", "one coil": 3}']
)
def test_damaged_files_end_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.calibration.json"
    path.write_text(text)
    with pytest.raises(InputError, match="a.calibration.json: damaged .*make it again with 'mrihvae calibrate'"):
        load_calibration(path, "abc")

"""The regression of squared errors on powers."""

from __future__ import annotations

import numpy as np
import pytest

from mrihvae.inference.error_map import NAMES, Evidence, error_variance, fit_error
from mrihvae.inference.evidence import LOCAL, HeldOutMisfit


def evidence(scale: float = 1.0, seed: int = 0) -> Evidence:
    """Return evidence of random powers, of two slices."""
    local = np.random.default_rng(seed).gamma(2.0, 0.01, (len(LOCAL), 2, 8, 8)).astype(np.float32)
    return Evidence(scale**2 * local, scale * 0.01, HeldOutMisfit(scale**2 * 1e-3, 0.3, 0.1), 4.0, scale)


def test_coefficients_are_found_again() -> None:
    rng = np.random.default_rng(0)
    wanted = np.array([-1.0, 0.6, 0.3])
    x = [np.concatenate([np.ones((1, 400)), rng.normal(-4, 1, (2, 400))]) for _ in range(20)]
    errors = [np.exp(wanted @ one) * rng.gamma(4, 0.25, 400) for one in x]
    np.testing.assert_allclose(fit_error(x, errors), wanted, atol=0.03)


def test_scans_of_many_blocks_count_as_those_of_few() -> None:
    ones = [np.ones((1, 1000)), np.ones((1, 10))]
    found = fit_error(ones, [np.full(1000, 0.1), np.full(10, 0.3)])
    assert np.exp(found[0]) == pytest.approx(0.2, rel=1e-4)


def test_variance_does_not_depend_on_the_scale_of_the_scan() -> None:
    coefficients = np.random.default_rng(1).normal(0, 0.2, len(NAMES))
    np.testing.assert_allclose(
        error_variance(evidence(1.0), coefficients), error_variance(evidence(64.0), coefficients), rtol=1e-4
    )


def test_regressors_are_named() -> None:
    values = evidence().logarithms(evidence().local[:, 0])
    assert values.shape == (len(NAMES), 8, 8) and (values[0] == 1).all()
    assert values[-1, 0, 0] == pytest.approx(np.log(4))

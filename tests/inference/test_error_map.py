"""The regression of squared errors on powers."""

from __future__ import annotations

import numpy as np
import pytest

from mrihvae.inference import error_map
from mrihvae.inference.error_map import MISFIT, NAMES, NOISE, POWERS, Evidence, error_variance, fit_error, variance_of
from mrihvae.inference.evidence import LOCAL, HeldOutMisfit


def evidence(scale: float = 1.0, seed: int = 0) -> Evidence:
    """Return evidence of random powers, of two slices."""
    local = np.random.default_rng(seed).gamma(2.0, 0.01, (len(LOCAL), 2, 8, 8)).astype(np.float32)
    return Evidence(scale**2 * local, scale * 0.01, HeldOutMisfit(scale**2 * 1e-3, 0.3, 0.1), 4.0, scale)


def regressors(blocks: int, seed: int) -> np.ndarray:
    """Return regressors of a scan: powers from 1e-4 to 1e-2 of the peak's, and little noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-9, -5, (len(NAMES), blocks))
    x[0], x[NOISE], x[MISFIT:] = 1, rng.uniform(-13, -11), rng.uniform([[-9], [0], [-2]], [[-5], [2], [0]])
    return x


def test_coefficients_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the ridge, which holds slopes that scans say little about."""
    monkeypatch.setattr(error_map, "RIDGE", 0.0)
    wanted = np.zeros(len(NAMES))
    wanted[[0, 1, 3, MISFIT, MISFIT + 1]] = -0.5, 0.4, 0.4, 0.2, 0.7
    x = [regressors(300, seed) for seed in range(60)]
    errors = [variance_of(one, wanted) * np.random.default_rng(k).gamma(4, 0.25, 300) for k, one in enumerate(x)]
    found = fit_error(x, errors)
    np.testing.assert_allclose(found[1:], wanted[1:], atol=0.1)
    means = [one.mean(axis=1) for one in x]
    np.testing.assert_allclose([found @ mean for mean in means], [wanted @ mean for mean in means], atol=0.15)
    assert found[[*POWERS]].sum() == pytest.approx(1)


def test_scans_of_many_blocks_count_as_those_of_few() -> None:
    x = [np.broadcast_to(regressors(1, 0), (len(NAMES), count)) for count in (1000, 10)]
    found = fit_error(x, [np.full(1000, 0.01), np.full(10, 0.03)])
    assert variance_of(x[1], found)[0] == pytest.approx(0.02, rel=1e-2)


def test_variance_does_not_depend_on_the_scale_of_the_scan() -> None:
    coefficients = np.random.default_rng(1).normal(0, 0.2, len(NAMES))
    coefficients[1] += 1 - coefficients[[*POWERS]].sum()
    np.testing.assert_allclose(
        error_variance(evidence(1.0), coefficients), error_variance(evidence(64.0), coefficients), rtol=1e-4
    )


def test_regressors_are_named() -> None:
    values = evidence().logarithms(evidence().local[:, 0])
    assert values.shape == (len(NAMES), 8, 8) and (values[0] == 1).all()
    assert values[-2:, 0, 0] == pytest.approx(np.log([4, 0.3]))

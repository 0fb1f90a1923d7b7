"""Quantiles, factors and p-values of scores: the finite-sample formulas, and what they promise for a new one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mrihvae.inference.conformal import conformal_quantile, p_value, risk_controlling_factor


@pytest.mark.parametrize(("persons", "level", "rank"), [(9, 0.9, 9), (19, 0.9, 18), (99, 0.9, 90), (20, 0.5, 11)])
def test_rank_of_the_quantile(persons: int, level: float, rank: int) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1, persons + 1))
    assert conformal_quantile(scores.tolist(), level) == rank


def test_too_few_persons_promise_nothing() -> None:
    assert conformal_quantile([1.0] * 8, 0.9) == math.inf
    assert risk_controlling_factor(lambda factor: np.zeros(8), 0.9) == math.inf
    assert risk_controlling_factor(lambda factor: np.zeros(9), 0.9) < math.inf


def test_quantiles_hold_for_new_persons() -> None:
    """Exactly rank / (n + 1) of them, whatever the distribution: here a heavy-tailed one."""
    rng = np.random.default_rng(1)
    held = [rng.standard_cauchy() <= conformal_quantile(rng.standard_cauchy(19).tolist(), 0.9) for _ in range(4000)]
    assert np.mean(held) == pytest.approx(18 / 20, abs=0.015)


def test_intervals_hold_their_share_of_a_new_persons_pixels() -> None:
    """Persons differ in the scale of their errors; on average over them 90 % of pixels are held, and few more."""
    rng = np.random.default_rng(2)

    def person() -> np.ndarray:
        return np.abs(rng.standard_normal(200)) * rng.lognormal(0, 0.4)

    shares = []
    for _ in range(150):
        errors = np.stack([person() for _ in range(30)])
        factor = risk_controlling_factor(lambda one, errors=errors: (errors > one).mean(axis=1), 0.9)
        shares.append((person() <= factor).mean())
    assert 0.9 - 0.01 < np.mean(shares) < 0.96


def test_a_greater_level_takes_a_greater_factor() -> None:
    errors = np.abs(np.random.default_rng(3).standard_normal((40, 300)))
    factors = [risk_controlling_factor(lambda one: (errors > one).mean(axis=1), level) for level in (0.5, 0.8, 0.9)]
    assert factors == sorted(factors) and factors[0] == pytest.approx(0.7, abs=0.05)  # 0.674 of a normal distribution


def test_p_values_are_rarely_small_for_exchangeable_scores_and_mostly_for_shifted_ones() -> None:
    rng = np.random.default_rng(4)
    small = {shift: np.mean([p_value(rng.normal() + shift, rng.normal(size=39).tolist()) <= 0.05 for _ in range(2000)])
             for shift in (0.0, 4.0)}  # fmt: skip
    assert small[0.0] == pytest.approx(0.05, abs=0.015) and small[4.0] > 0.95
    assert p_value(100, [1.0] * 39) == 1 / 40 and p_value(0, [1.0] * 39) == 1

"""Settings of the loop: tau of each level, beta of each iteration, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mrihvae.errors import InputError
from mrihvae.pnp.settings import PnPSettings


@pytest.mark.parametrize(
    "values",
    [
        {"tau": 1.01},
        {"tau": -0.1},
        {"tau": math.nan},
        {"tau": (1.0, 1.2, 0.5)},
        {"tau": 1.0, "tau_finest": 1.1},
        {"tau": 1.0, "tau_finest": -0.5},
        {"tau": (1.0, 1.0, 1.0), "tau_finest": 0.5},
        {"beta": 0.0},
        {"beta": 1.5},
        {"beta": -0.5},
        {"beta_start": 0.0},
        {"beta_start": 2.0},
        {"beta_steps": -1},
        {"gamma": 0.0},
        {"gamma": math.inf},
        {"relaxation": 0.0},
        {"relaxation": 1.1},
        {"relaxation": math.nan},
        {"gamma": math.nan},
        {"iterations": 0},
        {"views": 0},
        {"views": 9},
        {"sweeps": -1},
        {"patience": -1},
        {"seed": -1},
        {"tolerance": -0.1},
        {"tolerance": 1.0},
        {"encoder": "q"},
        {"result": "mean"},
        {"precision": "float16"},
    ],
)
def test_refused_settings(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be|unknown; choose one of|needs a single tau"):
        PnPSettings(**values)


def test_tau_of_each_level() -> None:
    assert [PnPSettings(tau=0.8).tau_at(j, 3) for j in range(3)] == [0.8] * 3
    assert [PnPSettings(tau=(0.9, 0.5, 0.1)).tau_at(j, 3) for j in range(3)] == [0.9, 0.5, 0.1]
    falling = [PnPSettings(tau=1.0, tau_finest=0.4).tau_at(j, 4) for j in range(4)]
    assert falling == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert PnPSettings(tau=0.7, tau_finest=0.0).tau_at(0, 1) == 0.7
    with pytest.raises(InputError, match=r"2 numbers for 3 levels; give one, or one per level"):
        PnPSettings(tau=(1.0, 0.5)).tau_at(0, 3)


def test_beta_grows_geometrically() -> None:
    settings = PnPSettings(beta=0.8, beta_start=0.05, beta_steps=4)
    assert [settings.beta_at(n) for n in range(7)] == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 0.8, 0.8])
    assert [PnPSettings(beta=0.6, beta_start=0.1).beta_at(n) for n in range(3)] == [0.6] * 3

"""Settings of inference: numbers for all levels or for each, and those that do not go together."""

from __future__ import annotations

from typing import Any

import pytest

from mrihvae.errors import InputError
from mrihvae.inference.settings import STEPS, InferenceSettings, RefinementSettings, at
from mrihvae.utils.config import with_settings


def test_one_number_for_all_levels_or_one_for_each() -> None:
    assert [at(0.5, j) for j in range(2)] == [0.5, 0.5] and [at((3, 1), j) for j in range(2)] == [3, 1]
    settings = RefinementSettings(sweeps=(0, 2, 1), beta=(1.0, 0.5, 0.0), rule="adam", step=(0.1, 0.2, 0.3))
    assert [settings.sweeps_at(j) for j in range(3)] == [0, 2, 1]
    assert [settings.beta_at(j) for j in range(3)] == [1.0, 0.5, 0.0]
    assert [settings.step_at(j) for j in range(3)] == [0.1, 0.2, 0.3]
    assert (
        settings.refines and not RefinementSettings(sweeps=(0, 0)).refines and not RefinementSettings(sweeps=0).refines
    )


@pytest.mark.parametrize("rule", STEPS)
def test_usual_steps(rule: str) -> None:
    assert RefinementSettings(rule=rule).step_at(3) == STEPS[rule]


@pytest.mark.parametrize("name", ["sweeps", "step", "beta"])
def test_as_many_numbers_as_levels(name: str) -> None:
    settings = RefinementSettings(**{"rule": "adam", name: (1, 2, 3)})
    settings.check(3)
    with pytest.raises(InputError) as caught:
        settings.check(5)
    assert str(caught.value) == f"{name} (1, 2, 3): 3 numbers for 5 levels; give one, or one per level"


@pytest.mark.parametrize(
    ("order", "name", "refused"),
    [("together", "sweeps", True), ("together", "step", True), ("together", "beta", True), ("layer", "sweeps", False),
     ("layer", "step", False), ("layer", "beta", True)],
)  # fmt: skip
def test_levels_with_one_head(order: str, name: str, refused: bool) -> None:
    """Layer by layer each may have its own sweeps, but the data term is of all levels at once."""
    settings = RefinementSettings(**{"order": order, "rule": "adam", name: (1, 2)})
    settings.check(2)
    if refused:
        with pytest.raises(InputError, match=f"{name} .*: the vanilla decoder has one head for all levels"):
            settings.check(2, separable=False)
    else:
        settings.check(2, separable=False)
    RefinementSettings(order=order, rule="adam").check(2, separable=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweeps": ()}, "must be numbers, one for all levels or one per level"),
        ({"sweeps": (1, -1)}, r"sweeps \(1, -1\) and beta 1.0 must be at least 0"),
        ({"rule": "adam", "step": (0.1, 0.0)}, r"step \(0.1, 0.0\) must be above 0"),
        ({"rule": "gauss-newton", "loss": "l1"}, "rule 'gauss-newton' takes loss 'l2', not 'l1'"),
        ({"rule": "gauss-newton", "step": 0.1}, "rule 'gauss-newton' finds its own step"),
        ({"tolerance": 1.0}, "tolerance 1.0 must be at least 0 and below 1"),
        ({"start": "prior"}, "start 'prior' does not use the scan: views and rounds must be 1"),
        ({"order": "random"}, "order 'random' is unknown; choose one of together, layer"),
        ({"precision": "half"}, "precision 'half' is unknown; choose one of auto, float32, bfloat16"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_settings(InferenceSettings(), **changes)


def test_starts_without_the_scan_take_one_view() -> None:
    without = InferenceSettings(views=1, rounds=1, refinement=RefinementSettings(start="sample"))
    assert without.refinement.start == "sample"

"""Settings from dictionaries: defaults, tuples, and every refusal."""

from __future__ import annotations

from typing import Any

import pytest

from mrihvae.errors import InputError
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.model.settings import ModelSettings
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.run import TrainSettings
from mrihvae.utils.config import as_dict, from_dict

ALL = (ModelSettings, TrainSettings, SimulationSettings, InferenceSettings, RefinementSettings)


@pytest.mark.parametrize("cls", ALL)
def test_defaults_and_round_trip(cls: type[Any]) -> None:
    assert from_dict(cls, {}, "here") == cls()
    assert from_dict(cls, as_dict(cls()), "here") == cls()


def test_lists_become_tuples() -> None:
    values = {"widths": [16, 32], "guess_widths": [48]}
    assert from_dict(ModelSettings, values, "here") == ModelSettings(widths=(16, 32), guess_widths=(48,))
    assert from_dict(SimulationSettings, {"noise": [0.01, 0.02]}, "here").noise == (0.01, 0.02)
    assert from_dict(TrainSettings, {"shapes": [[32, 64], [64, 32]]}, "here").shapes == ((32, 64), (64, 32))


def test_numbers_per_level_are_one_or_a_list() -> None:
    values = {"sweeps": [0, 2], "step": [0.1, 0.2], "beta": 0.5, "rule": "adam"}
    assert from_dict(RefinementSettings, values, "here") == RefinementSettings(
        sweeps=(0, 2), step=(0.1, 0.2), beta=0.5, rule="adam"
    )
    for wrong in ({"sweeps": [0, 1.5]}, {"sweeps": [0, True]}, {"step": ["a"]}, {"iterations": [1, 2]}):
        with pytest.raises(InputError, match="it must be of the same type as its default"):
            from_dict(RefinementSettings, wrong, "here")


@pytest.mark.parametrize(
    ("cls", "key", "near"),
    [
        (ModelSettings, "width", "widths"),
        (ModelSettings, "noise_flor", "noise_floor"),
        (TrainSettings, "learningrate", "learning_rate"),
        (TrainSettings, "Steps", "steps"),
        (SimulationSettings, "acceleration_max", "max_acceleration"),
        (InferenceSettings, "sweep", "sweeps"),
    ],
)
def test_unknown_key_names_the_nearest(cls: type[Any], key: str, near: str) -> None:
    with pytest.raises(InputError) as caught:
        from_dict(cls, {key: 1}, "run.json, part")
    assert str(caught.value) == f"run.json, part: unknown setting '{key}'; the nearest known one is '{near}'"


def test_key_that_is_near_to_none_still_gets_a_proposal() -> None:
    with pytest.raises(InputError, match="unknown setting 'qqq'; the nearest known one is '"):
        from_dict(ModelSettings, {"qqq": 1}, "here")


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (ModelSettings, {"widths": []}),
        (ModelSettings, {"widths": [16, 24]}),
        (ModelSettings, {"widths": [0]}),
        (ModelSettings, {"widths": 16}),
        (ModelSettings, {"widths": [16.0, 16.0]}),
        (ModelSettings, {"widths": [16, 16]}),  # fewer than the scales of the first guess
        (ModelSettings, {"guess_widths": []}),
        (ModelSettings, {"guess_widths": [24]}),
        (ModelSettings, {"guess_widths": [16] * 6}),
        (ModelSettings, {"cascades": -1}),
        (ModelSettings, {"cascades": 1.5}),
        (ModelSettings, {"guess_memory": -1}),
        (ModelSettings, {"layers": 0}),
        (ModelSettings, {"layers": 1.5}),
        (ModelSettings, {"fold": 0}),
        (ModelSettings, {"latents": 0}),
        (ModelSettings, {"noise_floor": 0.0}),
        (ModelSettings, {"noise_floor": float("nan")}),
        (TrainSettings, {"steps": 0}),
        (TrainSettings, {"steps": "10"}),
        (TrainSettings, {"steps": 10.5}),
        (TrainSettings, {"shapes": []}),
        (TrainSettings, {"shapes": [32]}),
        (TrainSettings, {"shapes": [[32, 32, 32]]}),
        (TrainSettings, {"shapes": [[0, 32]]}),
        (TrainSettings, {"learning_rate": 0.0}),
        (TrainSettings, {"learning_rate": float("nan")}),
        (TrainSettings, {"ema": 1.0}),
        (TrainSettings, {"prior_every": 0}),
        (TrainSettings, {"masked_start": -1}),
        (TrainSettings, {"guess_only": -1}),
        (TrainSettings, {"guess_only": 10, "masked_start": 9}),
        (TrainSettings, {"second_every": -1}),
        (TrainSettings, {"second_every": 2.5}),
        (TrainSettings, {"matching_weight": -0.5}),
        (TrainSettings, {"seed": -1}),
        (SimulationSettings, {"noise": [0.01]}),
        (SimulationSettings, {"noise": [0.0, 0.05]}),
        (SimulationSettings, {"noise": [0.05, 0.01]}),
        (SimulationSettings, {"max_acceleration": 1.0}),
        (SimulationSettings, {"max_acceleration": "4"}),
        (SimulationSettings, {"extra_noise": -1.0}),
        (SimulationSettings, {"rotation": -1.0}),
        (SimulationSettings, {"partial_resolution": 1.5}),
        (InferenceSettings, {"views": 0}),
        (InferenceSettings, {"views": 9}),
        (InferenceSettings, {"rounds": 0}),
        (InferenceSettings, {"blend": 1.5}),
        (InferenceSettings, {"temperature": -1.0}),
        (InferenceSettings, {"spread": -1.0}),
        (InferenceSettings, {"temperature": float("nan")}),
        (InferenceSettings, {"temperature": "warm"}),
        (InferenceSettings, {"anchor": "none"}),
        (InferenceSettings, {"rule": "newton"}),
        (InferenceSettings, {"iterations": 0}),
        (InferenceSettings, {"sweeps": -1}),
        (InferenceSettings, {"sweeps": 2.5}),
        (InferenceSettings, {"step": 0.0}),
        (InferenceSettings, {"step": "small"}),
        (InferenceSettings, {"step": 0.1}),  # with Gauss-Newton
        (InferenceSettings, {"step": float("nan")}),
        (InferenceSettings, {"beta": -1.0}),
        (InferenceSettings, {"beta": float("nan")}),
        (InferenceSettings, {"loss": "l3"}),
        (InferenceSettings, {"combine": "both"}),
    ],
)
def test_refused_values(cls: type[Any], values: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        from_dict(cls, values, "run.json")
    assert str(caught.value).startswith("run.json: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [3, "steps", [1], None])
def test_values_that_are_no_dictionary(values: Any) -> None:
    with pytest.raises(InputError, match="^run.json: "):
        from_dict(TrainSettings, values, "run.json")

"""Settings of networks: what is derived from them, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mrihvae.model.settings import ModelSettings

ANY_SIZE = ModelSettings(
    widths=(32, 32, 16, 16), layers=(3, 2, 1, 1), fold=1, any_size=True, guess_fold=2, cascades=2,
    guess_widths=(16, 32, 32),
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (1, 2)}, "layers .* must be one number, or 4"),
        ({"layers": (1, 2, 0, 1)}, "layers, latents and fold must be at least 1"),
        ({"fold": 2}, "any_size takes fold 1"),
        ({"start_share": 0.0}, "start_share above 0"),
        ({"degraded": True}, "guess_fold 2 must be that of the network"),
    ],
)
def test_settings_of_networks_of_any_size(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ANY_SIZE, **changes)


def test_what_is_derived() -> None:
    settings = ModelSettings(
        widths=(32, 16, 16), layers=(3, 2, 1), fold=2, cascades=1, guess_widths=(16,), guess_fold=3
    )
    assert (settings.levels, settings.depth, settings.image_channels) == (3, 6, 8)
    assert [settings.layers_at(j) for j in range(3)] == [3, 2, 1]
    assert settings.multiple == 24  # of 2 * 2^2 for the levels, and 3 for the U-Nets
    assert dataclasses.replace(settings, guess_fold=0).multiple == 8
    pictures = ModelSettings(widths=(16, 16), layers=1, real=True, channels=3, masked=False, guess_widths=(16,))
    assert pictures.image_channels == 24 and pictures.depth == 2


def test_sizes_that_a_network_of_any_size_takes() -> None:
    assert ANY_SIZE.multiple == 2  # its U-Nets'
    assert dataclasses.replace(ANY_SIZE, cascades=0).multiple == 1
    assert dataclasses.replace(ANY_SIZE, masked=False).multiple == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_floor": 0.0}, "noise_floor 0.0 must be above 0"),
        ({"channels": 2}, "channels 2 must be at least 1, and 1 where images are not real"),
        ({"degraded": True, "masked": False}, "masked must be true"),
        ({"real": True}, "masked must be false"),
        ({"guess_widths": (16,) * 6}, "guess_widths no more than widths"),
        ({"cascades": -1}, "cascades and guess_memory must be at least 0"),
    ],
)
def test_settings_that_contradict_each_other(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSettings(**changes)

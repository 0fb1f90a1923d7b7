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

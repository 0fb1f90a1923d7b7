"""Settings of several coils that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from mrihvae.coils.settings import MAX_REPETITIONS, CoilSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": "magic"}, "maps 'magic' is unknown; choose one of fast, espirit"),
        ({"output": "sos"}, "output 'sos' is unknown; choose one of rss, combined"),
        ({"compress": -1}, "compress -1 must be at least 0, and crop 0.0 in"),
        ({"crop": 1.0}, "and crop 1.0 in"),
        ({"crop": -0.1}, "and crop -0.1 in"),
    ],
)
def test_bad_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoilSettings(**changes)


@pytest.mark.parametrize("times", [-1, MAX_REPETITIONS + 1])
def test_maps_are_refined_a_few_times_at_most(times: int) -> None:
    with pytest.raises(ValueError, match=f"refine_maps {times} must be 0 to 10"):
        CoilSettings(refine_maps=times)
    assert CoilSettings(refine_maps=MAX_REPETITIONS, compress=0, crop=0.999)  # the ends of what is allowed

"""Settings with which nothing can be simulated, and those that just can."""

from __future__ import annotations

from typing import Any

import pytest

from mrihvae.errors import InputError
from mrihvae.simulation.settings import ScannerSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coils": 0}, "coils 0: must be at least 1"),
        ({"fields": "flat"}, "fields 'flat' are unknown; choose one of birdcage, random"),
        ({"matrix": 15}, "matrix 15: must be 16 to 4096"),
        ({"matrix": 4097}, "matrix 4097: must be 16 to 4096"),
        ({"noise": -0.1}, "noise -0.1: must be a number of at least 0"),
        ({"noise": float("nan")}, "noise nan: must be a number of at least 0"),
        ({"noise": float("inf")}, "noise inf: must be a number of at least 0"),
        ({"seed": -1}, "seed -1: must be 0 to 4294967295"),
        ({"seed": 2**32}, "seed 4294967296: must be 0 to 4294967295"),
        ({"coils": 4, "noise_correlation": 1.0}, "noise correlation 1.0: must be at least 0 and below 1"),
        ({"coils": 4, "noise_correlation": -0.1}, "noise correlation -0.1: must be at least 0 and below 1"),
        ({"noise_correlation": 0.3}, "noise correlation: takes several coils; leave it out"),
        ({"coils": 4, "noise": 0.0, "noise_correlation": 0.3}, "noise correlation: takes noise above 0; leave it out"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ScannerSettings(**changes)
    assert str(caught.value) == message


def test_the_ends_of_what_is_allowed() -> None:
    for changes in ({"matrix": 16}, {"matrix": 4096}, {"noise": 0.0}, {"seed": 2**32 - 1}):
        assert vars(ScannerSettings(**changes)).items() >= changes.items()  # type: ignore[arg-type]
    assert ScannerSettings(coils=2, noise_correlation=0.0).noise_correlation == 0.0

"""Settings of several coils that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from mrihvae.coils.settings import CoilSettings


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

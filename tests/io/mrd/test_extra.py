"""What takes the package `ismrmrd`, without it."""

from __future__ import annotations

import pytest

from mrihvae.errors import InputError
from mrihvae.io.mrd import extra


def test_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: object())
    extra.require_ismrmrd("mrihvae serve")
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        extra.require_ismrmrd("mrihvae serve")
    assert str(caught.value) == "mrihvae serve: needs the package ismrmrd; pip install 'mrihvae[mrd]'"

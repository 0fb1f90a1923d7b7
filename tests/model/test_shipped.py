"""Weights that come with the package, by name and by number of coils."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrihvae.errors import InputError
from mrihvae.model import shipped
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import save_weights
from tests.support.small import small_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Weights of a small network."""
    path = tmp_path / "folder" / "small.v1.safetensors"
    save_weights(path, small_model(), {"steps": 7, "data": ["a", "b"]})
    return path


def test_weights_by_number_of_coils() -> None:
    assert (shipped.weights_for(1), shipped.weights_for(2), shipped.weights_for(15)) == ("default", *["multicoil"] * 2)
    assert find_weights(shipped.weights_for(4)).is_file()


def test_shipped_weights_are_found_by_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "SHIPPED", path.parent)
    assert find_weights("small.v1") == path
    assert find_weights(str(path)) == path
    with pytest.raises(InputError) as caught:
        find_weights("large")
    assert str(caught.value) == ("large: neither shipped weights (small.v1) nor a .safetensors file; give one of them")


def test_a_path_takes_the_suffix_of_weights(tmp_path: Path) -> None:
    other = tmp_path / "weights.bin"
    other.write_bytes(b"")
    with pytest.raises(InputError, match="weights.bin: neither shipped weights"):
        find_weights(str(other))

"""What messages of errors are made of."""

from __future__ import annotations

import pytest

from mrihvae.errors import InputError, nearest, reason


def test_an_input_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="^a.h5: file not found$"):
        raise InputError("a.h5: file not found")


def test_reason_is_one_line() -> None:
    error = RuntimeError(" first \nsecond\nlast\t")
    assert (reason(error), reason(error, 1), reason(error, -1)) == ("first", "second", "last")
    assert reason(MemoryError()) == "MemoryError"  # without a message
    assert reason(KeyError("a")) == "'a'"


def test_nearest_is_found_however_far_it_is() -> None:
    assert nearest("widht", ("layers", "width", "depth")) == "width"
    assert nearest("###", iter(("layers",))) == "layers"

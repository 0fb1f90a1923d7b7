"""Bytes that are held for all connections together."""

from __future__ import annotations

import pytest

pytest.importorskip("ismrmrd")

from mrihvae.errors import InputError
from mrihvae.server.budget import Account, Budget


def test_what_is_held_is_counted_and_limited() -> None:
    budget = Budget(100)
    one, other = Account(budget), Account(budget)
    one.hold(60)
    other.hold(40)
    assert budget.held == 100
    with pytest.raises(
        InputError, match=r"^stream: all connections together would hold more than .* --max-total-memory"
    ):
        other.hold(41)
    assert (budget.held, other.held) == (100, 40)  # as before
    one.hold(10)
    other.hold(90)
    one.hold(0)
    other.hold(0)
    assert budget.held == 0


def test_without_a_limit() -> None:
    budget = Budget()
    Account(budget).hold(2**50)
    assert budget.held == 2**50

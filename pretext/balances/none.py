"""No balance: every factor is 1."""

from __future__ import annotations

from pretext.balance import Balance, Weighting
from pretext.registration import BALANCES


@BALANCES.register("none")
class NoBalance(Balance):
    """Leaves every loss unchanged."""

    def build(self, tasks: int, seed: int) -> Weighting:
        return Weighting(tasks)

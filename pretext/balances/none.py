"""Every loss as it is."""

from __future__ import annotations

from pretext.balance import Balance, Weighting
from pretext.registration import BALANCES


@BALANCES.register("none")
class NoBalance(Balance):
    """Every loss as it is."""

    def build(self, tasks: int, seed: int) -> Weighting:
        return Weighting(tasks)

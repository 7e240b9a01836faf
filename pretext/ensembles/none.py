"""No ensemble."""

from __future__ import annotations

from pretext.ensemble import Ensemble, EnsembleState, Run
from pretext.registration import ENSEMBLES


@ENSEMBLES.register("none")
class NoEnsemble(Ensemble):
    """No ensemble."""

    acts = False

    def build(self, run: Run) -> EnsembleState:
        return EnsembleState()

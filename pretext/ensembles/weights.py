"""The average of the weights over the steps, which is evaluated and exported."""

from __future__ import annotations

import contextlib

from plugins import option
from pretext.ensemble import Ensemble, EnsembleState, Run
from pretext.registration import ENSEMBLES
from pretext.weights_average import WeightsAverage


@ENSEMBLES.register("weights")
class Weights(Ensemble):
    """Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017: the exponential
    average of all trained weights over the steps.

    Args:
        average_decay: decay of the weights' average at each step.
    """

    paper = "Tarvainen & Valpola, NeurIPS 2017, arXiv 1703.01780"

    average_decay: float = option(0.99, minimum=0, maximum=0.99999)

    def build(self, run: Run) -> EnsembleState:
        return WeightsState(self, run)


class WeightsState(EnsembleState):
    """The average of all trained weights."""

    def __init__(self, settings: Weights, run: Run):
        super().__init__(name="weights")
        self.average = WeightsAverage(run.variables, settings.average_decay)

    def end_step(self) -> None:
        self.average.update()

    def applied(self) -> contextlib.AbstractContextManager[None]:
        return self.average.applied()

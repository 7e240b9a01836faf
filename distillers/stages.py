"""The stages of a run: which losses take part in each, and for which epochs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from distillers.loss import Combination, Loss, Stage
from registry import UserError


@dataclasses.dataclass(frozen=True)
class Term:
    """A distillation loss that takes part in a stage.

    Attributes:
        loss: the method's, built for the networks.
        stage: the stage as this method declares it.
        prefix: of the method's metrics, where there are several methods.
    """

    loss: Loss
    stage: Stage
    prefix: str = ""

    @property
    def name(self) -> str:
        """The method's name."""
        return self.loss.method.name

    @property
    def clips(self) -> bool:
        """Whether its gradient is clipped against the main task's."""
        combination = self.stage.combination or self.loss.method.combination
        return combination is Combination.CLIP


@dataclasses.dataclass(frozen=True)
class RunStage:
    """A stage of a run with one method or a sum of several.

    Attributes:
        lead: as declared by the method that has stages.
        terms: the losses that take part.
        main_weight: of the main task's loss.
    """

    lead: Stage
    terms: tuple[Term, ...]
    main_weight: float

    @property
    def name(self) -> str:
        """Shown while it runs."""
        return self.lead.name

    @property
    def distils(self) -> bool:
        """Whether there is a distillation loss in it."""
        return bool(self.terms)

    @property
    def clips(self) -> bool:
        """Whether any term's gradient is clipped against the main task's."""
        return self.main_weight > 0 and any(term.clips for term in self.terms)


@dataclasses.dataclass(frozen=True)
class Part:
    """The epochs of a run that a stage takes.

    Attributes:
        stage: what is trained.
        first, last: epochs ``first`` to ``last - 1``.
        begins_anew: whether optimizer and learning rate schedule start with it.
        schedule_first, schedule_last: the epochs of the schedule that it is a part of.
    """

    stage: RunStage
    first: int
    last: int
    begins_anew: bool
    schedule_first: int
    schedule_last: int


def run_stages(losses: Sequence[Loss]) -> list[RunStage]:
    """The stages of a run with these losses.

    One of them may have several stages. The others then take part in those with a main loss, whose
    weight is the product of those that the methods give it.

    Raises:
        UserError: two of the losses have stages.
    """
    staged = [loss for loss in losses if len(loss.stages) > 1]
    if len(staged) > 1:
        names = " and ".join(loss.method.name for loss in staged)
        raise UserError(f"a sum can have one method with stages, not {names}")
    leading = staged[0] if staged else losses[0]
    stages = []
    for lead in leading.stages:
        own = [
            Term(
                loss, lead if loss is leading else loss.stages[0],
                f"{loss.method.name}_" if len(losses) > 1 else "",
            )
            for loss in losses if loss is leading or lead.main_weight > 0
        ]
        terms = tuple(term for term in own if term.stage.loss is not None and term.stage.weight > 0)
        weight = math.prod(term.stage.main_weight for term in own)
        stages.append(RunStage(lead, terms, weight))
    return stages


def parts_of_run(stages: Sequence[RunStage], epochs: int) -> list[Part]:
    """Which epochs each stage takes; each has one epoch at least.

    Raises:
        UserError: there are fewer epochs than stages.
    """
    ends = stage_ends([stage.lead for stage in stages], epochs)
    firsts = [0, *ends[:-1]]
    anew = [first == 0 or s.lead.new_optimizer for first, s in zip(firsts, stages, strict=True)]
    parts = []
    for i, stage in enumerate(stages):
        begin = max(j for j in range(i + 1) if anew[j])
        later = [j for j in range(i + 1, len(stages)) if anew[j]]
        end = firsts[later[0]] if later else epochs
        parts.append(Part(stage, firsts[i], ends[i], anew[i], firsts[begin], end))
    return parts


def stage_ends(stages: Sequence[Stage], epochs: int) -> list[int]:
    """After how many epochs of a run each stage is over; each has one epoch at least.

    Raises:
        UserError: there are fewer epochs than stages.
    """
    if epochs < len(stages):
        names = ", ".join(stage.name for stage in stages)
        raise UserError(
            f"{epochs} epochs, but the method has {len(stages)} stages ({names}), of at least one "
            f"epoch each: train for {len(stages)} epochs or more"
        )
    ends, share = [], 0.0
    for number, stage in enumerate(stages, start=1):
        share += stage.share
        earliest = ends[-1] + 1 if ends else 1
        ends.append(min(max(round(share * epochs), earliest), epochs - len(stages) + number))
    return ends

"""The stages of a run: which losses and which epochs belong to each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from distillers.loss import Combination, Loss, Stage, Trains
from registry import UserError


@dataclasses.dataclass(frozen=True)
class Term:
    """A distillation loss that takes part in a stage.

    Attributes:
        loss: the method's loss, built for the networks.
        stage: this method's own declaration of the stage.
        prefix: prefix of the method's metrics, if there are several methods.
        begins: index of the run's stage in which this loss starts; summed with a multi-stage
            method, a single-stage loss continues through that method's later stages.
    """

    loss: Loss
    stage: Stage
    prefix: str = ""
    begins: int = 0

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
class ClipGroup:
    """Terms whose gradients are clipped as one, ``clip_by_norm(g1, bound ||g0|| sigmoid(epoch))``.

    Attributes:
        bound: the largest norm of their gradient, as a multiple of the main task's.
        begins: the number of the stage from whose first epoch on it rises: that in which the first
            of the terms began.
    """

    bound: float
    begins: int


@dataclasses.dataclass(frozen=True)
class RunStage:
    """A stage of a run with one method or a sum of several.

    Attributes:
        lead: the stage as declared by the method with several stages, or else by the first.
        terms: the losses that take part.
        main_weight: weight of the main task's loss.
    """

    lead: Stage
    terms: tuple[Term, ...]
    main_weight: float

    @property
    def name(self) -> str:
        """The name to show while it runs."""
        return self.lead.name

    @property
    def distils(self) -> bool:
        """Whether it has a distillation loss."""
        return bool(self.terms)

    @property
    def changes_features(self) -> bool:
        """Whether any layer of the student before its classifier is trained."""
        return self.lead.trains in (Trains.ALL, Trains.TO_TAPS)

    @property
    def clips(self) -> bool:
        """Whether any term's gradient is clipped against that of the main task and of the terms
        that are not clipped."""
        clipped = [term.clips for term in self.terms]
        return any(clipped) and (self.main_weight > 0 or not all(clipped))

    @property
    def clip_groups(self) -> tuple[ClipGroup, ...]:
        """The clipped terms: those of the same bound are clipped as one."""
        begins: dict[float, int] = {}
        for term in self.terms:
            if term.clips:
                bound = term.stage.clip
                begins[bound] = min(term.begins, begins.get(bound, term.begins))
        return tuple(ClipGroup(*each) for each in begins.items())


@dataclasses.dataclass(frozen=True)
class Part:
    """A stage and its epochs in a run.

    Attributes:
        stage: the stage.
        first, last: the epochs from ``first`` to ``last - 1``.
        begins_anew: whether optimizer and learning rate schedule restart at its beginning.
        schedule_first, schedule_last: the epochs, in the same form, of the learning rate schedule
            that it belongs to.
    """

    stage: RunStage
    first: int
    last: int
    begins_anew: bool
    schedule_first: int
    schedule_last: int


def run_stages(losses: Sequence[Loss]) -> list[RunStage]:
    """The stages of a run with these losses.

    One of the losses may have several stages. The others then take part in its stages with a main
    loss, or in the last one where it has none. The weight of the main loss is the product of the
    methods' weights for it.

    Raises:
        UserError: two of the losses have stages.
    """
    staged = [loss for loss in losses if len(loss.stages) > 1]
    if len(staged) > 1:
        names = " and ".join(loss.method.name for loss in staged)
        raise UserError(f"a sum can have one method with stages, not {names}")
    leading = staged[0] if staged else losses[0]
    last = len(leading.stages) - 1
    shared = [n for n, lead in enumerate(leading.stages) if lead.main_weight > 0 or n == last]
    stages = []
    for number, lead in enumerate(leading.stages):
        taking_part = []
        for loss in losses:
            prefix = f"{loss.method.name}_" if len(losses) > 1 else ""
            if loss is leading:
                taking_part.append(Term(loss, lead, prefix, begins=number))
            elif number in shared:
                taking_part.append(Term(loss, loss.stages[0], prefix, begins=shared[0]))
        main_weight = math.prod(term.stage.main_weight for term in taking_part)
        terms = tuple(t for t in taking_part if t.stage.loss is not None and t.stage.weight > 0)
        stages.append(RunStage(lead, terms, main_weight))
    return stages


def check_stages(stages: Sequence[RunStage], method: str, main_loss: str) -> None:
    """Raise UserError where a stage has nothing to learn from.

    Args:
        stages: of the run.
        method: its name, for the message.
        main_loss: ``"cross_entropy"`` or ``"none"``.
    """
    for stage in stages:
        if not stage.terms and (main_loss == "none" or not stage.main_weight):
            raise UserError(
                f"stage {stage.name!r} of {method} learns from the main loss alone, and there is "
                "none: leave out --main_loss none, or give other weights or another method"
            )


def first_epochs(stages: Sequence[RunStage], epochs: int) -> list[int]:
    """The epoch of the run in which each stage begins. Raises UserError as `parts_of_run`."""
    return [0, *stage_ends([stage.lead for stage in stages], epochs)[:-1]]


def parts_of_run(stages: Sequence[RunStage], epochs: int) -> list[Part]:
    """Assign the epochs of a run to its stages, at least one each.

    Raises:
        UserError: there are fewer epochs than stages.
    """
    firsts = first_epochs(stages, epochs)
    ends = [*firsts[1:], epochs]
    anew = [first == 0 or s.lead.new_optimizer for first, s in zip(firsts, stages, strict=True)]
    parts = []
    for i, stage in enumerate(stages):
        begin = max(j for j in range(i + 1) if anew[j])
        later = [j for j in range(i + 1, len(stages)) if anew[j]]
        end = firsts[later[0]] if later else epochs
        parts.append(Part(stage, firsts[i], ends[i], anew[i], firsts[begin], end))
    return parts


def stage_ends(stages: Sequence[Stage], epochs: int) -> list[int]:
    """After how many epochs of the run each stage ends. Each has at least one epoch.

    Raises:
        UserError: there are fewer epochs than stages.
    """
    if epochs < len(stages):
        names = ", ".join(stage.name for stage in stages)
        raise UserError(
            f"{epochs} epochs, but the method has {len(stages)} stages ({names}), which need at "
            f"least one epoch each: train for {len(stages)} epochs or more"
        )
    ends, share = [], 0.0
    for number, stage in enumerate(stages, start=1):
        share += stage.share
        earliest = ends[-1] + 1 if ends else 1
        ends.append(min(max(round(share * epochs), earliest), epochs - len(stages) + number))
    return ends

"""The base class of target tasks, which measure how useful an encoder's features are."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dataloader import Data, Scenes
from plugins import Plugin
from registry import Registry
from targets.embeddings import Representation

if TYPE_CHECKING:
    from targets.detection import Detections

TARGETS = Registry("target task")


@dataclasses.dataclass(frozen=True)
class Material:
    """The data that encoders are scored on.

    Attributes:
        data: images with classes; None if no target needs them.
        scenes: images with boxes; None if no target needs them.
    """

    data: Data | None = None
    scenes: Scenes | None = None

    def facts(self) -> dict[str, Any]:
        """Facts that change if the data change between two parts of a run."""
        parts = [part.facts() for part in (self.data, self.scenes) if part is not None]
        return {name: value for part in parts for name, value in part.items()}


@dataclasses.dataclass(frozen=True)
class Score:
    """A target's result for one encoder and seed.

    Attributes:
        metrics: values in 0..1, by name.
        detections: the detections in the test scenes, for pictures; None for other targets.
    """

    metrics: dict[str, float]
    detections: Detections | None = None


class Target(Plugin):
    """A target task. Its fields are its hyper-parameters.

    Attributes:
        needs_classes: whether it needs images with classes.
        needs_scenes: whether it needs images with boxes.
        needs_maps: whether it needs a network with feature maps (`nets.Encoder`). It skips encoders
            without them, for example raw pixels.
        columns: the metrics that tables show, with the titles of their columns.
        ranked: the main metrics. Encoders are ranked by them, the largest first.
        explanation: a short phrase that explains its table.
    """

    needs_classes: ClassVar[bool] = False
    needs_scenes: ClassVar[bool] = False
    needs_maps: ClassVar[bool] = False
    columns: ClassVar[Mapping[str, str]] = {}
    ranked: ClassVar[tuple[str, ...]] = ()
    explanation: ClassVar[str] = ""

    @classmethod
    def columns_of(cls, metrics: Collection[str]) -> dict[str, str]:
        """The columns for those of `metrics` that tables show, with their titles."""
        return {metric: title for metric, title in cls.columns.items() if metric in metrics}

    @classmethod
    def explain(cls, metrics: Collection[str]) -> str:
        """A short phrase that explains a table of `metrics`."""
        return cls.explanation

    def check_material(self, material: Material) -> None:
        """Raise UserError if encoders cannot be scored on `material`."""

    def score(self, encoder: Representation, material: Material, seed: int) -> Score:
        """Score an encoder without changing it.

        Args:
            encoder: the encoder to score.
            material: the data that the target needs.
            seed: random seed for all randomness.

        Raises:
            UserError: the encoder cannot be scored on `material`.
        """
        raise NotImplementedError

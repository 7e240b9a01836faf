"""What every target task is: a measure of what an encoder's features are worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar

from dataloader import Data, Scenes
from plugins import Plugin
from registry import Registry
from targets.embeddings import Representation

if TYPE_CHECKING:
    from targets.detection import Detections

TARGETS = Registry("target task")


@dataclasses.dataclass(frozen=True)
class Material:
    """What encoders are scored on.

    Attributes:
        data: images with classes; None if no target needs them.
        scenes: images with boxes; None if no target needs them.
    """

    data: Data | None = None
    scenes: Scenes | None = None


@dataclasses.dataclass(frozen=True)
class Score:
    """What a target finds for one encoder and seed.

    Attributes:
        metrics: by name, in 0..1.
        detections: what was found in the test scenes, to be drawn; None if nothing was looked for.
    """

    metrics: dict[str, float]
    detections: Detections | None = None


class Target(Plugin):
    """A target task. Its fields are its hyper-parameters.

    Attributes:
        needs_classes: whether it needs images with classes.
        needs_scenes: whether it needs images with boxes.
        needs_maps: whether it needs a network with feature maps (`nets.Encoder`). Encoders without
            them, such as raw pixels, are left out.
        columns: the metrics that tables show, with the titles of their columns.
        ranked: the main metrics, by which encoders are ranked, the largest first.
        explanation: of its table, half a sentence.
    """

    needs_classes: ClassVar[bool] = False
    needs_scenes: ClassVar[bool] = False
    needs_maps: ClassVar[bool] = False
    columns: ClassVar[Mapping[str, str]] = {}
    ranked: ClassVar[tuple[str, ...]] = ()
    explanation: ClassVar[str] = ""

    @classmethod
    def columns_of(cls, metrics: Collection[str]) -> dict[str, str]:
        """The columns that show some of `metrics`, with their titles."""
        return {metric: title for metric, title in cls.columns.items() if metric in metrics}

    @classmethod
    def explain(cls, metrics: Collection[str]) -> str:
        """What a table of `metrics` shows, half a sentence."""
        return cls.explanation

    def check_material(self, material: Material) -> None:
        """Raise UserError if encoders cannot be scored on `material`."""

    def score(self, encoder: Representation, material: Material, seed: int) -> Score:
        """Score an encoder, which does not change.

        Args:
            encoder: to be scored.
            material: has what the target needs.
            seed: of everything that is random.

        Raises:
            UserError: the encoder cannot be scored on `material`.
        """
        raise NotImplementedError

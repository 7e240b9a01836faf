"""Scores encoders by target tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import nets
from targets.embeddings import Representation
from targets.target import Material, Score, Target


def score(
    targets: Sequence[Target], encoder: Representation, material: Material, seed: int
) -> Iterator[tuple[str, Score]]:
    """Each target's name and score. A target that the encoder cannot serve, because it has no
    feature maps, is left out."""
    for target in targets:
        if not target.needs_maps or isinstance(encoder, nets.Encoder):
            yield target.name, target.score(encoder, material, seed)

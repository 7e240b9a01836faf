"""Scores encoders on target tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import nets
from targets.embeddings import Representation
from targets.target import Material, Score, Target


def score(
    targets: Sequence[Target], encoder: Representation, material: Material, seed: int
) -> Iterator[tuple[str, Score]]:
    """Yield each target's name and score.

    Targets that need feature maps are skipped if the encoder has none.
    """
    for target in targets:
        if not target.needs_maps or isinstance(encoder, nets.Encoder):
            yield target.name, target.score(encoder, material, seed)

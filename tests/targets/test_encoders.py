"""What is refused of encoders before anything is scored."""

from types import SimpleNamespace

import pytest

from registry import UserError
from targets.encoders import check_backbone
from tests.pretext.models import SHAPE, encoder


@pytest.mark.parametrize(
    ("taken", "channels", "fits"),
    [(3, 3, True), (3, 1, True), (3, 4, False), (1, 3, True), (1, 4, False)],
)
def test_a_detectors_backbone_takes_the_scenes_channels(taken, channels, fits):
    """Grey scenes can be shown in colours, and scenes in colours in grey."""
    own = encoder(shape=(*SHAPE[:2], taken))
    scenes = SimpleNamespace(name="voc", image_shape=(32, 32, channels))
    if fits:
        check_backbone(own, scenes)
    else:
        with pytest.raises(UserError, match=f"takes images of {taken} channels, and .* voc have 4"):
            check_backbone(own, scenes)

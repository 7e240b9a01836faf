"""What is refused of encoders before anything is scored."""

from types import SimpleNamespace

import pytest

from registry import UserError
from targets.encoders import check_backbone
from tests.pretext.models import encoder


@pytest.mark.parametrize(("channels", "fits"), [(3, True), (1, True), (4, False)])
def test_a_detectors_backbone_takes_the_scenes_channels(channels, fits):
    """Grey scenes can be shown in colours, but no others."""
    own = encoder()
    scenes = SimpleNamespace(name="voc", image_shape=(32, 32, channels))
    assert own.image_shape[-1] == 3
    if fits:
        check_backbone(own, scenes)
    else:
        with pytest.raises(UserError, match="takes images of 3 channels, and .* voc have 4"):
            check_backbone(own, scenes)

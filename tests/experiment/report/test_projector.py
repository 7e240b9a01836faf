"""What TensorBoard's projector is given, read by TensorBoard's own message."""

import matplotlib.image
import numpy as np
import pytest
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.plugins.projector.projector_plugin import text_format

from experiment.report.projector import write_projector


@pytest.mark.parametrize("channels", [1, 3])
def test_embeddings_labels_and_images_belong_together(tmp_path, channels):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, [5, 6, 4, channels]).astype(np.uint8)
    vectors = {"one": random.normal(size=[5, 3]), 'two': random.normal(size=[5, 2])}
    write_projector(tmp_path, vectors, images, list("abcde"))
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert [each.tensor_name for each in config.embeddings] == ["one", "two"]
    for each, expected in zip(config.embeddings, vectors.values(), strict=True):
        np.testing.assert_allclose(np.loadtxt(tmp_path / each.tensor_path), expected, rtol=1e-5)
        assert (tmp_path / each.metadata_path).read_text().split() == list("abcde")
        width, height = each.sprite.single_image_dim
        sprite = matplotlib.image.imread(tmp_path / each.sprite.image_path)[..., :3]
        assert sprite.shape[:2] == (3 * height, 3 * width)
        for place, image in enumerate(images):
            row, column = divmod(place, 3)
            shown = sprite[row * height : (row + 1) * height, column * width : (column + 1) * width]
            np.testing.assert_array_equal(np.round(255 * shown), np.broadcast_to(image, (6, 4, 3)))

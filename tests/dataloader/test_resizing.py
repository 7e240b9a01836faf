import numpy as np

from dataloader.resizing import resized_array


def test_without_a_size_images_keep_their_own():
    floats = np.linspace(0, 255, 2 * 3 * 4).reshape(2, 3, 4, 1)
    found = resized_array(floats, None)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, floats, atol=0.5)
    assert resized_array(found, None) is found

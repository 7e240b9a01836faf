"""What numbers a model expects, by its layers or its name."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets

RAW = nets.Standardize((0.0,) * 3, (1.0,) * 3)
UNIT = nets.Standardize((0.0,) * 3, (255.0,) * 3)
LAYERS = keras.layers


def normalization(low, high):
    layer = LAYERS.Normalization()
    layer.adapt(np.random.default_rng(0).uniform(low, high, (20, 8, 8, 3)))
    return layer


def body(*layers):
    image = keras.Input((8, 8, 3))
    tensor = image
    for layer in layers:
        tensor = layer(tensor)
    maps = LAYERS.Conv2D(4, 3, name="conv")(tensor)
    return keras.Model(image, LAYERS.GlobalAveragePooling2D()(maps), name="own")


def within(model):
    return keras.Sequential([keras.Input((8, 8, 3)), LAYERS.RandomFlip(), model], name="outer")


def augmented(layer):
    augmentation = keras.Sequential([LAYERS.RandomFlip(), LAYERS.RandomRotation(0.1)])
    return body(augmentation, LAYERS.Resizing(8, 8), layer)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: body(LAYERS.Rescaling(1 / 255)), RAW),
        (lambda: body(LAYERS.Rescaling(1 / 127.5, -1)), RAW),
        (lambda: body(LAYERS.Rescaling(255.0)), UNIT),
        (lambda: body(LAYERS.Rescaling(2.0, -1.0)), UNIT),
        (lambda: body(LAYERS.Rescaling([4.4, 4.5, 4.4], [-2.1, -1.9, -1.8])), UNIT),
        (lambda: body(LAYERS.Rescaling(2.0)), None),
        (lambda: body(LAYERS.Rescaling(1.0, 1.0)), None),
        (lambda: body(LAYERS.Rescaling(255.0), LAYERS.Rescaling(1 / 127.5)), UNIT),
        (lambda: body(LAYERS.Rescaling([1 / 255] * 3)), RAW),
        (lambda: body(normalization(0, 255)), RAW),
        (lambda: body(normalization(0, 1)), UNIT),
        (lambda: body(normalization(-1, 1)), None),
        (lambda: body(LAYERS.Normalization(mean=[120.0] * 3, variance=[3000.0] * 3)), RAW),
        (lambda: body(LAYERS.Normalization(), LAYERS.Rescaling(1 / 255)), RAW),
        (lambda: body(lambda x: x / 255), RAW),
        (lambda: body(lambda x: keras.ops.multiply(x, 1 / 127.5), lambda x: x - 1.0), RAW),
        (lambda: body(lambda x: x - 128.0), RAW),
        (lambda: body(lambda x: x - tf.constant([123.0, 117.0, 104.0])), RAW),
        (lambda: body(lambda x: x + np.array([-123.0, -117.0, -104.0], "float32")), RAW),
        (lambda: body(APPLICATIONS.resnet50.preprocess_input), RAW),
        (lambda: body(lambda x: keras.ops.concatenate([x[..., :1], x[..., 1:]], -1) / 255), RAW),
        (lambda: body(lambda x: keras.ops.concatenate([x[..., :1], -x[..., 1:]], -1) / 255), None),
        (lambda: augmented(LAYERS.Rescaling(1 / 255)), RAW),
        (lambda: body(LAYERS.RandomContrast(0.2), LAYERS.RandomZoom(0.1),
                      LAYERS.Rescaling(1 / 255)), RAW),
        (lambda: within(body(LAYERS.Rescaling(1 / 255))), RAW),
        (lambda: body(), None),
        (lambda: body(LAYERS.Conv2D(3, 1), LAYERS.Rescaling(1 / 255)), None),
        (lambda: body(LAYERS.Activation("relu"), LAYERS.Rescaling(1 / 255)), None),
        (lambda: nets.build("VGG_student", (16, 16, 3), 5), None),
    ],
)
def test_by_its_first_layers(model, expected):
    assert nets.infer_preprocessing(model()) == expected


SIZE = {"weights": None, "input_shape": (75, 75, 3), "classes": 2}
APPLICATIONS = keras.applications


@pytest.mark.parametrize(
    ("build", "module"),
    [
        (APPLICATIONS.MobileNetV2, APPLICATIONS.mobilenet_v2),
        (APPLICATIONS.MobileNetV3Small, APPLICATIONS.mobilenet_v3),
        (APPLICATIONS.EfficientNetB0, APPLICATIONS.efficientnet),
        (APPLICATIONS.EfficientNetV2B0, APPLICATIONS.efficientnet_v2),
        (APPLICATIONS.ConvNeXtTiny, APPLICATIONS.convnext),
        (APPLICATIONS.DenseNet121, APPLICATIONS.densenet),
        (APPLICATIONS.ResNet50V2, APPLICATIONS.resnet_v2),
    ],
)
@pytest.mark.slow
def test_of_keras_applications_it_is_what_the_module_does(build, module):
    found = nets.infer_preprocessing(build(**SIZE))
    images = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype("float32")
    np.testing.assert_allclose(found(images), module.preprocess_input(images.copy()), atol=1e-3)


def named(name):
    model = body()
    return keras.Model(model.input, model.output, name=name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mobilenet_1.00_224", "tf"), ("mobilenetv2_0.35_96", "tf"), ("xception", "tf"),
        ("inception_v3", "tf"), ("NASNet", "tf"), ("resnet101v2", "tf"), ("densenet201", "torch"),
        ("efficientnetv2-b0", "tf"), ("resnet50", None), ("vgg16", None), ("my_resnet50v2", None),
    ],
)
def test_by_its_name_alone_or_as_a_part(name, kind):
    ones = (1.0,) * 3
    expected = kind and nets.named_preprocessing(kind, ones, ones)
    assert nets.infer_preprocessing(named(name)) == expected
    assert nets.infer_preprocessing(within(named(name))) == expected
    rescaling = LAYERS.Rescaling(1 / 127.5, -1)
    scaled = keras.Sequential([keras.Input((8, 8, 3)), rescaling, named(name)])
    assert nets.infer_preprocessing(scaled) == RAW


def test_whole_numbers_are_raw_images():
    image = keras.Input((8, 8, 3), dtype="uint8")
    maps = keras.layers.BatchNormalization()(keras.ops.cast(image, "float32"))
    found = nets.infer_preprocessing(keras.Model(image, maps))
    assert (found.mean, found.deviation) == ((0.0,) * 3, (1.0,) * 3)

"""Networks read from run folders, models, weights and the published code's `.mat` files."""

import functools
import json
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
import scipy.io
import tensorflow as tf

import nets
from nets import stored
from nets.weights import fill_from_mat
from registry import UserError

SHAPE = (16, 16, 3)
VGG = {"net": "VGG_teacher", "input_shape": SHAPE, "classes": 5}
# Written down from the published teacher: convolutions of each block, in and out channels.
CONVOLUTIONS = [
    [(3, 64), (64, 64)],
    [(64, 128), (128, 128)],
    [(128, 256), (256, 256), (256, 256)],
    [(256, 512), (512, 512), (512, 512)],
]
FULL = [(512, 1024), (1024, 1024), (1024, 5)]


@pytest.fixture(autouse=True)
def float32_policy():
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


def small(name="small", classes=4):
    image = keras.Input((8, 8, 3), name="image")
    maps = keras.layers.Conv2D(6, 3, activation="relu", name="maps")(image)
    maps = keras.layers.BatchNormalization(name="norm")(maps)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(maps)
    return keras.Model(image, keras.layers.Dense(classes, name="scores")(pooled), name=name)


def images(shape=(8, 8, 3), count=3):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype("float32")


def refusal(path, **arguments):
    """The error of loading `path`, which must be one line that names it."""
    with pytest.raises(UserError) as caught:
        nets.load(path, **arguments)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 500
    return message


def run_folder(path, model=None, **summary):
    path.mkdir()
    (path / "settings.json").write_text("{}")
    (path / "summary.json").write_text(json.dumps(summary))
    (model or small()).save(path / "student.keras")
    return path


# Run folders


def test_a_run_folder_brings_model_and_preprocessing(tmp_path):
    model = small()
    preprocessing = {"mean": [1.0, 2.0, 3.5], "deviation": [4, 5, 6]}
    folder = run_folder(tmp_path / "run", model, preprocessing=preprocessing)
    stored = nets.load(folder)
    np.testing.assert_array_equal(stored.model(images()), model(images()))
    assert stored.standardize == nets.Standardize((1.0, 2.0, 3.5), (4.0, 5.0, 6.0))
    assert stored.has_logits


def test_a_run_folder_may_state_a_size_or_no_preprocessing(tmp_path):
    preprocessing = {"mean": [1], "deviation": [2], "size": [8, 9], "reverses": True}
    sized = nets.load(run_folder(tmp_path / "sized", preprocessing=preprocessing))
    assert sized.standardize == nets.Standardize((1.0,), (2.0,), (8, 9), reverses=True)
    assert nets.load(run_folder(tmp_path / "none")).standardize is None


@pytest.mark.parametrize("summary", ["{", "[]", '{"preprocessing": {"mean": [1]}}'])
def test_a_damaged_summary_is_refused(tmp_path, summary):
    folder = run_folder(tmp_path / "run")
    (folder / "summary.json").write_text(summary)
    assert "damaged" in refusal(folder)


def test_folders_without_a_finished_run_are_refused(tmp_path):
    unfinished = run_folder(tmp_path / "unfinished")
    (unfinished / "summary.json").unlink()
    assert "not finished" in refusal(unfinished)
    without_model = run_folder(tmp_path / "without")
    (without_model / "student.keras").unlink()
    assert "no student.keras" in refusal(without_model)
    (tmp_path / "empty").mkdir()
    assert "no finished run" in refusal(tmp_path / "empty")


# Whole models


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_model_is_as_it_was_saved(tmp_path, ending):
    model = small("mine")
    model.compile("sgd", "mse")
    model.save(tmp_path / f"model{ending}")
    stored = nets.load(tmp_path / f"model{ending}")
    np.testing.assert_array_equal(stored.model(images()), model(images()))
    assert stored.model.name == "mine" and not stored.model.compiled
    assert stored.standardize is None and stored.has_logits


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("saved, current", [("mixed_bfloat16", "float32"), ("float32", "float16")])
def test_a_model_keeps_its_policy(tmp_path, ending, saved, current):
    keras.config.set_dtype_policy(saved)
    model = small()
    expected = np.asarray(keras.ops.cast(model(images()), "float32"))
    model.save(tmp_path / f"model{ending}")
    keras.config.set_dtype_policy(current)
    loaded = nets.load(tmp_path / f"model{ending}").model
    assert keras.config.dtype_policy().name == current
    assert loaded.get_layer("maps").dtype_policy.name == saved
    given = loaded(images())
    assert keras.backend.standardize_dtype(given.dtype) == saved.removeprefix("mixed_")
    np.testing.assert_array_equal(keras.ops.cast(given, "float32"), expected)


def test_the_policy_is_restored_after_a_failure(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    (tmp_path / "model.keras").write_text("nothing")
    refusal(tmp_path / "model.keras")
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_python_code_is_refused(tmp_path, ending):
    image = keras.Input((4,))
    keras.Model(image, keras.layers.Lambda(lambda x: 2 * x)(image)).save(tmp_path / f"m{ending}")
    assert "Lambda" in refusal(tmp_path / f"m{ending}")


class Foreign(keras.layers.Layer):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_an_unknown_layer_is_named(tmp_path, ending):
    image = keras.Input((4,))
    keras.Model(image, Foreign()(image)).save(tmp_path / f"model{ending}")
    assert "'Foreign'" in refusal(tmp_path / f"model{ending}")


@keras.saving.register_keras_serializable("test_stored")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layer = keras.layers.Dense(2)

    def call(self, inputs):
        return self.layer(inputs)


def test_a_model_that_is_not_functional_is_refused(tmp_path):
    model = Subclassed()
    model(np.zeros((1, 3), "float32"))
    model.save(tmp_path / "model.keras")
    assert "not functional" in refusal(tmp_path / "model.keras")


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.weights.h5", "model.mat"])
def test_damaged_files_are_refused(tmp_path, name):
    (tmp_path / name).write_text("something else")
    assert "damaged" in refusal(tmp_path / name, **VGG)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_truncated_models_are_refused(tmp_path, ending):
    path = tmp_path / f"model{ending}"
    small().save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "damaged" in refusal(path)


def test_missing_files_and_unknown_endings_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nothing.keras")
    (tmp_path / "model.onnx").write_text("")
    message = refusal(tmp_path / "model.onnx")
    assert all(kind in message for kind in (".keras", ".weights.h5", ".mat", "run"))


# Weights


@pytest.mark.parametrize("net", ["VGG_stride_student", "MobileNet_student"])
@pytest.mark.parametrize("name", ["net.weights.h5", "renamed.h5"])
def test_weights_go_into_the_named_network(tmp_path, net, name):
    model = nets.build(net, SHAPE, 5)
    rng = np.random.default_rng(0)
    for variable in model.weights:  # Statistics of batch normalisation among them.
        variable.assign(rng.uniform(0.01, 0.1, variable.shape))
    model.save_weights(tmp_path / "net.weights.h5")
    (tmp_path / "net.weights.h5").rename(tmp_path / name)
    stored = nets.load(tmp_path / name, net=net, input_shape=SHAPE, classes=5)
    assert stored.model.name == net and stored.standardize is None and stored.has_logits
    for variable, expected in zip(stored.model.weights, model.weights, strict=True):
        np.testing.assert_array_equal(variable, expected)


def test_options_are_the_networks(tmp_path):
    model = nets.build("MobileNet_student", SHAPE, 5, width=8)
    model.save_weights(tmp_path / "net.weights.h5")
    known = {"net": "MobileNet_student", "input_shape": SHAPE, "classes": 5}
    nets.load(tmp_path / "net.weights.h5", **known, options={"width": 8})
    assert "(1, 1, 64, 8)" in refusal(tmp_path / "net.weights.h5", **known)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "net.weights.h5"
    nets.build("VGG_student", SHAPE, 5).save_weights(path)
    known = {"net": "VGG_student", "input_shape": SHAPE}
    message = refusal(path, **known, classes=7)
    assert "logits/kernel" in message and "(1024, 5)" in message and "(1024, 7)" in message
    message = refusal(path, net="VGG_student", input_shape=(16, 16, 1), classes=5)
    assert "block1_conv1" in message and "(3, 3, 3, 64)" in message and "(3, 3, 1, 64)" in message
    # All layers of the student fit the teacher's of the same name, but these are not there.
    assert "nothing for block1_conv2/kernel" in refusal(path, **VGG)
    nets.build("VGG_teacher", SHAPE, 5).save_weights(tmp_path / "teacher.weights.h5")
    assert "block1_conv2" in refusal(tmp_path / "teacher.weights.h5", **known, classes=5)
    assert "VGG_student" in refusal(path) and "input_shape" in refusal(path, net="VGG_student")


def test_an_h5_file_of_something_else_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    assert "no weights" in refusal(tmp_path / "other.h5", **VGG)


# The published code's variables


@functools.cache
def published(full=True):
    """Variables as the published code names and saves them; not to be changed."""
    rng = np.random.default_rng(0)
    variables = {}
    for block, pairs in enumerate(CONVOLUTIONS):
        for i, (inputs, outputs) in enumerate(pairs):
            name = f"vgg6/block{block}/conv{i}"
            variables[f"{name}/weights"] = rng.normal(size=(3, 3, inputs, outputs)) * 0.05
            variables[f"{name}/biases"] = rng.normal(size=outputs)
    for i, shape in enumerate(FULL if full else [], start=1):
        variables[f"vgg6/full{i}/weights"] = rng.normal(size=shape) * 0.05
        variables[f"vgg6/full{i}/biases"] = rng.normal(size=shape[1])
    return {key: value.astype("float32") for key, value in variables.items()}


def save(path, variables):
    scipy.io.savemat(path, variables)
    return path


def check_convolutions(model, variables):
    """The published name of each layer of ours, written down here."""
    for block, pairs in enumerate(CONVOLUTIONS):
        for i in range(len(pairs)):
            kernel, bias = model.get_layer(f"block{block + 1}_conv{i + 1}").get_weights()
            np.testing.assert_array_equal(kernel, variables[f"vgg6/block{block}/conv{i}/weights"])
            np.testing.assert_array_equal(bias, variables[f"vgg6/block{block}/conv{i}/biases"])


def check_full(model, variables):
    for i, name in enumerate(("fc1", "fc2", "logits"), start=1):
        kernel, bias = model.get_layer(name).get_weights()
        np.testing.assert_array_equal(kernel, variables[f"vgg6/full{i}/weights"])
        np.testing.assert_array_equal(bias, variables[f"vgg6/full{i}/biases"])


def test_published_variables_of_all_layers(tmp_path):
    variables = published()
    extra = {
        "global_step": np.array(7),
        "vgg6/block0/conv0/weights/Momentum": np.zeros((3, 3, 3, 64), "float32"),
    }
    # The order in the file says nothing.
    path = save(tmp_path / "teacher.mat", {**extra, **dict(reversed(variables.items()))})
    stored = nets.load(path, **VGG)
    assert stored.has_logits
    check_convolutions(stored.model, variables)
    check_full(stored.model, variables)


def test_published_statistics_are_reversed(tmp_path):
    stored = nets.load(save(tmp_path / "teacher.mat", published()), **VGG)
    colour = np.array([[[[112.4776, 124.1058, 129.3773 + 68.2094]]]], "float32")
    np.testing.assert_allclose(stored.standardize(colour), [[[[0, 0, 1]]]], atol=1e-6)


def test_published_variables_of_convolutions_only(tmp_path):
    variables = published(full=False)
    stored = nets.load(save(tmp_path / "teacher.mat", variables), **VGG)
    assert not stored.has_logits and stored.standardize is not None
    check_convolutions(stored.model, variables)
    # The same, whatever the number of classes.
    assert nets.load(tmp_path / "teacher.mat", **{**VGG, "classes": 9}).model.output_shape[1] == 9


def test_names_with_colon_in_a_struct(tmp_path):
    variables = published()
    nested = {"parameters": {f"{key}:0": value for key, value in variables.items()}}
    stored = nets.load(save(tmp_path / "teacher.mat", nested), **VGG)
    check_convolutions(stored.model, variables)
    check_full(stored.model, variables)


def test_more_than_nine_blocks_come_in_order(tmp_path):
    image = keras.Input((4, 4, 2))
    maps = image
    for i in range(11):
        maps = keras.layers.Conv2D(2, 1, use_bias=False, name=f"conv{i}")(maps)
    model = keras.Model(image, maps)
    variables = {f"block{i}/conv0/weights": np.full((1, 1, 2, 2), i) for i in range(11)}
    fill_from_mat(save(tmp_path / "eleven.mat", variables), model)
    for i in range(11):
        assert (model.get_layer(f"conv{i}").get_weights()[0] == i).all()


def test_grey_images_have_no_published_statistics(tmp_path):
    variables = {**published(), "vgg6/block0/conv0/weights": np.ones((3, 3, 1, 64), "float32")}
    path = save(tmp_path / "teacher.mat", variables)
    stored = nets.load(path, **{**VGG, "input_shape": (16, 16, 1)})
    assert (stored.model.get_layer("block1_conv1").get_weights()[0] == 1).all()
    assert stored.standardize is None


@pytest.mark.parametrize(
    "change, arguments, expected",
    [
        ({}, {"classes": 7}, ["vgg6/full3/weights", "logits", "(1024, 5)", "(1024, 7)"]),
        ({}, {"input_shape": (32, 32, 3)}, ["full1", "fc1", "(512, 1024)", "(2048, 1024)"]),
        ({}, {"net": "VGG_student"}, ["block0/conv1", "(3, 3, 64, 64)", "block2_conv1"]),
        ({}, {"net": "MobileNet_teacher"}, ["MobileNet_teacher", "BatchNormalization"]),
        ({"vgg6/block3/conv2/biases": None}, {}, ["nothing for block4_conv3/bias", "(512,)"]),
        ({"vgg6/full2/weights": None}, {}, ["vgg6/full2/biases", "fc2", "(1024, 1024)"]),
        ({"vgg6/full3/weights": "text"}, {}, ["vgg6/full3/weights", "logits"]),
        (
            {"vgg6/block3/conv3/weights": np.zeros((3, 3, 512, 2))},
            {},
            ["vgg6/block3/conv3/weights", "(3, 3, 512, 2)", "no layer"],
        ),
        ({"vgg6/bn0/gamma": np.zeros(64)}, {}, ["vgg6/bn0/gamma", "(64,)"]),
        ({"student/block0/conv0/biases": np.zeros(64)}, {}, ["student, vgg6"]),
        (dict.fromkeys(published()), {}, ["nothing for block1_conv1/kernel"]),
    ],
)
def test_published_variables_that_do_not_fit_are_refused(tmp_path, change, arguments, expected):
    variables = {k: v for k, v in {**published(), **change}.items() if v is not None}
    message = refusal(save(tmp_path / "teacher.mat", variables), **{**VGG, **arguments})
    for part in expected:
        assert part in message


def test_a_matlab_file_needs_to_know_its_network(tmp_path):
    assert "VGG_teacher" in refusal(save(tmp_path / "teacher.mat", {"a": 1.0}))


def test_layers_are_added_to_a_loaded_model_under_other_names(tmp_path):
    """In a new process Keras begins to number anew, with names that the file has already."""
    image = keras.Input((8, 8, 3))
    patches = keras.layers.Conv2D(6, 2, strides=2)(image)
    tokens = keras.layers.Reshape((16, 6))(patches)
    tokens = keras.layers.ZeroPadding1D((1, 0), name="tokens")(tokens)
    scores = keras.layers.Dense(5, name="scores")(keras.layers.Identity()(tokens[:, 0]))
    keras.Model(image, scores, name="vit").save(tmp_path / "vit.keras")
    keras.utils.clear_session()
    model = nets.load(tmp_path / "vit.keras").model
    features = nets.feature_extractor(model, nets.outputs_of(model, ["tokens"]))
    assert features.output["maps"][0].shape == (None, 4, 4, 6)
    assert nets.with_new_classifier(model, 2).output_shape == (None, 2)


@pytest.mark.parametrize("damaged", [False, True])
def test_warnings_of_keras_come_only_with_a_model(tmp_path, monkeypatch, damaged):
    path = tmp_path / "own.keras"
    image = keras.Input((4, 4, 3))
    keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image))).save(path)
    loaded = keras.saving.load_model(path)

    def load(*_, **__):
        warnings.warn("skipped something", UserWarning, stacklevel=1)
        if damaged:
            raise ValueError("an object could not be loaded")
        return loaded

    monkeypatch.setattr(keras.saving, "load_model", load)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        if damaged:
            with pytest.raises(UserError, match="damaged or not a Keras model"):
                stored.load_model(path)
        else:
            stored.load_model(path)
    assert [str(each.message) for each in shown] == ([] if damaged else ["skipped something"])


def test_names_of_classes_go_into_keras_files_alone(tmp_path):
    for name in ("model.keras", "model.h5"):
        small().save(tmp_path / name)
    before = (tmp_path / "model.h5").read_bytes()
    for name in ("model.h5", "none.keras", "none.h5"):
        with pytest.raises(UserError, match=f"{name} cannot be given the names of its classes"):
            nets.write_class_names(tmp_path / name, ["a", "b", "c", "d"])
    assert (tmp_path / "model.h5").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.h5", "model.keras"]
    nets.write_class_names(tmp_path / "model.keras", ["a", "b", "c", "d"])
    assert nets.load(tmp_path / "model.keras").class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize("name", ["my student 28", "Café", "_under", "Straße 2"])
def test_any_name_of_a_model_is_one_for_tensorflow(tmp_path, name):
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, name="maps")(image)
    logits = keras.layers.Dense(3, name="logits")(keras.layers.GlobalAveragePooling2D()(maps))
    keras.Model(image, logits, name=name).save(tmp_path / "model.keras")
    model = nets.load(tmp_path / "model.keras").model
    extractor = nets.feature_extractor(model, nets.outputs_of(model, ("maps",)))
    images = np.ones((2, 8, 8, 3), "float32")
    for each in (model, extractor):
        tf.function(each)(images)  # opens scopes of their names


def test_a_layer_that_tensorflow_cannot_name_is_refused(tmp_path):
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, name="conv 1")(image)
    keras.Model(image, maps, name="own").save(tmp_path / "model.keras")
    with pytest.raises(UserError, match="layer 'conv 1' of model 'own' has a name that TensorFlow"):
        nets.load(tmp_path / "model.keras")


def attentive(image):
    """A softmax that is an output and a weight of the pooling."""
    maps = keras.layers.Conv2D(4, 3, activation="relu")(image)
    attention = keras.layers.Softmax(axis=(1, 2))(keras.layers.Conv2D(1, 1)(maps))
    return {
        "attention": attention,
        "logits": keras.layers.Dense(5)(keras.ops.sum(attention * maps, axis=(1, 2))),
    }


def embedded(image):
    embedding = keras.layers.Dense(4, activation="sigmoid")(keras.layers.Flatten()(image))
    return {"embedding": embedding, "logits": keras.layers.Dense(5)(embedding)}


def listed(image):
    features = keras.layers.Flatten()(image)
    return [keras.layers.Dense(5, name=name)(features) for name in ("auxiliary", "logits")]


@pytest.mark.parametrize("make", [attentive, embedded, listed])
def test_of_several_outputs_the_logits_are_loaded_as_they_are(tmp_path, make):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, make(image))
    model.save(tmp_path / "several.keras")
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype("float32")
    outputs = model(images)
    logits = outputs[1] if isinstance(outputs, list) else outputs["logits"]
    loaded = nets.load(tmp_path / "several.keras").model
    np.testing.assert_allclose(loaded(images), logits, rtol=1e-5, atol=1e-6)


# Models of Keras 2


def tensors_in(node):
    """Layer, call and output of each tensor that a call takes, as Keras 3 describes it."""
    if isinstance(node, dict) and node.get("class_name") == "__keras_tensor__":
        return [node["config"]["keras_history"]]
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [found for part in parts for found in tensors_in(part)]


def describe_as_keras2(path, version="2.15.0", change=lambda config: None):
    """Write into an .h5 file of Keras 3 what tf.keras 2.15 writes of the same layers."""
    with h5py.File(path, "r+") as file:
        stated = json.loads(file.attrs["model_config"])

        def visit(layer, nested):
            config = layer["config"]
            for entry in ("module", "registered_name", "build_config"):
                layer.pop(entry, None)
            if isinstance(config.get("dtype"), dict):
                name = config["dtype"]["config"]["name"]
                config["dtype"] = name if name == "float32" else {
                    "module": "keras.mixed_precision", "class_name": "Policy",
                    "config": {"name": name}, "registered_name": None,
                }
            if layer["class_name"] == "InputLayer":
                config["batch_input_shape"] = config.pop("batch_shape")
            if layer["class_name"] in ("DepthwiseConv2D", "SeparableConv2D"):
                config["groups"] = 1
            if layer["class_name"] == "SeparableConv2D":
                config |= {f"kernel_{kind}": None for kind in ("regularizer", "constraint")}
                config["kernel_initializer"] = {
                    "module": "keras.initializers", "class_name": "GlorotUniform",
                    "config": {"seed": None}, "registered_name": None,
                }
            for entry in ("input_layers", "output_layers"):
                if entry in config:
                    config[entry] = [config[entry]]
            if nested and layer["class_name"] == "Functional":
                layer["module"] = "keras.src.engine.functional"
                layer["registered_name"] = "Functional"
            layers = config.get("layers", ())
            within = {each["config"]["name"] for each in layers
                      if each["class_name"] in ("Functional", "Sequential")}
            for each in layers:
                if "inbound_nodes" in each:  # a model's own making was call 0
                    each["inbound_nodes"] = [
                        [[name, call + (name in within), place, {}]
                         for name, call, place in tensors_in(node)]
                        for node in each["inbound_nodes"]
                    ]
                visit(each, nested=True)

        visit(stated, nested=False)
        change(stated)
        file.attrs["model_config"] = json.dumps(stated)
        file.attrs["keras_version"] = version


def separable():
    """A network of depthwise and separable convolutions with random weights."""
    image = keras.Input((8, 8, 3), name="image")
    maps = keras.layers.DepthwiseConv2D(3, activation="relu", name="deep")(image)
    maps = keras.layers.BatchNormalization(name="norm")(maps)
    maps = keras.layers.SeparableConv2D(5, 3, depth_multiplier=2, name="apart")(maps)
    maps = keras.layers.GlobalAveragePooling2D(name="pooled")(maps)
    return with_random_weights(
        keras.Model(image, keras.layers.Dense(4, name="scores")(maps), name="light")
    )


def with_random_weights(model):
    random = np.random.default_rng(1)
    model.set_weights([random.uniform(0.1, 1, each.shape) for each in model.weights])
    return model


def test_an_h5_model_of_keras_2_gives_what_it_gave(tmp_path):
    path, model = tmp_path / "light.h5", separable()
    model.save(path)
    describe_as_keras2(path)
    with pytest.raises(TypeError, match="'groups': 1"):  # what is to be got around
        keras.saving.load_model(path, compile=False)
    before = path.read_bytes()
    loaded = nets.load(path).model
    assert path.read_bytes() == before
    np.testing.assert_allclose(loaded(images()), model(images()), rtol=1e-6)
    kernel, bias = (np.float64(each) for each in model.get_layer("deep").get_weights())
    maps = nets.feature_extractor(loaded, nets.outputs_of(loaded, ["deep"]))
    window = np.float64(images())[:, 2:5, 1:4]
    expected = (window * kernel[..., 0]).sum(axis=(1, 2)) + bias
    np.testing.assert_allclose(
        maps(images())["maps"][0][:, 2, 1], np.maximum(expected, 0), rtol=1e-5
    )
    # It is one of Keras' own layers by now.
    assert type(loaded.get_layer("deep")) is keras.layers.DepthwiseConv2D
    loaded.save(tmp_path / "light.keras")
    again = keras.saving.load_model(tmp_path / "light.keras")
    np.testing.assert_allclose(again(images()), model(images()), rtol=1e-6)


def test_an_h5_model_of_keras_2_may_hold_others_and_be_of_mixed_precision(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    image = keras.Input((8, 8, 3), name="image")
    inner = keras.Model(image, keras.layers.DepthwiseConv2D(3, name="deep")(image), name="inner")
    body = keras.Sequential([inner, keras.layers.GlobalAveragePooling2D()], name="body")
    head = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, dtype="float32")])
    model = with_random_weights(keras.Sequential([keras.Input((8, 8, 3)), body, head]))
    path = tmp_path / "machine.h5"
    model.save(path)
    describe_as_keras2(path)
    keras.config.set_dtype_policy("float32")
    loaded = nets.load(path).model
    np.testing.assert_array_equal(loaded(images()), model(images()))
    assert loaded.get_layer("body").get_layer("inner").get_layer("deep").compute_dtype == "bfloat16"


@pytest.mark.parametrize("kind", ["model", "sequential", "twice"])
def test_an_h5_model_of_keras_2_may_call_others(tmp_path, kind):
    """As in transfer learning: a network of `keras.applications` with a new head."""
    image = keras.Input((8, 8, 3), name="image")
    if kind == "sequential":
        layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.ReLU()]
        base = keras.Sequential(layers, name="base")
    else:
        base = keras.Model(image, keras.layers.Conv2D(4, 3)(image), name="base")
    given = keras.Input((8, 8, 3), name="given")
    maps = base(given)
    if kind == "twice":
        maps = keras.layers.Add()([keras.layers.ReLU()(maps), base(keras.layers.ReLU()(given))])
    maps = keras.layers.GlobalAveragePooling2D()(maps)
    model = with_random_weights(keras.Model(given, keras.layers.Dense(3)(maps)))
    model.save(tmp_path / "whole.h5")
    describe_as_keras2(tmp_path / "whole.h5")
    np.testing.assert_allclose(
        nets.load(tmp_path / "whole.h5").model(images()), model(images()), rtol=1e-6
    )


def test_an_h5_model_of_old_keras_2(tmp_path):
    """As TensorFlow 1 and the first of TensorFlow 2 described it."""
    path = tmp_path / "old.h5"
    model = with_random_weights(keras.Sequential([
        keras.Input((8, 8, 3)), keras.layers.SeparableConv2D(4, 3),
        keras.layers.BatchNormalization(), keras.layers.Flatten(), keras.layers.Dense(3),
    ]))
    model.save(path)

    def change(stated):
        first, *layers = stated["config"]["layers"]
        convolution, normalization, _, dense = layers
        del convolution["config"]["groups"]
        convolution["config"]["batch_input_shape"] = first["config"]["batch_input_shape"]
        normalization["class_name"] = "BatchNormalizationV1"
        dense["config"]["kernel_initializer"] = {
            "class_name": "GlorotUniform", "config": {"seed": None, "dtype": "float32"},
        }
        stated["config"] = layers

    describe_as_keras2(path, "2.2.2", change)
    np.testing.assert_allclose(nets.load(path).model(images()), model(images()), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation": "hard_sigmoid"}, "uses hard_sigmoid, which Keras 3 computes otherwise"),
        ({"activation": {"class_name": "function", "config": "hard_sigmoid"}}, "hard_sigmoid"),
        ({"axis": [1, 2]}, "normalises over several axes, which Keras 3 does not read"),
    ],
)
def test_layers_that_keras_3_would_read_as_others_are_refused(tmp_path, change, said):
    path = tmp_path / "light.h5"
    separable().save(path)
    describe_as_keras2(path, change=lambda stated: stated["config"]["layers"][1]["config"].update(
        change
    ))
    assert said in refusal(path)


def test_layers_of_keras_2_that_keras_3_does_not_have_are_named(tmp_path):
    path = tmp_path / "light.h5"
    separable().save(path)
    describe_as_keras2(path, change=lambda stated: stated["config"]["layers"][1].update(
        class_name="TFOpLambda"
    ))
    message = refusal(path)
    assert "saved by Keras 2.15.0" in message
    assert "it uses 'TFOpLambda', which Keras 3 does not have" in message


def test_what_keras_3_cannot_read_of_keras_2_is_said(tmp_path):
    path = tmp_path / "light.h5"
    separable().save(path)
    describe_as_keras2(path, change=lambda config: config["config"]["layers"][1]["config"].update(
        groups=3
    ))
    message = refusal(path)
    assert "was saved by Keras 2.15.0" in message and "load_weights" in message
    assert "Unrecognized keyword arguments passed to DepthwiseConv2D: {'groups': 3}" in message
    assert "damaged" not in message


def archive_of_keras2(path, config):
    """A .keras file as tf.keras 2.15 writes it, as far as its description goes."""
    small().save(path)
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_an_archive_of_keras_2_is_to_be_saved_as_h5(tmp_path, package):
    path = tmp_path / "light.keras"
    archive_of_keras2(path, {
        "module": f"{package}.src.engine.functional",
        "class_name": "Functional", "registered_name": "Functional",
        "config": {"name": "light", "layers": [], "input_layers": [], "output_layers": []},
    })
    message = refusal(path)
    assert "was saved by Keras 2.15.0" in message and "save it as .h5" in message
    assert "damaged" not in message and "register" not in message


def test_a_class_whose_module_is_missing_is_named(tmp_path):
    path = tmp_path / "other.keras"
    archive_of_keras2(path, {
        "module": "keras_cv.none", "class_name": "Own", "registered_name": "Own", "config": {},
    })
    assert "uses 'Own', which is not known here" in refusal(path)


def test_the_cause_is_told_and_not_the_description_of_the_layer(tmp_path):
    path = tmp_path / "model.h5"
    small().save(path)
    with h5py.File(path, "r+") as file:
        stated = json.loads(file.attrs["model_config"])
        stated["config"]["layers"][1]["config"]["colour"] = "red"
        file.attrs["model_config"] = json.dumps(stated)
    assert "Unrecognized keyword arguments passed to Conv2D: {'colour': 'red'}" in refusal(path)

"""SavedModels that do more than compute are refused before they are loaded."""

import os

import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

import nets
from nets.saved_models import check_saved_model
from registry import UserError

IMAGE = tf.TensorSpec([None, 4, 4, 3], tf.uint8, name="image")


def embedding(image):
    return {"embedding": tf.reshape(tf.cast(image, tf.float32), [-1, 48])}


def save(path, function, **attributes):
    module = tf.Module()
    module.function = tf.function(function, input_signature=[IMAGE])
    for name, value in attributes.items():
        setattr(module, name, value)
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.function})
    return path


def writing(canary):
    def function(image):
        with tf.control_dependencies([tf.io.write_file(str(canary), "x")]):
            return embedding(image)
    return function


def in_a_function(canary):
    inner = tf.function(writing(canary), input_signature=[IMAGE])
    return lambda image: inner(image)


def in_a_branch(canary):
    return lambda image: tf.cond(
        tf.shape(image)[0] > 0, lambda: writing(canary)(image), lambda: embedding(image)
    )


def python(canary):
    def write(image):
        canary.write_text("x")
        return image

    return lambda image: embedding(tf.reshape(
        tf.py_function(write, [image], tf.uint8), tf.shape(image)
    ))


def printing(canary):
    def function(image):
        tf.print("x", output_stream=f"file://{canary}")
        return embedding(image)
    return function


def reading(canary):
    def function(image):
        text = tf.strings.length(tf.io.read_file("/etc/hostname"))
        return {"embedding": embedding(image)["embedding"] + tf.cast(text, tf.float32)}
    return function


def listing(canary):
    def function(image):
        count = tf.size(tf.io.matching_files("/etc/*"))
        return {"embedding": embedding(image)["embedding"] + tf.cast(count, tf.float32)}
    return function


def restoring(canary):
    def function(image):
        value = tf.raw_ops.RestoreV2(
            prefix="/tmp/other", tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32]
        )[0]
        return {"embedding": embedding(image)["embedding"] + value}
    return function


def saving(canary):
    def function(image):
        saved = tf.raw_ops.SaveV2(
            prefix=str(canary), tensor_names=["x"], shape_and_slices=[""], tensors=[tf.ones(3)]
        )
        with tf.control_dependencies([saved]):
            return embedding(image)
    return function


FOREIGN = {
    writing: "WriteFile", in_a_function: "WriteFile", in_a_branch: "WriteFile",
    python: "EagerPyFunc", printing: "PrintV2", reading: "ReadFile", listing: "MatchingFiles",
    restoring: "RestoreV2", saving: "SaveV2",
}


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
def test_what_touches_files_is_refused_and_not_run(tmp_path, make):
    canary = tmp_path / "canary"
    path = save(tmp_path / "1", make(canary))
    canary.unlink(missing_ok=True)
    with pytest.raises(UserError, match=f"do more than compute.*{FOREIGN[make]}") as caught:
        nets.ExportedEncoder(path)
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("canary*"))


def test_tables_of_files_are_refused(tmp_path):
    (tmp_path / "words.txt").write_text("a\nb\n")
    lines = tf.lookup.TextFileInitializer(
        str(tmp_path / "words.txt"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    table = tf.lookup.StaticVocabularyTable(lines, 1)

    def function(image):
        found = tf.cast(table.lookup(tf.constant(["a"])), tf.float32)
        return {"embedding": embedding(image)["embedding"] + found}

    with pytest.raises(UserError, match="InitializeTableFromTextFile"):
        check_saved_model(save(tmp_path / "1", function, table=table))


def test_a_saver_that_something_else_can_run_is_refused(tmp_path):
    """The name of the restoring function in place of the one that computes."""
    path = save(tmp_path / "1", embedding, weight=tf.Variable([1.0]))
    check_saved_model(path)
    saved = SavedModel()
    saved.ParseFromString((path / "saved_model.pb").read_bytes())
    functions = saved.meta_graphs[0].graph_def.library.function
    restore = next(each.signature.name for each in functions if "restore" in each.signature.name)
    serve = next(each for each in functions if "signature" in each.signature.name)
    call = next(node for node in serve.node_def if "Call" in node.op)
    call.attr["deep"].func.attr["deeper"].list.func.add().name = restore
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(UserError, match="RestoreV2"):
        check_saved_model(path)


def test_variables_that_no_memory_holds(tmp_path):
    path = save(tmp_path / "1", embedding, weight=tf.Variable([1.0]))
    saved = SavedModel()
    saved.ParseFromString((path / "saved_model.pb").read_bytes())
    for node in saved.meta_graphs[0].object_graph_def.nodes:
        if node.HasField("variable"):
            node.variable.shape.dim[0].size = 10**13
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(UserError, match="variables that .* claims need 40 TB"):
        check_saved_model(path)


def test_damaged_files_and_other_formats_are_refused(tmp_path):
    path = save(tmp_path / "1", embedding)
    content = (path / "saved_model.pb").read_bytes()
    (path / "saved_model.pb").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged"):
        nets.ExportedEncoder(path)
    (path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        nets.ExportedEncoder(path)
    (path / "saved_model.pb").unlink()
    (path / "saved_model.pbtxt").write_text("")
    with pytest.raises(UserError, match="no saved_model.pb"):
        nets.ExportedEncoder(path)


@pytest.mark.slow
def test_the_export_of_a_network_with_many_kinds_of_layers_only_computes(tmp_path):
    from experiment.run.export import export_saved_model

    model = nets.build("keras.applications:EfficientNetB0", (32, 32, 3), 3)
    export_saved_model(
        model, tmp_path / "1", image_shape=(48, 48, 3), mean=(0,) * 3, deviation=(1,) * 3,
        size=(32, 32),
    )
    check_saved_model(tmp_path / "1")


@pytest.mark.parametrize("name", ["saved_model.pb", "fingerprint.pb", "variables/variables.index"])
@pytest.mark.parametrize("kind", ["pipe", "cut off", "empty"])
def test_damaged_exports_take_one_line(tmp_path, name, kind):
    """TensorFlow would wait for a pipe, and print a traceback for a fingerprint."""
    path = save(tmp_path / "export", embedding, weight=tf.Variable(1.0))
    file = path / name
    content = file.read_bytes()
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(content[: len(content) // 2] if kind == "cut off" else b"")
    with pytest.raises(UserError) as told:
        nets.ExportedEncoder(path)
    assert str(path) in str(told.value) and "\n" not in str(told.value)

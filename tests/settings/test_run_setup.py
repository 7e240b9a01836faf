"""What a run is made of: that it is as set, and what is said of a given teacher and of images."""

import dataclasses
import json

import keras
import numpy as np
import pytest

import dataloader
import nets
import train_w_distill
from experiment.export.format import UnfitError
from experiment.run import devices
from registry import UserError
from settings import exporting
from settings.distillation import Settings
from settings.networks import (
    check_taps,
    check_teacher,
    class_difference,
    create_method,
    find_preprocessing,
    standardize,
)
from settings.run_setup import (
    augmentation_of,
    compile_for,
    describe_augmentation,
    load_data,
    prepare,
    score_teacher,
    training_batches,
)

BRIGHTNESS = np.array([20.0, 90.0, 160.0, 230.0])
NAMES = ("black", "dark", "light", "white")


@pytest.fixture
def files(tmp_path):
    """Images of four shades, and a teacher that tells them by their brightness, 0 to 255."""
    random = np.random.default_rng(0)

    def shades(count):
        labels = np.arange(count) % 4
        noise = random.normal(0, 5, (count, 16, 16, 3))
        images = BRIGHTNESS[labels][:, None, None, None] + noise
        return np.clip(images, 0, 255).astype("uint8"), labels

    (x_train, y_train), (x_test, y_test) = shades(80), shades(40)
    np.savez(
        tmp_path / "shades.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test,
        classes=np.array(NAMES),
    )
    image = keras.Input((16, 16, 3))
    mean = keras.layers.GlobalAveragePooling2D()(image)
    # The nearest shade v: 2 v x - v^2 is the largest.
    logits = keras.layers.Dense(4, name="scores")(mean)
    teacher = keras.Model(image, logits, name="shades")
    kernel = np.tile(2 * BRIGHTNESS / 3, (3, 1))
    teacher.get_layer("scores").set_weights([kernel, -(BRIGHTNESS**2)])
    teacher.save(tmp_path / "teacher.keras")
    return tmp_path


def settings_of(files, **changed):
    return Settings(**{
        "dataset": f"npz:{files}/shades.npz", "epochs": 1, "batch_size": 16,
        "teacher_model": str(files / "teacher.keras"), "net": "VGG_stride",
        "validation_fraction": 0, "recipe": "paper", "Distillation": "Soft_logits",
        "student_options": ("width=4",), **changed,
    }).spelled()


def test_a_teacher_is_scored_before_training(files):
    (note,) = score_teacher(prepare(settings_of(files, teacher_preprocessing="none")))
    assert note.endswith("teacher.keras: top-1 1.0000 on 40 images")


def test_the_optimizer_is_made_by_the_strategy_of_the_networks(files):
    """Which need not be the default one, though there is a single device."""
    setup = prepare(settings_of(files, strategy="mirrored"))
    compile_for(setup, epochs=1)
    with setup.strategy.scope():
        setup.distiller.optimizer.build(setup.distiller.variables_ever_trained())
    assert setup.distiller.optimizer.variables


def test_a_teacher_at_chance_is_told_with_the_likely_cause(files):
    (note,) = score_teacher(prepare(settings_of(files, teacher_preprocessing="data")))
    assert "top-1 0.2500 on 40 images, which is chance" in note
    assert note.endswith("with --teacher_preprocessing none it reaches 1.0000")


def test_a_teacher_of_images_in_0_to_1_is_described_and_found(files):
    """Trained on ``image / 255``, as most are."""
    teacher = keras.models.load_model(files / "teacher.keras")
    kernel, bias = teacher.get_layer("scores").get_weights()
    teacher.get_layer("scores").set_weights([kernel * 255, bias])
    teacher.save(files / "teacher.keras")
    (note,) = score_teacher(prepare(settings_of(files, teacher_preprocessing="unit")))
    assert note.endswith("teacher.keras: top-1 1.0000 on 40 images")
    (note,) = score_teacher(prepare(settings_of(files)))
    assert note.endswith("with --teacher_preprocessing unit it reaches 1.0000")


def test_a_wrong_scale_is_told_where_it_scores_above_chance(files):
    """Of images most of which are of the one class that the teacher gives then."""
    with np.load(files / "shades.npz") as arrays:
        kept = dict(arrays)
    order = np.argsort(kept["y_test"], kind="stable")[:13]  # ten black ones and three dark ones
    kept["x_test"], kept["y_test"] = kept["x_test"][order], kept["y_test"][order]
    np.savez(files / "shades.npz", **kept)
    (note,) = score_teacher(prepare(settings_of(files, teacher_preprocessing="data")))
    assert "top-1 0.7692 on 13 images, but it gives every image the class 'black'; with" in note
    assert note.endswith("with --teacher_preprocessing none it reaches 1.0000")


def test_batch_statistics_that_lag_are_told(files):
    """A teacher whose statistics are those of a new network, but whose weights are not."""
    image = keras.Input((16, 16, 3))
    mean = keras.layers.GlobalAveragePooling2D()(image)
    # So that no preprocessing does what the statistics have to.
    mean = keras.layers.Dense(3, kernel_initializer=keras.initializers.Identity(50.0))(mean)
    norm = keras.layers.BatchNormalization(center=False, scale=False)
    logits = keras.layers.Dense(4, name="scores")
    teacher = keras.Model(image, logits(norm(mean)), name="shades")
    shades = (BRIGHTNESS - BRIGHTNESS.mean()) / BRIGHTNESS.std()
    logits.set_weights([np.tile(2 * shades / 3, (3, 1)), -(shades**2)])
    teacher.save(files / "teacher.keras")
    setup = prepare(settings_of(files, teacher_preprocessing="none"))
    before = [np.array(variable) for variable in setup.teacher.model.variables]
    (note,) = score_teacher(setup)
    assert "top-1 0.2500 on 40 images, which is chance" in note
    assert "with batch statistics of training images it reaches 1.0000, so those in its" in note
    for variable, value in zip(setup.teacher.model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    images = setup.data.train.images(range(80)).numpy()
    nets.recompute_batch_statistics(teacher, [images.astype("float32")])
    teacher.save(files / "teacher.keras")
    (note,) = score_teacher(prepare(settings_of(files, teacher_preprocessing="none")))
    assert note.endswith("top-1 1.0000 on 40 images")


def test_classes_in_another_order_are_told_where_they_have_no_names(files):
    """Two of four classes are exchanged: half of the answers are right all the same."""
    teacher = keras.models.load_model(files / "teacher.keras")
    kernel, bias = teacher.get_layer("scores").get_weights()
    order = [0, 1, 3, 2]
    teacher.get_layer("scores").set_weights([kernel[:, order], bias[order]])
    teacher.save(files / "teacher.keras")
    (note,) = score_teacher(prepare(settings_of(files, teacher_preprocessing="none")))
    assert "top-1 0.5000 on 40 images; with its classes in another order than the data's" in note
    assert note.endswith("it would reach 1.0000")


def test_few_images_for_validation_are_not_scored_alone(files):
    settings = dataclasses.replace(
        settings_of(files, teacher_preprocessing="none"), validation_fraction=0.1
    )
    (note,) = score_teacher(prepare(settings))
    assert note.endswith("top-1 1.0000 on 48 images")


def test_preprocessing_is_inferred_where_the_model_tells(files):
    data = dataloader.load(f"npz:{files}/shades.npz")
    image = keras.Input((16, 16, 3))
    scaled = keras.layers.Rescaling(1 / 255)(image)
    model = keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(scaled)))
    found = standardize("auto", data, model)
    assert (found.mean, found.deviation) == ((0.0,) * 3, (1.0,) * 3)
    plain = keras.models.load_model(files / "teacher.keras")
    assert standardize("auto", data, plain).mean == pytest.approx(data.channel_mean)


def test_a_deployed_model_takes_what_the_student_was_trained_with(files):
    """Which its name tells; SimKD's deployed model has another one."""
    for name in ("resnet50v2", "shades"):
        image = keras.Input((16, 16, 3))
        maps = keras.layers.Conv2D(4, 3, 4, activation="relu", name="tap")(image)
        logits = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D(name="mean")(maps))
        keras.Model(image, logits, name=name).save(files / f"{name}.keras")
    settings = Settings(
        Distillation="SimKD", dataset=f"npz:{files}/shades.npz", epochs=1, batch_size=16,
        teacher_model=str(files / "shades.keras"), teacher_taps=("tap",), recipe="paper",
        student_model=str(files / "resnet50v2.keras"), student_taps=("tap",),
    ).spelled()
    setup = prepare(settings)
    assert setup.distiller.deployed.name != setup.distiller.student.name
    found = setup.student_preprocessing()
    assert (found.mean, found.deviation) == ((127.5,) * 3, (127.5,) * 3)  # -1..1
    (images, *_) = setup.statistics_batches()
    assert images.numpy().min() < 0 and np.abs(images).max() <= 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES, None),
        (("Black", "dark", "light", "white"), None),  # case does not matter
        (("0", "1", "2", "3"), None),  # numbers name nothing
        (("dark", "black", "light", "white"), "another order: class 0 is 'dark' to it and 'black'"),
        (("black", "dark", "light", "red"), "differ from those of .*: it does not know 'white'"),
    ],
)
def test_classes_are_compared_by_name(files, names, message):
    data = dataloader.load(f"npz:{files}/shades.npz")
    nets.write_class_names(files / "teacher.keras", names)
    teacher = nets.load(files / "teacher.keras")
    assert teacher.class_names == names
    if message is None:
        assert class_difference(teacher, data) is None
        return
    with pytest.raises(UserError, match=message):
        check_teacher(teacher, create_method(settings_of(files)), data)


def test_numbers_are_compared_with_folders_that_are_called_by_them(files):
    data = dataloader.load(f"npz:{files}/shades.npz")
    nets.write_class_names(files / "teacher.keras", ("0", "1", "2", "3"))
    teacher = nets.load(files / "teacher.keras")
    data = dataclasses.replace(data, class_names=("0", "1", "3", "2"))
    assert "another order: class 2 is '2' to it and '3' in" in class_difference(teacher, data)
    assert class_difference(teacher, dataclasses.replace(data, class_names=tuple("0123"))) is None


@pytest.mark.parametrize("names", [NAMES, ("dark", "black", "light", "white")])
def test_a_teacher_of_other_classes_is_not_scored(files, names):
    nets.write_class_names(files / "teacher.keras", names)
    settings = settings_of(files, teacher_preprocessing="none", Distillation="RKD")
    scores = train_w_distill.compare_with_teacher(prepare(settings))
    assert scores["teacher_top1"] == (1.0 if names == NAMES else None)
    assert (scores["agreement"] is None) == (names != NAMES)


def test_how_images_are_changed_is_said(files):
    settings = settings_of(files)
    data = dataloader.load(settings.dataset)
    assert describe_augmentation(settings, data) == (
        "training images: half of them mirrored, rotated by up to 15 degrees, shifted by up to 4 "
        "of 16 pixels (set by --flip, --rotation, --crop_padding)"
    )
    photographs = dataclasses.replace(
        settings, flip=False, rotation=0.0, crop_padding=0, random_resized_crop=0.08,
        color_jitter=0.4, randaugment=(2, 9), mixup=0.2, cutmix=1.0,
    )
    assert describe_augmentation(photographs, data) == (
        "training images: parts of 8 to 100 % of the area, 2 operations of RandAugment of "
        "magnitude 9, brightness, contrast and saturation changed by up to 40 %, mixed by mixup "
        "with alpha 0.2, mixed by CutMix with alpha 1 (set by --flip, --rotation, --crop_padding, "
        "--random_resized_crop, --randaugment, --color_jitter, --mixup, --cutmix)"
    )
    plain = dataclasses.replace(settings, flip=False, rotation=0.0, crop_padding=0)
    assert augmentation_of(plain, data).changes_nothing
    assert "training images: as they are" in describe_augmentation(plain, data)


def test_all_layers_that_must_be_given_are_asked_for_at_once(files):
    networks = {"teacher": keras.models.load_model(files / "teacher.keras")}
    networks["student"] = keras.Model(networks["teacher"].inputs, networks["teacher"].outputs,
                                      name="own")
    method = create_method(Settings(Distillation="AT"))
    both = "'shades' and 'own' are none .*: --teacher_taps a,b,c and --student_taps a,b,c, from"
    with pytest.raises(UserError, match=both):
        check_taps(networks, Settings(), method)
    with pytest.raises(UserError, match="'own' is not one .*: --student_taps a,b,c, from"):
        check_taps(networks, Settings(teacher_taps=("a", "b")), method)
    check_taps(networks, Settings(), create_method(Settings(Distillation="Soft_logits")))


def test_what_is_frozen_in_the_students_file_is_told_or_refused(files):
    image = keras.Input((16, 16, 3))
    maps = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(maps))
    student = keras.Model(image, keras.layers.Dense(4, name="head")(pooled), name="own")
    student.get_layer("conv").trainable = False
    student.save(files / "student.keras")
    settings = settings_of(files, student_model=str(files / "student.keras"),
                           student_options=None)
    setup = prepare(settings)
    frozen, parameters = 3 * 3 * 3 * 4 + 4, 3 * 3 * 3 * 4 + 4 + 4 * 4 + 4 * 4 + 4
    assert any(
        note.startswith(f"{frozen} of {parameters} parameters of the student are frozen")
        for note in train_w_distill.notes(setup)
    )
    student.trainable = False
    student.save(files / "student.keras")
    with pytest.raises(UserError, match="student.keras has nothing to train.*trainable = True"):
        prepare(settings)
    student.trainable = True
    student.save(files / "student.keras")
    assert not any("frozen" in note for note in train_w_distill.notes(prepare(settings)))


def test_a_teacher_that_learns_too_is_refused_or_told_of_where_it_is_frozen(files):
    teacher = keras.models.load_model(files / "teacher.keras")
    settings = settings_of(files, Distillation="DML")
    assert not any("frozen" in note for note in train_w_distill.notes(prepare(settings)))
    teacher.trainable = False
    teacher.save(files / "teacher.keras")
    with pytest.raises(UserError, match="teacher.keras has nothing to train"):
        prepare(settings)
    prepare(settings_of(files, Distillation="Soft_logits"))


@pytest.mark.parametrize(
    ("size", "taken", "batch_size", "expected"),
    [(16, 16, 8, 500), (512, None, 8, 16), (16, 512, 8, 16), (256, 256, 8, 16), (128, 16, 8, 31)],
)
def test_large_images_are_judged_in_smaller_batches(files, size, taken, batch_size, expected):
    image = keras.Input((taken, taken, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(image))
    keras.Model(image, keras.layers.Dense(4)(pooled)).save(files / "sized.keras")
    settings = settings_of(
        files, Distillation="None", student_model=str(files / "sized.keras"), student_options=None
    )
    setup = prepare(dataclasses.replace(settings, batch_size=batch_size))
    data = dataclasses.replace(setup.data, image_shape=(size, size, 3))
    assert dataclasses.replace(setup, data=data).at_once(500) == expected


def beginning(files, **changed):
    """The student's weights, the order of the images and the training split of a run."""
    settings = settings_of(files, validation_fraction=0.25, **changed)
    setup = prepare(settings)
    order = [np.array(batch["index"]) for batch in training_batches(settings, setup.data)]
    images = setup.data.train.images(range(len(setup.data.train)))
    return setup.distiller.student.get_weights(), order, [np.array(images)]


def test_the_seed_decides_weights_and_order_and_the_data_seed_the_split(files):
    def same(one, other):
        return all(map(np.array_equal, one, other))

    weights, order, split = beginning(files, seed=1, data_seed=1)
    for one, other in zip(
        beginning(files, seed=1, data_seed=1, Distillation="None"), (weights, order, split),
        strict=True,
    ):
        assert same(one, other)  # whatever the method
    others = beginning(files, seed=2, data_seed=1)
    assert not same(others[0], weights)
    assert not same(others[1], order)
    assert same(others[2], split)
    others = beginning(files, seed=1, data_seed=2)
    assert same(others[0], weights)
    assert same(others[1], order)
    assert not same(others[2], split)


def test_the_distiller_trains_as_set(files):
    chosen = {"weight_decay": 0.02, "label_smoothing": 0.15, "main_loss": "none"}
    distiller = prepare(settings_of(files, **chosen)).distiller
    assert {name: getattr(distiller, name) for name in chosen} == chosen


def rates(optimizer, steps):
    """The learning rates of the optimizer's first steps."""
    found = []
    for step in range(steps):
        optimizer.iterations.assign(step)
        found.append(float(optimizer.learning_rate))
    return found


def test_the_optimizer_is_sgd_as_set_and_its_rate_warms_up_to_half_a_cosine(files):
    setup = prepare(settings_of(
        files, optimizer="sgd", momentum=0.7, learning_rate=0.03, schedule="cosine",
        warmup_epochs=1.4, epochs=4, jit_compile=True,
    ))
    compile_for(setup, 4)
    optimizer = setup.distiller.optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.7, True)
    assert setup.distiller.jit_compile is True
    steps = np.arange(4 * 5)  # 80 images in batches of 16
    warmup = 7  # 1.4 of the 4 epochs
    expected = np.where(
        steps < warmup,
        0.03 * (1 + steps * (warmup - 1) / warmup) / warmup,
        0.03 * (1 + np.cos(np.pi * (steps - warmup) / (len(steps) - warmup))) / 2,
    )
    np.testing.assert_allclose(rates(optimizer, 20), expected, rtol=1e-5, atol=1e-9)
    compile_for(setup, 2)  # a stage of half the run has half the warm-up
    first = rates(setup.distiller.optimizer, 5)
    np.testing.assert_allclose(first[0], 0.03 / 4, rtol=1e-5)
    np.testing.assert_allclose(first[4], 0.03, rtol=1e-5)


def test_the_optimizer_is_adam_at_a_constant_rate_as_set(files):
    setup = prepare(settings_of(
        files, optimizer="adam", learning_rate=0.002, schedule="constant", warmup_epochs=0.0,
    ))
    compile_for(setup, 1)
    assert isinstance(setup.distiller.optimizer, keras.optimizers.Adam)
    np.testing.assert_allclose(rates(setup.distiller.optimizer, 5), 0.002, rtol=1e-6)
    assert setup.distiller.jit_compile is False


@pytest.mark.parametrize(("mixed", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_networks_compute_in_the_precision_as_set(files, mixed, dtype):
    with devices.callers_settings():
        distiller = prepare(settings_of(files, mixed_precision=mixed)).distiller
    convolutions = [
        layer for layer in distiller.student.layers if isinstance(layer, keras.layers.Conv2D)
    ]
    assert {layer.compute_dtype for layer in convolutions} == {dtype}
    assert {variable.dtype for variable in distiller.student.trainable_variables} == {
        "float32"
    }


def test_a_run_without_labels_needs_no_image_of_each_class(tmp_path):
    """The first images of a folder may all be of its first classes."""
    x = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), "uint8")
    y = np.repeat(np.arange(4), 3)
    np.savez(tmp_path / "sorted.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    settings = Settings(
        dataset=f"npz:{tmp_path / 'sorted.npz'}", train_images=6, validation_fraction=0.0,
        main_loss="none", Distillation="SSKD_SVD", teacher=str(tmp_path / "teacher.keras"),
    )
    assert len(load_data(settings).train) == 6
    assert len(load_data(dataclasses.replace(settings, labelled_per_class=1)).train) == 6
    for changed in ({"main_loss": "cross_entropy"}, {"teacher": None}):
        with pytest.raises(UserError, match="has no image among the first 6 training images"):
            load_data(dataclasses.replace(settings, **changed))


def test_a_student_goes_on_with_the_preprocessing_it_was_trained_with(files):
    """The run states it, whatever the statistics of the new data."""
    run = files / "run"
    run.mkdir()
    keras.models.load_model(files / "teacher.keras").save(run / "student.keras")
    stated = {"mean": [1.0, 2.0, 3.0], "deviation": [4.0, 5.0, 6.0], "size": None}
    (run / "summary.json").write_text(json.dumps({"preprocessing": stated, "settings": {}}))
    settings = settings_of(
        files, teacher_model=str(run), teacher_epochs=1, student_model=str(run),
        student_options=None, student_preprocessing="tf",
    )
    setup = prepare(settings)
    found = setup.student_preprocessing()
    assert (found.mean, found.deviation) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert find_preprocessing("teacher", settings, setup.data, setup.teacher) == found
    (note,) = [each for each in train_w_distill.notes(setup) if each.startswith("images for")]
    assert note.endswith("student: scaled as in its training, not by --student_preprocessing tf")


@pytest.mark.parametrize(
    ("first", "flags", "words"),
    [
        ((), {}, "standardized by the data's mean and deviation, as neither its layers nor its"),
        ((), {"student_preprocessing": "unit"}, "scaled by --student_preprocessing unit"),
        ((keras.layers.Rescaling(1 / 255),), {}, "scaled as its first layers or its name tell"),
    ],
)
def test_how_images_of_own_networks_are_scaled_is_said(files, first, flags, words):
    layers = [keras.Input((16, 16, 3)), *first, keras.layers.Flatten(), keras.layers.Dense(4)]
    keras.Sequential(layers).save(files / "own.keras")
    settings = settings_of(
        files, Distillation="None", student_model=str(files / "own.keras"), student_options=None,
        **flags,
    )
    found = [each for each in train_w_distill.notes(prepare(settings)) if "images for the" in each]
    assert len(found) == 1 and found[0].startswith(f"images for the student: {words}")


def test_a_student_that_changes_its_images_is_told(files):
    layers = [
        keras.Input((16, 16, 3)), keras.layers.RandomFlip(name="mirror"), keras.layers.Flatten(),
        keras.layers.Dense(4),
    ]
    keras.Sequential(layers).save(files / "own.keras")

    def told(method):
        settings = settings_of(
            files, Distillation=method, student_model=str(files / "own.keras"), student_options=None
        )
        return [each for each in train_w_distill.notes(prepare(settings)) if "(mirror)" in each]

    assert told("None") == []
    (note,) = told("Soft_logits")
    assert note.startswith("warning: ") and "it sees other views than the teacher" in note


def test_batch_statistics_are_of_mixed_images(files, monkeypatch):
    monkeypatch.setattr("settings.run_setup.STATISTICS_BATCH", 8)
    setup = prepare(settings_of(files, batch_size=2))
    batches = [images.numpy() for images in setup.spread_batches(lambda images: images)]
    assert [len(each) for each in batches] == [8] * 10
    images = setup.data.train.images(range(80)).numpy()
    assert not (batches[0] == images[:8]).all()
    assert sorted(np.concatenate(batches).sum((1, 2, 3))) == sorted(images.sum((1, 2, 3)))


@pytest.mark.parametrize("fault", [None, UnfitError("onnx: it cannot hold the network: x")])
def test_a_format_that_cannot_hold_an_own_student_is_refused_before_training(
    files, fault, monkeypatch, capsys
):
    keras.Sequential([
        keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(4)
    ]).save(files / "own.keras")
    tried = []

    def convert(form, material, path):
        tried.append((form.name, path.parent.is_dir(), (material / "student.keras").exists()))
        if fault:
            raise fault

    monkeypatch.setattr(exporting, "convert", convert)
    settings = settings_of(
        files, Distillation="None", student_model=str(files / "own.keras"), student_options=None,
        export="onnx,keras", train_dir=str(files / "run"),
    )
    if fault:
        with pytest.raises(UserError, match="^--export onnx: it cannot hold .*; leave out this"):
            train_w_distill.train(settings)
        assert not (files / "run").exists()
    else:
        exporting.try_formats(prepare(settings))
        assert tried == [("onnx", True, True), ("keras", True, True)]


def test_networks_that_are_known_to_fit_are_not_tried(files, monkeypatch):
    monkeypatch.setattr(exporting, "convert", lambda *words: pytest.fail("tried"))
    exporting.try_formats(prepare(settings_of(files, export="keras")))

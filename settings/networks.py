"""Method and networks as the settings of a distillation name them, checked against the data."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

import dataloader
import nets
from distillers import Method, Sum, create
from distillers.checks import needs_teacher_itself
from nets.pretrained import is_included
from registry import UserError, plain
from settings import known
from settings.distillation import CACHED, Settings


def create_method(settings: Settings) -> Method | Sum:
    """The method with its hyper-parameters. Raises UserError where they are wrong, or the teacher's
    outputs are to be kept and the method needs more."""
    method = create(settings.Distillation, **settings.hyper_parameters)
    if settings.cache_teacher and method.needs_teacher:
        check_kept(method)
    return method


def build(name: str, options: tuple[str, ...], data: dataloader.Data) -> keras.Model:
    """The network `name` for the data's images and classes, with ``name=value`` options."""
    return nets.build(name, data.image_shape, data.classes, **nets.parse_options(options))


def load_teacher(settings: Settings, data: dataloader.Data, file: str | None) -> nets.Stored:
    """The teacher from a file or run folder, or one that is still to be trained.

    Args:
        settings: name the net.
        data: for its images and classes.
        file: the trained teacher; None: it is to be trained.

    Raises:
        UserError: there is no such file, or it does not fit the settings.
    """
    if file is None:
        return _teacher_to_train(settings, data)
    if known.is_encoder(file):
        return nets.load_pretrained(file, data.image_shape, data.classes)
    own = settings.teacher_model == file
    if own:
        check_exists("teacher", file)
    return nets.load(
        file,
        net=None if own else settings.teacher_name(),
        input_shape=data.image_shape,
        classes=data.classes,
        options=nets.parse_options(settings.teacher_options),
    )


def _teacher_to_train(settings: Settings, data: dataloader.Data) -> nets.Stored:
    """The teacher as it is before it is trained, if it is at all: a pretrained one may serve as it
    is, with its own classifier."""
    keras.utils.set_random_seed(settings.seed)
    if settings.is_pretrained("teacher"):
        as_it_is = settings.teacher_is_ready()
        stored = _library_network("teacher", settings, data, keep_classifier=as_it_is)
        return stored if as_it_is else dataclasses.replace(stored, has_logits=True)
    if settings.teacher_model and not known.is_application(settings.teacher_model):
        check_exists("teacher", settings.teacher_model)
        return with_classes(load_to_train(settings.teacher_model), data)
    return fresh(build(settings.teacher_name(), settings.teacher_options, data))


def fresh(model: keras.Model) -> nets.Stored:
    """A network that was not trained, and states no preprocessing."""
    return nets.Stored(model, standardize=None, has_logits=True)


def with_classes(stored: nets.Stored, data: dataloader.Data) -> nets.Stored:
    """A network to be trained, with a new classifier where the number of classes differs."""
    model = nets.with_classes(stored.model, data.classes).model
    return dataclasses.replace(stored, model=model, has_logits=True, class_names=None)


def load_to_train(file: str) -> nets.Stored:
    """A person's own network, to be trained; one of float16, for which losses would have to be
    scaled, in the precision of the run."""
    stored = nets.load(file)
    if not nets.computes_in_float16(stored.model):
        return stored
    policy = keras.config.dtype_policy().name
    logging.getLogger(__name__).warning(
        "%s computes in float16, for which losses would have to be scaled: it is trained in %s",
        file, policy,
    )
    return dataclasses.replace(stored, model=nets.copy_model(stored.model, dtype=policy))


def _library_network(
    role: str, settings: Settings, data: dataloader.Data, *, keep_classifier: bool = False
) -> nets.Stored:
    """A pretrained network of `keras.applications` or KerasHub."""
    return nets.load_library_network(
        getattr(settings, f"{role}_model"),
        getattr(settings, f"{role}_weights"),
        data.image_shape,
        data.classes,
        nets.parse_options(getattr(settings, f"{role}_options")),
        keep_classifier=keep_classifier,
    )


def make_student(settings: Settings, data: dataloader.Data) -> nets.Stored:
    """The student with its initial weights, which depend on the seed alone, or on its file, and
    with the preprocessing that these were trained with, where that is stated.

    Raises:
        UserError: there is no such file, or it does not fit the data.
    """
    keras.utils.set_random_seed(settings.seed)
    name = settings.student_name()
    if settings.is_pretrained("student"):
        student = _library_network("student", settings, data)
    elif settings.student_model is None or known.is_application(name):
        student = fresh(build(name, settings.student_options, data))
    else:
        check_exists("student", name)
        student = load_to_train(name)
        if settings.fine_tunes():
            student = with_classes(student, data)
        check_student(student.model, data)
        nets.check_trainable(student.model, "--student_model", name)
    if settings.student_init is not None:
        stated = nets.fill_from_encoder(student.model, settings.student_init)
        student = dataclasses.replace(student, standardize=stated)
    return student


def find_preprocessing(
    role: str, settings: Settings, data: dataloader.Data, stored: nets.Stored
) -> nets.Standardize:
    """What turns raw images into what a network takes: what its file or run states, or else the
    settings.

    Args:
        role: ``"teacher"`` or ``"student"``.
        settings: with what is given for this role.
        data: the data set.
        stored: the network.
    """
    if stored.standardize:
        return resized(stored.standardize, stored.model)
    return standardize(getattr(settings, f"{role}_preprocessing"), data, stored.model)


def describe_preprocessing(role: str, settings: Settings, stored: nets.Stored) -> list[str]:
    """Where `find_preprocessing` a network comes from, in words; nothing where that is certain: its
    run states it, or it is a fresh one of --net."""
    name = getattr(settings, f"{role}_preprocessing")
    is_own = nets.declared_outputs_of(stored.model) is not None
    if name == "auto" and (stored.standardize or is_own):
        return []
    if stored.standardize:
        words = f"scaled as in its training, not by --{role}_preprocessing {name}"
    elif name != "auto":
        words = f"scaled by --{role}_preprocessing {name}"
    elif nets.infer_preprocessing(stored.model):
        words = "scaled as its first layers or its name tell"
    else:
        words = (
            "standardized by the data's mean and deviation, as neither its layers nor its name "
            f"tell what it was trained with (--{role}_preprocessing)"
        )
    return [f"images for the {role}: {words}"]


def standardize(name: str, data: dataloader.Data, model: keras.Model) -> nets.Standardize:
    """The preprocessing called `name` for the data's images, to the size that `model` takes.

    Args:
        name: ``"auto"``: what the model's layers or its name tell, else ``"data"``; or as of
            `nets.named_preprocessing`.
        data: whose statistics ``"data"`` means.
        model: the network.
    """
    found = nets.infer_preprocessing(model) if name == "auto" else None
    if found is None:
        name = "data" if name == "auto" else name
        found = nets.named_preprocessing(name, data.channel_mean, data.channel_deviation)
    return resized(found, model)


def resized(preprocessing: nets.Standardize, model: keras.Model) -> nets.Standardize:
    """`preprocessing` that resizes images to what `model` takes."""
    size = model.input_shape[1:3]
    return dataclasses.replace(preprocessing, size=size if all(size) else None)


def find_outputs(
    model: keras.Model, taps: tuple[str, ...] | None
) -> nets.Outputs | None:
    """The layers to compare where taps are given; None: the distiller knows them.

    Args:
        model: the network.
        taps: the layers' names; None: not given.

    Raises:
        UserError: the network has no such layer.
    """
    return None if taps is None else nets.outputs_of(model, taps)


def check_taps(
    networks: Mapping[str, keras.Model], settings: Settings, method: Method | Sum
) -> None:
    """Raise UserError where layers to compare must be given: all that are missing at once.

    Args:
        networks: by role, ``"teacher"`` or ``"student"``.
        settings: with the taps that are given.
        method: that compares them.
    """
    missing = {
        role: model.name for role, model in networks.items()
        if getattr(settings, f"{role}_taps") is None and not nets.declared_outputs_of(model)
    }
    if not (missing and method.does_read("maps")):
        return
    names = " and ".join(map(repr, missing.values()))
    none = "is not one" if len(missing) == 1 else "are none"
    flags = " and ".join(f"--{role}_taps a,b,c" for role in missing)
    raise UserError(
        f"{names} {none} of the networks of --net, so the layers to compare must be given: "
        f"{flags}, from shallow to deep (--list_layers lists them)"
    )


# Refusals


def check_kept(method: Method | Sum) -> None:
    """Raise UserError unless a method does with what `--cache_teacher` keeps."""
    reason = needs_teacher_itself(method, CACHED)
    if reason:
        raise UserError(
            f"--cache_teacher keeps the teacher's {' and '.join(CACHED)}, but {reason}: leave "
            "out --cache_teacher or this method"
        )


def check_exists(role: str, file: str) -> None:
    """Raise UserError unless the model's file exists."""
    if not is_included(file) and not Path(file).exists():
        raise UserError(
            f"--{role}_model: {file} does not exist; expected a model in a file (.keras or .h5), "
            "keras.applications:NAME or keras_hub:PRESET_OR_FOLDER"
        )


def check_images(role: str, model: keras.Model, data: dataloader.Data) -> None:
    """Raise UserError unless a network takes one input of images of the data's channels."""
    images = model.inputs
    if len(images) != 1 or len(images[0].shape) != 4:
        shapes = ", ".join(str(tuple(image.shape)) for image in images)
        raise UserError(
            f"the {role} takes {shapes}; expected one input of images, (None, height, width, "
            "channels)"
        )
    channels, given = images[0].shape[-1], data.image_shape[-1]
    if channels != given:
        convert = f"--channels {channels}, or " if {channels, given} == {1, 3} else ""
        raise UserError(
            f"the {role} takes images of {channels} channels, {data.name} has {given}; give "
            f"{convert}a {role} for such images"
        )


def check_student(student: keras.Model, data: dataloader.Data) -> None:
    """Raise UserError unless a user's own student fits images and classes."""
    check_images("student", student, data)
    shape = tuple(student.outputs[0].shape)
    if len(shape) != 2 or shape[1] != data.classes:
        raise UserError(
            f"the student's (first) output has shape {shape}; expected (None, {data.classes}), one "
            f"logit per class of {data.name}, also of two classes; --Distillation "
            "'None(head_share=0.2)' trains it with a new classifier, and its run folder is then a "
            "student for other methods"
        )


def check_teacher(teacher: nets.Stored, method: Method | Sum, data: dataloader.Data) -> None:
    """Raise UserError unless the teacher fits images and classes."""
    check_images("teacher", teacher.model, data)
    classes = teacher.model.outputs[0].shape[-1]
    if method.does_read("logits") and not (teacher.has_logits and classes == data.classes):
        ends = f"has {classes} outputs" if teacher.has_logits else "has no logits"
        raise UserError(
            f"the method compares logits, but the teacher {ends} and {data.name} has "
            f"{data.classes} classes; give a teacher of these classes, --teacher_model FILE "
            "--teacher_epochs N to train it with a new classifier, or another method"
        )
    difference = class_difference(teacher, data)
    if method.does_read("logits") and difference:
        raise UserError(
            f"the method compares logits, but {difference}; give a teacher of these classes in "
            "this order or another method"
        )


def names_classes(names: Sequence[str], data: dataloader.Data) -> bool:
    """Whether a network's class names can be compared with the data's: they are more than numbers,
    or the data's are the same numbers in another order, as of folders that are called by them."""
    are_numbers = tuple(names) == tuple(map(str, range(len(names))))
    return not are_numbers or sorted(names) == sorted(data.class_names)


def class_difference(teacher: nets.Stored, data: dataloader.Data) -> str | None:
    """How the teacher's classes differ from the data's, by their names; None where they do not, or
    one of the two does not name them."""
    names = teacher.class_names
    if names is None or not names_classes(names, data):
        return None
    if not (data.has_class_names and teacher.has_logits):
        return None
    theirs, ours = [plain(name) for name in names], [plain(name) for name in data.class_names]
    if theirs == ours:
        return None
    if sorted(theirs) == sorted(ours):
        number = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        return (
            f"the teacher has the classes of {data.name} in another order: class {number} is "
            f"{names[number]!r} to it and {data.class_names[number]!r} in the data"
        )
    missing = [name for name in data.class_names if plain(name) not in theirs]
    found = f"it does not know {missing[0]!r}" if missing else f"it knows {len(names)}"
    return f"the teacher's classes differ from those of {data.name}: {found}"

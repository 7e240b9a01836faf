"""What every method has to pass as it trains. A method's test file calls ``run_method_test(AT())``.

Steps run eagerly here, for tracing takes longer than a few steps do. As a graph, and on two
replicas, every method trains in test_data_parallel.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import nets
from distillers import Context, Distiller, Method, Sum, Trains
from distillers.stages import Part, RunStage
from nets.copying import global_policy
from tests.distillers.models import TAPS, batch, larger_network, network, outputs

IMAGES = 8
ROUNDING = 0.03  # relative, of losses in bfloat16
SMALL = 2e-5  # PKT's and RKD's losses are small differences between what rounding moves
BFLOAT16 = "mixed_bfloat16"

MakeNetwork = Callable[[int, str], keras.Model]


def run_method_test(
    method: Method | Sum,
    *,
    teacher: MakeNetwork = larger_network,
    rate: float = 0.01,
    rounding: float = ROUNDING,
) -> Distiller:
    """Train by a method for two epochs in each of its stages, and check that

    - each stage changes the variables that it declares, and no others;
    - a run that was interrupted in any stage and resumed equals one that was not, bit for bit;
    - in bfloat16, losses are those of float32 up to rounding, whatever the teacher computes in;
    - the deployed model has the student's variables only, unless the method makes another;
    - the method itself is what it was, and fits further pairs of networks.

    Args:
        method: of any hyper-parameters.
        teacher: makes a teacher from a seed and a name. The default's taps are of other sizes and
            channels than the student's.
        rate: learning rate.
        rounding: by which relative error losses may differ in bfloat16.

    Returns:
        A distiller after its last stage.
    """
    specification = dict(vars(method))
    distiller = make_distiller(method, teacher)
    stages = [train_stage(distiller, number, rate) for number in range(len(distiller.stages))]
    for stage in stages:
        check_changes(distiller, stage)
        check_resumed(method, teacher, stage, rate)
    check_bfloat16(method, teacher, rounding)
    check_deployed(distiller)
    assert vars(method) == specification
    return distiller


def make_distiller(
    method: Method | Sum,
    teacher: MakeNetwork = larger_network,
    *,
    seeds: tuple[int, int] = (2, 1),
    policies: tuple[str, str] = ("float32", "float32"),
) -> Distiller:
    """A distiller for small networks.

    Args:
        seeds, policies: of teacher and student, policies being dtype policies. The method's layers
            are made by the student's seed.
    """
    with global_policy(policies[0]):
        theirs = teacher(seeds[0], "teacher")
    with global_policy(policies[1]):
        ours = network(seeds[1], "student")
    keras.utils.set_random_seed(seeds[1])
    return Distiller(
        ours, method, theirs, weight_decay=0.0, samples=IMAGES,
        student_outputs=outputs(ours), teacher_outputs=outputs(theirs),
    )


# Training


class TrainedStage(NamedTuple):
    """A stage of two epochs, each of one step.

    Attributes:
        number: of the stage, from 0.
        before, between, after: the values of `everything` around the epochs.
    """

    number: int
    before: list[np.ndarray]
    between: list[np.ndarray]
    after: list[np.ndarray]


def train_stage(distiller: Distiller, number: int, rate: float) -> TrainedStage:
    """Train a stage with a new optimizer."""
    begin_stage(distiller, number, rate)
    before = values(everything(distiller))
    train_epoch(distiller, 2 * number)
    between = values(everything(distiller))
    train_epoch(distiller, 2 * number + 1)
    return TrainedStage(number, before, between, values(everything(distiller)))


def begin_stage(distiller: Distiller, number: int, rate: float) -> None:
    """Enter a stage, as it is in a run of two epochs a stage."""
    first, last = 2 * number, 2 * number + 2
    distiller.enter(Part(distiller.stages[number], first, last, True, first, last))
    distiller.compile(keras.optimizers.SGD(rate, momentum=0.9), run_eagerly=True)
    distiller.optimizer.build(distiller.variables_ever_trained())


def train_epoch(distiller: Distiller, epoch: int) -> None:
    """Train a step on images that are other ones in each epoch."""
    data = tf.data.Dataset.from_tensors(batch(3 + epoch, IMAGES))
    logs = distiller.fit(data, initial_epoch=epoch, epochs=epoch + 1, verbose=0, shuffle=False)
    assert logs.history["skipped_steps"] == [0.0], f"epoch {epoch}: the gradient is not finite"
    assert all(np.isfinite(value) for (value,) in logs.history.values()), logs.history


def saved(distiller: Distiller) -> list[keras.Variable]:
    """What a checkpoint holds."""
    return [*distiller.saved_variables(), *distiller.optimizer.variables]


def everything(distiller: Distiller) -> list[keras.Variable]:
    """What a checkpoint holds, and the teacher's variables whether it does or not."""
    variables = [*saved(distiller), *distiller.teacher.variables]
    return list({id(variable): variable for variable in variables}.values())


def values(variables: list[keras.Variable]) -> list[np.ndarray]:
    return [np.array(variable) for variable in variables]


# Checks


def check_changes(distiller: Distiller, trained: TrainedStage) -> None:
    """Compare which variables changed in a stage with those that it declares."""
    stage = distiller.stages[trained.number]
    declared = {id(variable) for variable in declared_variables(distiller, stage)}
    optimizer = {id(variable) for variable in distiller.optimizer.variables}
    theirs = {id(variable) for variable in distiller.teacher.variables}
    ours = {id(variable) for variable in distiller.student.variables}
    every = zip(everything(distiller), trained.before, trained.after, strict=True)
    for variable, before, after in every:
        changed = not np.array_equal(before, after)
        about = f"{variable.path} in stage {stage.name}"
        if id(variable) in optimizer:
            continue
        if variable.trainable:
            assert changed == (id(variable) in declared), about
        elif id(variable) in theirs:
            assert not changed or distiller.method.trains_teacher, about
        elif id(variable) in ours:
            assert not changed or stage.lead.trains is not Trains.NOTHING, about


def declared_variables(distiller: Distiller, stage: RunStage) -> list[keras.Variable]:
    """The variables that a stage says it trains."""
    student, lead = distiller.student, stage.lead
    variables = [
        v for term in stage.terms for layer in term.stage.layers for v in layer.trainable_variables
    ]
    if lead.trains is Trains.ALL:
        variables += student.trainable_variables
        if distiller.method.trains_teacher:
            variables += distiller.teacher.trainable_variables
    elif lead.trains is Trains.TO_TAPS:
        for number in range(len(TAPS)) if lead.taps is None else lead.taps:
            part = keras.Model(student.input, student.get_layer(TAPS[number]).output)
            variables += part.trainable_variables
    return variables


def check_resumed(
    method: Method | Sum, teacher: MakeNetwork, trained: TrainedStage, rate: float
) -> None:
    """Interrupt a stage after its first epoch: another distiller, which gets what was saved, has to
    end with the same values, the optimizer's included."""
    seeds = (9 if method.trains_teacher else 2, 8)  # what is not saved is to be noticed
    resumed = make_distiller(method, teacher, seeds=seeds)
    begin_stage(resumed, trained.number, rate)
    for variable, value in zip(saved(resumed), trained.between, strict=False):
        variable.assign(value)  # of `everything`, what is saved comes first
    train_epoch(resumed, 2 * trained.number + 1)
    for variable, expected in zip(everything(resumed), trained.after, strict=True):
        about = f"{variable.path} after a resume in stage {trained.number}"
        np.testing.assert_array_equal(np.array(variable), expected, err_msg=about)


def check_bfloat16(method: Method | Sum, teacher: MakeNetwork, rounding: float) -> None:
    """Compare each stage's losses with both networks in bfloat16, and with the student alone, with
    those in float32; all variables and gradients stay float32 and finite."""
    expected = stage_losses(make_distiller(method, teacher))
    for theirs in (BFLOAT16, "float32"):
        distiller = make_distiller(method, teacher, policies=(theirs, BFLOAT16))
        found = stage_losses(distiller)
        np.testing.assert_allclose(
            found, expected, rtol=rounding, atol=SMALL, err_msg=f"with a teacher in {theirs}"
        )
        for variable in distiller.variables:
            assert variable.dtype != "bfloat16", variable.path


def stage_losses(distiller: Distiller) -> list[float]:
    """Each method's loss in each stage for a batch, before training; its gradients are finite."""
    data = batch(3, IMAGES)
    context = Context(
        labels=tf.constant(data["label"]), indices=tf.constant(data["index"]),
        epoch=tf.constant(0), training=True,
    )
    losses = []
    for term in (term for stage in distiller.stages for term in stage.terms):
        with tf.GradientTape() as tape:
            features = distiller.teacher_features(data["image"]), student_features(distiller, data)
            selected = map(term.loss.method.select, features)
            loss, _ = term.loss.compute(*selected, context, term.stage)
        variables = [v.value for v in distiller.trainable_variables]
        for gradient in tape.gradient(loss, variables):
            assert gradient is None or np.all(np.isfinite(gradient)), term.stage.name
        losses.append(float(loss))
    return losses


def student_features(distiller: Distiller, data: dict[str, Any]) -> dict[str, Any]:
    """The student's features in training mode."""
    return nets.feature_extractor(distiller.student, outputs(distiller.student))(
        data["image"], training=True
    )


def check_deployed(distiller: Distiller) -> None:
    """Check that the deployed model has the student's variables and no others."""
    if any(loss.deploy for loss in distiller.distillation_losses):
        return
    deployed, student = distiller.deployed, distiller.student
    assert {id(v) for v in deployed.variables} == {id(v) for v in student.variables}
    assert deployed(batch(3)["image"]).shape == (IMAGES, student.outputs[0].shape[-1])

"""The model that trains a student network with a distillation method."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from distillers.keras_loss import KerasLoss
from distillers.method import Method, Stage, stage_ends
from distillers.none import NoDistillation
from distillers.registration import name_of
from nets import Outputs, feature_extractor, gives_probabilities, output_layer_of, outputs_of
from op_util import replicas
from op_util.gradients import clipped_combination
from registry import UserError

Preprocessing = Callable[[tf.Tensor], tf.Tensor]
_SCORES = ("main_loss", "accuracy", "top5")


class Batch(NamedTuple):
    """A batch of the data: images, int32 labels (-1: unlabelled) and the images' int64 indices."""

    image: tf.Tensor
    label: tf.Tensor
    index: tf.Tensor


class _Untracked:
    """Holds a model where Keras does not look, so that no checkpoint or export of the student
    contains the teacher."""

    def __init__(self, model: keras.Model | None):
        self.model = model


class Distiller(keras.Model):
    """Trains a student, next to its main task or without one, to be like a teacher.

    A training step makes one forward pass of each network. Losses and norms are those of the global
    batch, however many replicas share it. The teacher works in inference mode, unless the method
    trains it too, and is not a part of this model's variables; evaluation and prediction are the
    student's alone (or those of the model that the method makes of it to be deployed).

    Batches are dicts ``{"image", "label", "index"}`` or pairs ``(image, label)`` with the class's
    number as label; -1 marks an unlabelled image, which feeds the distillation loss only.

    `fit` leads through all stages of a method that has several, unless `start_stage` was called:
    then it trains that stage.

    Args:
        student: functional Keras model from images to logits.
        method: what to learn from the teacher: one of ours, or any
            `keras.distillation.DistillationLoss` (see `KerasLoss`); None: nothing, the student
            alone.
        teacher: functional Keras model; None where the method needs none.
        student_outputs, teacher_outputs: the layers that the method compares; None: those that a
            registered network declares (see `nets.outputs_of`).
        student_preprocessing, teacher_preprocessing: from the batch's images to the network's
            input.
        main_loss: ``"cross_entropy"``, or ``"none"`` to transfer without any label.
        weight_decay: factor of ``||w||^2 / 2``, on all kernels that are trained.
        samples: number of training images, for methods that keep something for each.

    Raises:
        UserError: method, teacher and student do not fit.
    """

    def __init__(
        self,
        student: keras.Model,
        method: keras.distillation.DistillationLoss | None = None,
        teacher: keras.Model | None = None,
        *,
        student_outputs: Outputs | None = None,
        teacher_outputs: Outputs | None = None,
        student_preprocessing: Preprocessing | None = None,
        teacher_preprocessing: Preprocessing | None = None,
        main_loss: str = "cross_entropy",
        weight_decay: float = 1e-4,
        samples: int | None = None,
    ):
        super().__init__(name="distiller")
        method = method or NoDistillation()
        if not isinstance(method, Method):
            method = KerasLoss(method)
        if main_loss not in ("cross_entropy", "none"):
            raise UserError(f"main_loss must be cross_entropy or none, not {main_loss!r}")
        if method.needs_teacher and teacher is None:
            raise UserError(f"{type(method).__name__} needs a teacher, and none was given")
        if main_loss == "none" and not method.needs_teacher:
            raise UserError("without a main loss and without a teacher there is nothing to learn")
        method.validate_model_compatibility(teacher, student)
        self.method = method
        self.student = student
        self.main_loss = main_loss
        self.weight_decay = weight_decay
        self._student_preprocessing = student_preprocessing or _as_it_is
        self._teacher_preprocessing = teacher_preprocessing or _as_it_is
        student_outputs = student_outputs or self._outputs(student, method.student_taps)
        self._student_features = _Untracked(feature_extractor(student, student_outputs))
        _check_logits("student", student)
        self._teacher = _Untracked(teacher if method.needs_teacher else None)
        self._teacher_features = _Untracked(None)
        if method.needs_teacher:
            teacher_outputs = teacher_outputs or self._outputs(teacher, method.teacher_taps)
            self._teacher_features = _Untracked(feature_extractor(teacher, teacher_outputs))
            if "logits" in method.reads:
                _check_logits("teacher", teacher, teacher_outputs)
            if samples is not None:
                method.begin(samples, self._student_features.model.output["logits"].shape[-1])
            features = (self._teacher_features.model.output, self._student_features.model.output)
            for term in method.terms:
                term.build(*(term.reading(one) for one in features))
        self._enter(method.stages[0], first_epoch=0)
        self._leads_through_stages = len(method.stages) > 1
        self.method_layers = list(method.layers)
        self._deployed = _Untracked(method.deployed(student))
        self.epoch = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="epoch"
        )
        names = [*_SCORES, *self._distillation_figures()]
        names += ["clip_share"] if self._clips() else []
        self._figures = {name: keras.metrics.Mean(name) for name in names}
        self._is_evaluating = False
        self.built = True

    def _outputs(self, model: keras.Model, taps: tuple[str, ...] | None) -> Outputs:
        """Declared outputs, or those at `taps`; a method that compares no maps needs no taps to be
        named."""
        if taps is not None or "maps" in self.method.reads:
            return outputs_of(model, taps)
        try:
            return outputs_of(model)
        except UserError:
            return outputs_of(model, taps=(model.layers[-1].name,))

    def _distillation_figures(self) -> list[str]:
        """The names of what the distillation loss has to log."""
        return self._figures_of(self.method.terms) if self.method.needs_teacher else []

    def _figures_of(self, terms: Sequence[Method]) -> list[str]:
        own = [loss_name(term) for term in terms] if len(self.method.terms) > 1 else []
        return ["distillation_loss", *own, *(name for term in terms for name in term.figures)]

    def _active_terms(self, stage: Stage) -> list[tuple[Method, Stage]]:
        """The methods that have a loss in a stage, with the stage as each declares it. In a sum, a
        method that does not know the stage takes part where there is a main loss."""
        if not self.method.needs_teacher:
            return []
        active = []
        for term in self.method.terms:
            own = next((known for known in term.stages if known.name == stage.name), None)
            if own.distillation_loss if own else stage.main_loss:
                active.append((term, own or stage))
        return active

    def _distils(self) -> bool:
        return bool(self._active_terms(self.stage))

    def _clips(self) -> bool:
        clipped = any(term.combination == "clip" for term in self.method.terms)
        return self.method.needs_teacher and clipped and self.main_loss != "none"

    def _logs_clip(self) -> bool:
        active = any(term.combination == "clip" for term, _ in self._active_terms(self.stage))
        return active and self._clips() and self.stage.main_loss

    def __dir__(self) -> list[str]:
        # Keras saves each part of a model that dir() shows, and the teacher is no part of this one.
        return [name for name in super().__dir__() if name not in ("teacher", "deployed")]

    @property
    def teacher(self) -> keras.Model | None:
        """The teacher, or None; not tracked as a part of this model."""
        return self._teacher.model

    @property
    def deployed(self) -> keras.Model:
        """The model that is judged and exported: the student, or what the method makes of it."""
        return self._deployed.model

    def saved_variables(self) -> list[keras.Variable]:
        """What a checkpoint has to hold: this model's variables, and a teacher's that learns."""
        learns = self.method.trains_teacher
        return [*self.variables, *(self.teacher.variables if learns else [])]

    def student_features(self, image: tf.Tensor) -> dict[str, Any]:
        """The student's maps, embedding and logits for a batch's images, in inference mode."""
        return self._student_features.model(self._student_preprocessing(image), training=False)

    def teacher_features(self, image: tf.Tensor) -> dict[str, Any]:
        """The teacher's, likewise."""
        return self._teacher_features.model(self._teacher_preprocessing(image), training=False)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self._figures.values())

    def start_stage(self, stage: Stage, first_epoch: int = 0) -> None:
        """Train as `stage` says from now on; the next stage is begun by the caller as well.

        Args:
            first_epoch: of the stage, in the run: from there on the clip opens.
        """
        self._leads_through_stages = False
        self._enter(stage, first_epoch)

    def _enter(self, stage: Stage, first_epoch: int) -> None:
        self.stage = stage
        self._first_epoch = first_epoch
        self.train_function = None

    def call(self, image: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The deployed model's logits ``[B, classes]`` for a batch's images."""
        return self.deployed(self._student_preprocessing(image), training=training)

    def compile(self, optimizer: Any = None, jit_compile: bool = False, **kwargs: Any) -> None:
        """As `keras.Model.compile`; the losses are this model's own.

        Args:
            optimizer: None: the paper's, SGD with Nesterov momentum 0.9 and learning rate 1e-2.
            jit_compile: off unless asked for, also where Keras would turn it on.
        """
        optimizer = optimizer or keras.optimizers.SGD(1e-2, momentum=0.9, nesterov=True)
        self._compile_again = functools.partial(self.compile, jit_compile=jit_compile, **kwargs)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        *,
        initial_epoch: int = 0,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """As `keras.Model.fit`, through the method's stages; counts the epochs, which the clip
        depends on.

        Args:
            x, y, batch_size, initial_epoch, callbacks, **kwargs: as there.
            epochs: of all stages together, which share them as the method says. Where there are
                fewer than stages, the last stages are left out, with a warning.
        """
        with self.distribute_strategy.scope():
            self.optimizer.build(self.variables_ever_trained())
        callbacks = [_EpochCounter(self), *(callbacks or [])]
        if not self._leads_through_stages:
            return super().fit(
                x, y, batch_size, epochs, initial_epoch=initial_epoch, callbacks=callbacks, **kwargs
            )
        history, first = keras.callbacks.History(), 0
        history.set_model(self)
        history.on_train_begin()
        stages = self.method.stages
        if epochs < len(stages):
            warnings.warn(
                f"{epochs} epochs for the stages {', '.join(stage.name for stage in stages)}: "
                "the last are left out", stacklevel=2,
            )
            stages = stages[:epochs]
        for stage, last in zip(stages, stage_ends(stages, epochs), strict=True):
            self._enter(stage, first)
            if stage.new_optimizer and first:
                self._begin_anew()
            if last > initial_epoch:
                part = super().fit(
                    x, y, batch_size, last, initial_epoch=max(first, initial_epoch),
                    callbacks=callbacks, **kwargs,
                )
                history.epoch += part.epoch
                for name, values in part.history.items():
                    history.history.setdefault(name, []).extend(values)
            first = last
        self.history = history
        return history

    def _begin_anew(self) -> None:
        """Put an optimizer of the same settings, and no memory, in place of the present one."""
        with self.distribute_strategy.scope():
            settings = keras.optimizers.serialize(self.optimizer)
            self._compile_again(keras.optimizers.deserialize(settings))
            self.optimizer.build(self.variables_ever_trained())

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`."""
        self._is_evaluating = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._is_evaluating = False

    def get_metrics_result(self) -> dict[str, Any]:
        """The means that the step at hand logs, over all replicas. Were there others among them,
        Keras would take the mean of the replicas' means instead."""
        names = list(_SCORES)
        if self._distils() and not self._is_evaluating:
            names += self._figures_of([term for term, _ in self._active_terms(self.stage)])
            names += ["clip_share"] if self._logs_clip() else []
        return {name: self._figures[name].result() for name in names}

    def variables_to_train(self) -> list[keras.Variable]:
        """The variables that the present stage trains."""
        return self._variables_of(self.stage)

    def variables_ever_trained(self) -> list[keras.Variable]:
        """The variables that any stage trains, for which an optimizer is to be built."""
        variables = [v for stage in self.method.stages for v in self._variables_of(stage)]
        return list({id(variable): variable for variable in variables}.values())

    def _variables_of(self, stage: Stage) -> list[keras.Variable]:
        trained = self._student_variables(stage)
        if self.method.trains_teacher and stage.trains == "all":
            trained = trained + self.teacher.trainable_variables
        layers = [
            layer for term, own in self._active_terms(stage) for layer in term.layers
            if own.layers is None or layer.name in own.layers
        ]
        return [*trained, *(variable for layer in layers for variable in layer.trainable_variables)]

    def _student_variables(self, stage: Stage) -> list[keras.Variable]:
        if stage.trains == "nothing":
            return []
        variables = self.student.trainable_variables
        deployed = self.deployed is self.student
        if stage.trains == "all" and deployed:
            return variables
        features = self._student_features.model
        taps = features.output["maps"]
        chosen = taps if stage.taps is None else [taps[number] for number in stage.taps]
        reached = {id(v) for v in keras.Model(features.inputs, chosen).trainable_variables}
        return [variable for variable in variables if id(variable) in reached]

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        batch, weight = replicas.never_empty(as_batch(data))
        variables = self.variables_to_train()
        with tf.GradientTape(persistent=self._logs_clip()) as tape:
            student = self._student_features.model(
                self._student_preprocessing(batch.image), training=self.stage.trains != "nothing"
            )
            teacher = self._features_to_learn_from(batch.image)
            losses, figures = self._distillation_losses(teacher, student, batch, weight)
            losses["add"] += self._main_loss(teacher, student, batch.label)
            total = losses["add"] + losses["clip"]
        if self._logs_clip():
            g0, g1 = (
                replicas.global_sum_present(tape.gradient(losses[how], variables))
                for how in ("add", "clip")
            )
            g0 = self._with_weight_decay(g0, variables)
            epoch = self.epoch.value - self._first_epoch
            gradients, figures["clip_share"] = clipped_combination(g0, g1, epoch)
        else:
            gradients = replicas.global_sum_present(tape.gradient(total, variables))
            gradients = self._with_weight_decay(gradients, variables)
        replicas.apply_summed(self.optimizer, gradients, variables)
        return self._log(self.method.logits(student), batch.label, figures, weight)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        batch = as_batch(data)
        logits = tf.cast(self._predicted(batch.image), tf.float32)
        return self._log(logits, batch.label, {}, tf.constant(1.0))

    def predict_step(self, data: Any) -> tf.Tensor:
        return self._predicted(as_batch(data).image)

    def _predicted(self, image: tf.Tensor) -> tf.Tensor:
        """The logits; also where a replica has no images (see `replicas.never_empty`)."""
        if replicas.count() == 1:
            return self(image, training=False)
        size = tf.shape(image)[0]
        padding = [[0, tf.cast(size == 0, tf.int32)], *[[0, 0]] * (image.shape.rank - 1)]
        some = tf.pad(image, padding)
        return self(tf.ensure_shape(some, image.shape), training=False)[:size]

    def _features_to_learn_from(self, image: tf.Tensor) -> dict[str, Any]:
        """The teacher's features in a training step; it learns from them or has no gradient."""
        if not self._distils():
            return {}
        if self.method.trains_teacher:
            return self._teacher_features.model(self._teacher_preprocessing(image), training=True)
        return tf.nest.map_structure(tf.stop_gradient, self.teacher_features(image))

    def _main_loss(
        self, teacher: dict[str, Any], student: dict[str, Any], label: tf.Tensor
    ) -> tf.Tensor:
        """This replica's part of the main loss, the student's and that of a teacher that learns."""
        if self.main_loss == "none" or not self.stage.main_loss:
            return tf.constant(0.0)
        loss = self._mean_cross_entropy(student["logits"], label)
        if teacher and self.method.trains_teacher:
            loss += self._mean_cross_entropy(teacher["logits"], label)
        return self.method.main_weight * loss

    def _mean_cross_entropy(self, logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        """This replica's part of the cross-entropy's mean over all labelled images of the batch."""
        loss, labelled = cross_entropy(logits, label)
        count = replicas.global_sum(tf.reduce_sum(labelled))
        return tf.math.divide_no_nan(tf.reduce_sum(loss * labelled), count)

    def _distillation_losses(
        self, teacher: dict[str, Any], student: dict[str, Any], batch: Batch, weight: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """This replica's part of the distillation losses of the global batch, weighted: those to
        be added to the main loss, and those whose gradient is to be clipped; and figures to log."""
        losses = {"add": tf.constant(0.0), "clip": tf.constant(0.0)}
        if not self._distils():
            return losses, {}
        figures: dict[str, tf.Tensor] = {}
        for term, stage in self._active_terms(self.stage):
            loss, logged, own = self._distillation_term(
                term, stage.reduction or term.reduction, teacher, student, batch, weight
            )
            losses[term.combination] += tf.cast(term.distillation_weight * loss, tf.float32)
            logged = tf.cast(logged, tf.float32)
            if len(self.method.terms) > 1:
                own[loss_name(term)] = logged
                logged *= term.distillation_weight
            figures["distillation_loss"] = figures.get("distillation_loss", 0.0) + logged
            figures |= own
        return losses, figures

    def _distillation_term(
        self,
        term: Method,
        reduction: str,
        teacher: dict[str, Any],
        student: dict[str, Any],
        batch: Batch,
        weight: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """This replica's part of one method's loss of the global batch; the same per image, to be
        logged; and the method's figures."""
        teacher, student = term.reading(teacher), term.reading(student)
        local = weight * tf.cast(tf.shape(batch.label)[0], tf.float32)
        samples = replicas.global_sum(local)
        context = {"labels": batch.label, "indices": batch.index}
        if term.couples_samples:
            teacher, student, context = replicas.global_batch(
                (teacher, student, context), samples
            )
        loss, figures = term.compute(
            teacher, student, epoch=self.epoch.value, stage=self.stage.name, **context
        )
        if loss.shape.rank != 0:
            raise UserError(
                f"{type(term).__name__} gives a loss of shape {loss.shape}; expected one number, "
                "the mean over the batch, or its sum where the method says reduction = 'sum'"
            )
        share = tf.cast(tf.math.divide_no_nan(local, samples), loss.dtype)
        if term.couples_samples:
            loss /= replicas.count()
        elif reduction == "mean":
            loss = tf.where(share > 0, loss * share, 0)  # the mean of no samples is NaN
        else:
            loss *= tf.cast(weight, loss.dtype)
        # Logged per image, whether the method sums or averages.
        per = tf.cast(local, loss.dtype) if reduction == "sum" else share
        return loss, tf.math.divide_no_nan(loss, per), dict(figures)

    def _with_weight_decay(
        self, gradients: list[tf.Tensor | None], variables: list[keras.Variable]
    ) -> list[tf.Tensor | None]:
        """`gradients` of the global batch with that of ``weight_decay / 2 ||w||^2`` for kernels."""

        def decayed(gradient: tf.Tensor | None, variable: keras.Variable) -> tf.Tensor | None:
            if not variable.path.endswith("kernel"):
                return gradient
            decay = self.weight_decay * variable.value
            return decay if gradient is None else gradient + tf.cast(decay, gradient.dtype)

        return [decayed(*pair) for pair in zip(gradients, variables, strict=True)]

    def _log(
        self,
        logits: tf.Tensor,
        label: tf.Tensor,
        figures: dict[str, tf.Tensor],
        weight: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Update the running means, in which each sample counts for `weight`, and return them."""
        loss, labelled = cross_entropy(logits, label)
        labelled *= tf.cast(weight, labelled.dtype)
        known = tf.maximum(label, 0)
        self._figures["main_loss"].update_state(loss, labelled)
        for name, k in (("accuracy", 1), ("top5", 5)):
            hit = tf.cast(tf.math.in_top_k(known, logits, k), tf.float32)
            self._figures[name].update_state(hit, labelled)
        weight *= tf.cast(tf.shape(label)[0], tf.float32)
        for name, value in figures.items():
            # A replica without images has nothing to say, and may say NaN.
            self._figures[name].update_state(tf.where(weight > 0, value, 0), weight)
        shown = [*_SCORES, *figures]
        return {name: self._figures[name].result() for name in shown}


class _EpochCounter(keras.callbacks.Callback):
    """Tells the distiller which epoch it is in."""

    def __init__(self, distiller: Distiller):
        super().__init__()
        self._distiller = distiller

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._distiller.epoch.assign(epoch)


def _check_logits(whose: str, model: keras.Model, outputs: Outputs | None = None) -> None:
    """Raise UserError where what is taken for a network's logits are probabilities."""
    elsewhere = outputs is not None and outputs.logits != output_layer_of(model.outputs[0])
    if gives_probabilities(model) and not elsewhere:
        raise UserError(
            f"the {whose} {model.name!r} ends in a softmax, but networks give logits here: leave "
            "it out of the last layer, or give nets.without_softmax(model)"
        )


def loss_name(term: Method) -> str:
    """Under which name a method's loss is logged where it is one of several."""
    return f"{name_of(type(term))}_loss"


def as_batch(data: Any) -> Batch:
    """A `Batch` from a dict ``{"image", "label", "index"}``, a pair ``(image, label)`` or images
    alone; what is missing is -1."""
    if isinstance(data, tuple) and isinstance(data[0], dict):
        data = data[0]  # as `train_on_batch` hands it over
    if isinstance(data, dict):
        image, label, index = data["image"], data.get("label"), data.get("index")
    else:
        parts = data if isinstance(data, tuple) else (data,)
        image, label, index = (*parts, None, None)[:3]
    if label is not None and len(label.shape) > 1 and label.shape[-1] not in (1, None):
        raise UserError(
            f"labels are of shape {tuple(label.shape)}, one-hot perhaps; expected the number of "
            "each image's class, (batch,): numpy.argmax(labels, axis=1) gives it"
        )
    unknown = tf.fill(tf.shape(image)[:1], -1)
    label = unknown if label is None else tf.cast(tf.reshape(label, [-1]), tf.int32)
    return Batch(image, label, tf.cast(unknown if index is None else index, tf.int64))


def cross_entropy(logits: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross-entropy of each image ``[B]`` and whether it is labelled ``[B]``, 1 or 0.

    Args:
        logits: ``[B, classes]``.
        label: ``[B]``, -1 where there is none.
    """
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(label, 0), logits)
    return loss, tf.cast(label >= 0, loss.dtype)


def _as_it_is(image: tf.Tensor) -> tf.Tensor:
    return image

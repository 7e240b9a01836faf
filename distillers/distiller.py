"""The model that trains a student network with a distillation method."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

import replicas
from distillers import objective
from distillers.batch import (
    Batch,
    as_batch,
    check_labels,
    has_indices,
    has_mixtures,
    main_cross_entropy,
    with_indices,
    without_labels,
)
from distillers.callbacks import (
    OverAllStages,
    check_stages_can_be_fitted,
    judges,
    with_direction,
)
from distillers.checks import check_given_outputs
from distillers.keras_loss import KerasLoss
from distillers.loss import Loss, Trains
from distillers.method import Method
from distillers.networks import Preprocessing, check_networks, classifier_layer, read_networks
from distillers.none import NoDistillation
from distillers.stages import (
    Part,
    RunStage,
    check_stages,
    first_epochs,
    parts_of_run,
    run_stages,
)
from distillers.sum import Sum
from nets import Outputs, convolutions_by, limited_memory, open_convolutions
from nets.finite_steps import (
    SKIPPED,
    apply_if_finite,
    batch_statistics,
    check_skipped,
    values_of,
)
from nets.keras_graph import BuiltModel, Untracked
from nets.layer_losses import collected_losses, weight_losses
from op_util.accuracy import top_k_hits
from op_util.convolution import convolve
from op_util.gradients import clipped_combination
from op_util.weight_decay import with_weight_decay
from registry import UserError

SCORES = ("loss", "main_loss", "accuracy", "top5")


class Distiller(BuiltModel):
    """Trains a student, next to its main task or without one, to be like a teacher.

    A training step makes one forward pass of each network. Losses and norms are those of the global
    batch, however many replicas share it. The teacher works in inference mode, unless the method
    trains it too, and is not a part of this model's variables; evaluation and prediction are the
    student's alone (or those of the model that the method makes of it to be deployed). If a
    gradient is not finite, the step uses zero gradients and is counted in ``skipped_steps``; `fit`
    gives up if more than a fifth of an epoch's steps are of this kind.

    Batches are dicts ``{"image", "label", "index"}`` or pairs ``(image, label)`` with the class's
    number as label; -1 marks an unlabelled image, which feeds the distillation loss only. Where
    images are mixtures of two, dicts have ``"share"`` and ``"other_label"`` too (see `Batch`): the
    main loss counts both labels, and a method that reads labels takes the larger part's. Where a
    dict has the teacher's features under ``"teacher"``, the teacher is not run in training.

    `fit` leads through all stages of a method that has several, unless `enter` was called: then it
    trains that stage.

    Args:
        student: functional Keras model from images to logits.
        method: what to learn from the teacher: a `Method`, a `Sum`, or any
            `keras.distillation.DistillationLoss` (see `KerasLoss`); None: nothing, the student
            alone.
        teacher: functional Keras model; None where the method needs none.
        student_outputs, teacher_outputs: the layers that the method compares; None: those that a
            registered network declares (see `nets.outputs_of`).
        student_preprocessing, teacher_preprocessing: from the batch's images to the network's
            input.
        main_loss: ``"cross_entropy"``, or ``"none"`` to transfer without any label: no method
            sees one, and methods that need labels are refused.
        weight_decay: factor of ``||w||^2 / 2``, on all kernels that are trained.
        label_smoothing: probability mass of the main loss's targets that is spread evenly over all
            classes, in [0, 1).
        samples: number of training images, for methods that keep something for each.
        epochs: of the whole run, which warm-ups are a share of; None: as many as `fit` is called
            with.

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
        label_smoothing: float = 0.0,
        samples: int | None = None,
        epochs: int | None = None,
    ):
        super().__init__(name="distiller")
        method = method or NoDistillation()
        if not isinstance(method, (Method, Sum)):
            method = KerasLoss(method)
        check_networks(method, student, teacher, main_loss)
        self.method = method
        self.student = student
        self.main_loss = main_loss
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        # Keras tracks neither of the two, nor what `Untracked` holds.
        self._student, self._teacher = read_networks(
            method, student, teacher, (student_outputs, teacher_outputs),
            (student_preprocessing, teacher_preprocessing),
        )
        self._built = Untracked(self._build_losses(samples))
        self._check_reached()
        self.method_layers = [layer for loss in self.distillation_losses for layer in loss.layers]
        for each in (*self._learning_networks(), *self.method_layers):
            open_convolutions(each)
        self._stages = Untracked(run_stages(self.distillation_losses))
        check_stages(self.stages, method.name, main_loss)
        deploy = next((loss.deploy for loss in self.distillation_losses if loss.deploy), None)
        self._deployed = Untracked(deploy(student) if deploy else student)
        self.epoch = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="epoch"
        )
        self._run_epochs = self._epochs = epochs
        names = [name for stage in self.stages for name in self._names_in(stage)]
        names = dict.fromkeys([*SCORES, *names, SKIPPED])
        self._means = {name: keras.metrics.Mean(name) for name in names}
        self._class_weights: Untracked | None = None
        self._leads_through_stages = len(self.stages) > 1
        self._is_evaluating = False
        self._enter(self.stages[0], 0)
        self.built = True

    # Networks and losses

    def _build_losses(self, samples: int | None) -> list[Loss]:
        if self._teacher is None:
            return [self.method.build()]
        features = (self._teacher.features.output, self._student.features.output)
        with limited_memory(f"what {self.method.name} adds"):
            losses = [
                member.build(*map(member.select, features), samples=samples)
                for member in self.method.members
            ]
        deploying = [loss.method.name for loss in losses if loss.deploy]
        if deploying and len(losses) > 1:
            raise UserError(f"{deploying[0]} deploys a model of its own, so it cannot be in a sum")
        return losses

    def _check_reached(self) -> None:
        """Raise UserError if a method reads only what nothing changes: layers that are frozen."""
        features = self._student.features
        for loss in self.distillation_losses if self._teacher else []:
            read = keras.tree.flatten(loss.method.select(features.output))
            # A method's own layers, such as adapters, learn, but what they learn is dropped.
            learns = keras.Model(features.inputs, read).trainable_variables or loss.deploy
            if not learns:
                raise UserError(
                    f"{loss.method.name} compares layers of the student {self.student.name!r} that "
                    "are all frozen (trainable=False), so it teaches nothing: tap later layers, or "
                    "let them be trained"
                )

    @property
    def distillation_losses(self) -> list[Loss]:
        """The method's loss, or those of a sum, built for the networks."""
        return self._built.value

    @property
    def notes(self) -> list[str]:
        """How the method was fitted to the two networks, a line each."""
        return [note for loss in self.distillation_losses for note in loss.notes]

    @property
    def teacher(self) -> keras.Model | None:
        """The teacher, or None; not tracked as a part of this model."""
        return self._teacher and self._teacher.model

    @property
    def deployed(self) -> keras.Model:
        """The model that is judged and exported: the student, or what the method makes of it."""
        return self._deployed.value

    def __dir__(self) -> list[str]:
        # Keras saves each part of a model that dir() shows, and the teacher is no part of this one.
        return [name for name in super().__dir__() if name not in ("teacher", "deployed")]

    def student_features(self, image: tf.Tensor) -> dict[str, Any]:
        """The student's maps, embedding and logits for a batch's images, in inference mode."""
        return self._student(image)

    def teacher_features(self, image: tf.Tensor) -> dict[str, Any]:
        """The teacher's, likewise."""
        return self._teacher(image)

    @property
    def teacher_outputs(self) -> Outputs | None:
        """The layers that the teacher's features come from; None: there is no teacher."""
        return self._teacher and self._teacher.outputs

    def teacher_preprocessing(self, image: tf.Tensor) -> tf.Tensor:
        """What the teacher is given for a batch's images."""
        return self._teacher.preprocess(image)

    # Stages

    @property
    def stages(self) -> list[RunStage]:
        """The stages of a run."""
        return self._stages.value

    def parts(self, epochs: int) -> list[Part]:
        """The stages of a run of this many epochs; from now on warm-ups are a share of these."""
        self._run_epochs = self._epochs = epochs
        return parts_of_run(self.stages, epochs)

    def enter(self, part: Part) -> None:
        """Train a part of a run from now on; the caller begins the next one as well."""
        self._leads_through_stages = False
        self._enter(part.stage, part.first)

    def _enter(self, stage: RunStage, first_epoch: int) -> None:
        self._stage = Untracked(stage)
        self._first_epoch = first_epoch
        self.train_function = None

    @property
    def stage(self) -> RunStage:
        """The present stage."""
        return self._stage.value

    def _clips(self) -> bool:
        """Whether the present stage clips a gradient against the main task's."""
        return self.main_loss != "none" and self.stage.clips

    def _has_main_loss(self) -> bool:
        """Whether the present stage has a main loss."""
        return self.main_loss != "none" and self.stage.main_weight > 0

    def variables_to_train(self) -> list[keras.Variable]:
        """The variables that the present stage trains."""
        return self._variables_of(self.stage)

    def variables_ever_trained(self) -> list[keras.Variable]:
        """The variables that any stage trains, for which an optimizer is to be built."""
        variables = [v for stage in self.stages for v in self._variables_of(stage)]
        return list({id(variable): variable for variable in variables}.values())

    def saved_variables(self) -> list[keras.Variable]:
        """What a checkpoint has to hold: this model's variables, and a teacher's that learns."""
        learns = self.method.trains_teacher
        return [*self.variables, *(self.teacher.variables if learns else [])]

    def _variables_of(self, stage: RunStage) -> list[keras.Variable]:
        variables = list(self._student_variables(stage))
        if self.method.trains_teacher and stage.lead.trains is Trains.ALL:
            variables += self.teacher.trainable_variables
        layers = [layer for term in stage.terms for layer in term.stage.layers]
        return variables + [v for layer in layers for v in layer.trainable_variables]

    def _student_variables(self, stage: RunStage) -> list[keras.Variable]:
        variables = self.student.trainable_variables
        trains, taps = stage.lead.trains, stage.lead.taps
        if trains is Trains.NOTHING:
            return []
        if trains is Trains.CLASSIFIER:
            return classifier_layer(self.student).trainable_variables
        if trains is Trains.ALL and self.deployed is self.student:
            return variables
        features = self._student.features
        maps = features.output["maps"]
        chosen = maps if taps is None else [maps[number] for number in taps]
        reached = {id(v) for v in keras.Model(features.inputs, chosen).trainable_variables}
        return [variable for variable in variables if id(variable) in reached]

    # Steps

    def call(self, image: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The deployed model's logits ``[B, classes]`` for a batch's images."""
        if self.deployed is self.student:
            return self._student(image, training=training)["logits"]
        return self.deployed(self._student.preprocess(image), training=training)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        batch, weight = replicas.never_empty(as_batch(data), replicas.copies_of(data))
        # `never_empty` takes tensors only, so `as_batch` filled every field. From here on a field
        # that the data lack is None again.
        if not has_indices(data):
            batch = batch._replace(index=None)
        if not has_mixtures(data):
            batch = batch._replace(share=None, other_label=None)
        batch = self._weighted_by_class(batch)
        variables = self.variables_to_train()
        layers = (*self._learning_networks(), *self.method_layers)
        statistics = values_of(batch_statistics(layers))
        with convolutions_by(convolve), tf.GradientTape(persistent=self._clips()) as tape:
            with collected_losses() as student_losses:
                student = self._student(batch.image, training=self.stage.changes_features)
            student = self._with_projection(student)
            with collected_losses() as teacher_losses:
                teacher = self._features_to_learn_from(batch)
            share = objective.share_of_images(batch, weight)
            main = self._main_loss(teacher, student, batch)
            if self._has_main_loss():
                main += self._layer_losses(student_losses, teacher_losses, share)
            added, clipped, metrics = self._distillation_parts(teacher, student, batch, weight)
            main += added
            total = main + sum(clipped)
        losses = (main, *clipped) if self._clips() else (total,)
        gradients = self._gradients(tape, losses, variables, metrics)
        metrics["loss"] = tf.math.divide_no_nan(total, share)
        metrics[SKIPPED] = apply_if_finite(self.optimizer, gradients, variables, statistics)
        logits = self._deployed_logits(student)
        return self._log(logits, batch, metrics, weight, self.label_smoothing)

    def _gradients(
        self,
        tape: tf.GradientTape,
        losses: Sequence[tf.Tensor],
        variables: list[keras.Variable],
        metrics: dict[str, tf.Tensor],
    ) -> list[tf.Tensor | None]:
        """The global batch's gradients, with weight decay. Those of all losses but the first, one
        for each clip group, are clipped against the first's: the paper's ``g = g0 + clip(g1)``."""
        g0, *rest = (
            replicas.global_sum_present(tape.gradient(loss, variables)) for loss in losses
        )
        if not rest:
            return with_weight_decay(g0, variables, self.weight_decay)
        g0 = with_weight_decay(g0, variables, self.weight_decay)
        groups = self.stage.clip_groups
        epochs = [self._epochs_since(group.begins) for group in groups]
        bounds = [group.bound for group in groups]
        combined, metrics["clip_share"] = clipped_combination(g0, rest, epochs, bounds)
        # Adapters and the like, which the main loss does not reach, have not decayed yet.
        alone = [g if main is None else None for g, main in zip(combined, g0, strict=True)]
        alone = with_weight_decay(alone, variables, self.weight_decay)
        return [g if own is None else own for g, own in zip(combined, alone, strict=True)]

    def _epochs_since(self, begins: int) -> tf.Tensor:
        """How many epochs have ended since the stage of the number `begins` began, int32 scalar."""
        first = self._first_epoch
        if self.stages[begins] is not self.stage and self._epochs:
            first = first_epochs(self.stages, self._epochs)[begins]
        return self.epoch.value - first

    def _learning_networks(self) -> list[keras.Model]:
        """The student, and a teacher that is trained too."""
        return [self.student, *([self.teacher] if self.method.trains_teacher else [])]

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        batch = as_batch(data)._replace(share=None, other_label=None)
        copies = replicas.copies_of(data)
        weight = tf.constant(1.0) if copies is None else 1 / tf.cast(copies, tf.float32)
        logits = tf.cast(self._predicted(batch.image), tf.float32)
        return self._log(logits, batch, {}, weight)

    def predict_step(self, data: Any) -> tf.Tensor:
        return self._predicted(as_batch(data).image)

    def _predicted(self, image: tf.Tensor) -> tf.Tensor:
        """The logits; also where a replica has no images (see `replicas.never_empty`)."""
        if replicas.count() == 1:
            return self.call(image, training=False)
        size = tf.shape(image)[0]
        padding = [[0, tf.cast(size == 0, tf.int32)], *[[0, 0]] * (image.shape.rank - 1)]
        some = tf.pad(image, padding)
        return self.call(tf.ensure_shape(some, image.shape), training=False)[:size]

    def _features_to_learn_from(self, batch: Batch) -> dict[str, Any]:
        """The teacher's features in a training step, those that the batch brings or else all of
        them; it learns from them or has no gradient."""
        if not self.stage.distils:
            return {}
        if batch.teacher:
            check_given_outputs(self.method, batch.teacher)
            return {name: tf.cast(each, tf.float32) for name, each in batch.teacher.items()}
        if any(term.loss.method.trains_teacher for term in self.stage.terms):
            return self._teacher(batch.image, training=True)
        return tf.nest.map_structure(tf.stop_gradient, self._teacher(batch.image))

    def _main_loss(
        self, teacher: dict[str, Any], student: dict[str, Any], batch: Batch
    ) -> tf.Tensor:
        """This replica's part of the main loss: the student's, and that of a teacher that
        learns."""
        if not self._has_main_loss():
            return tf.constant(0.0)
        logits = [self._deployed_logits(student)]
        if teacher and self.method.trains_teacher:
            logits.append(teacher["logits"])
        return self.stage.main_weight * objective.main_loss(logits, batch, self.label_smoothing)

    def _layer_losses(
        self, student_losses: list[tf.Tensor], teacher_losses: list[tf.Tensor], share: tf.Tensor
    ) -> tf.Tensor:
        """This replica's part of the losses that the layers of the learning networks add."""
        of_images, of_weights = student_losses, weight_losses(self._student.features)
        if self.method.trains_teacher:
            of_images = [*of_images, *teacher_losses]
            of_weights = [*of_weights, *weight_losses(self._teacher.features)]
        return objective.part_of_layers_losses(of_images, of_weights, share)

    def _distillation_parts(
        self, teacher: dict[str, Any], student: dict[str, Any], batch: Batch, weight: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor], dict[str, tf.Tensor]]:
        """This replica's part of the distillation losses of the present stage: those that are added
        to the main loss, those that are clipped, and metrics."""
        if self.main_loss == "none":
            batch = without_labels(batch)
        weights = [
            objective.weight_in_epoch(term, self._epochs_since(term.begins), self._epochs)
            for term in self.stage.terms
        ]
        return objective.distillation_losses(
            self.stage, teacher, student, batch, weight, self.epoch.value, weights
        )

    def _with_projection(self, student: dict[str, Any]) -> dict[str, Any]:
        """The student's features, with ``"projected"`` if a method has a projection (see `Loss`).
        It is computed once, for the distillation loss, the main loss and the logs."""
        for loss in self.distillation_losses:
            if loss.projected:
                return {**student, "projected": loss.projected(student, training=True)}
        return student

    def _deployed_logits(self, student: dict[str, Any]) -> tf.Tensor:
        """The deployed model's logits, from what `_with_projection` returns."""
        for loss in self.distillation_losses:
            if loss.logits:
                return loss.logits(student["projected"])
        return student["logits"]

    # Metrics

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self._means.values())

    def _names_in(self, stage: RunStage) -> list[str]:
        """The names of what a stage logs of the distillation."""
        clips = self.main_loss != "none" and stage.clips
        return objective.metric_names(stage, self.stages) + (["clip_share"] if clips else [])

    def get_metrics_result(self) -> dict[str, Any]:
        """The means that the current step logs, over all replicas. With others among them, Keras
        would take the mean of the replicas' means instead."""
        names = list(SCORES)
        if not self._is_evaluating:
            names += [*self._names_in(self.stage), SKIPPED]
        return {name: self._means[name].result() for name in names}

    def _log(
        self, logits: tf.Tensor, batch: Batch, metrics: dict[str, tf.Tensor], weight: tf.Tensor,
        smoothing: float = 0.0,
    ) -> dict[str, tf.Tensor]:
        """Update the running means, in which each sample counts for `weight`, and return them. A
        step that is skipped counts in the accuracies and ``skipped_steps`` alone: NaN in one of
        them would hide the others of its epoch."""
        loss, share_labelled = main_cross_entropy(logits, batch, smoothing)
        share_labelled *= tf.cast(weight, share_labelled.dtype)
        counts = metrics.get(SKIPPED, tf.constant(0.0)) == 0
        loss = tf.where(counts, loss, 0)
        share_labelled = tf.where(counts, share_labelled, 0)
        labelled = tf.cast(weight, tf.float32) * tf.cast(batch.label >= 0, tf.float32)
        known = tf.maximum(batch.label, 0)
        self._means["main_loss"].update_state(loss, share_labelled)
        if "loss" not in metrics:
            self._means["loss"].update_state(loss, share_labelled)
        for name, k in (("accuracy", 1), ("top5", 5)):
            self._means[name].update_state(top_k_hits(logits, known, k), labelled)
        weight *= tf.cast(tf.shape(batch.label)[0], tf.float32)
        logged = [name for name in self._means if name in metrics]
        for name in logged:
            part = weight if name == SKIPPED else tf.where(counts, weight, 0)
            # A replica without images has no metrics; what it computes may be NaN.
            self._means[name].update_state(tf.where(part > 0, metrics[name], 0), part)
        return {name: self._means[name].result() for name in dict.fromkeys([*SCORES, *logged])}

    # Keras' entry points

    losses_come_from = "a method, main_loss or a keras.distillation loss"

    def compile(
        self, optimizer: Any = None, *losses: Any, jit_compile: bool = False, **kwargs: Any
    ) -> None:
        """As `keras.Model.compile`; the losses and metrics are this model's own.

        Args:
            optimizer: None: the paper's, SGD with Nesterov momentum 0.9 and learning rate 1e-2.
            *losses: refused, as are all losses and metrics.
            jit_compile: off unless asked for, also where Keras would turn it on.
            **kwargs: as there.

        Raises:
            UserError: a loss, metrics, a LossScaleOptimizer or moving averages are given.
        """
        with self.distribute_strategy.scope():
            optimizer = optimizer or keras.optimizers.SGD(1e-2, momentum=0.9, nesterov=True)
        self._fresh: Untracked | None = None  # the optimizer's variables before the first step
        super().compile(optimizer, *losses, jit_compile=jit_compile, **kwargs)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        *,
        initial_epoch: int = 0,
        callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback | None = None,
        validation_data: Any = None,
        class_weight: Mapping[int, float] | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """As `keras.Model.fit`, through the method's stages; counts the epochs, which the clip
        depends on.

        Args:
            x, y, batch_size, initial_epoch, validation_data, class_weight, **kwargs: as there;
                sample and class weights weigh the main loss, and `loss` in the logs, not
                `main_loss`. An array's images are numbered in its order.
            callbacks: as there. Those that monitor how well the student classifies take no part in
                stages before the last that do not train that. A later stage begins with the
                optimizer as it was at the first `fit` after `compile`, learning rate included.
            epochs: of all stages together, which share them as the method says. Where there are
                fewer than stages, the last stages are left out, with a warning.

        Raises:
            UserError: labels of an array or class weights name no class; `compile` was not called.
        """
        if not self.compiled:
            raise UserError("the distiller has no optimizer yet: call compile() before fit()")
        self._check_labels(y)
        if isinstance(validation_data, (tuple, list)):
            self._check_labels(*validation_data[1:2])
        self._weigh_classes(class_weight)
        with self.distribute_strategy.scope():
            self.optimizer.build(self.variables_ever_trained())
            if self._leads_through_stages and self._fresh is None:
                self._fresh = Untracked(values_of(self.optimizer.variables))
        given = [with_direction(each) for each in keras.tree.flatten(callbacks or [])]
        fit = functools.partial(
            super().fit, with_indices(x), y, batch_size, validation_data=validation_data, **kwargs
        )
        counter = _EpochCounter(self)
        try:
            if not self._leads_through_stages:
                self._share_warm_ups(epochs)
                return fit(epochs, initial_epoch=initial_epoch, callbacks=[counter, *given])
            check_stages_can_be_fitted(self.optimizer, given)
            return self._fit_stages(fit, epochs, initial_epoch, counter, given)
        finally:
            self._weigh_classes(None)  # as `train_on_batch` expects

    def _fit_stages(
        self,
        fit: Callable[..., keras.callbacks.History],
        epochs: int,
        initial_epoch: int,
        counter: keras.callbacks.Callback,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> keras.callbacks.History:
        """Call `fit` for each stage of a run, until a callback stops it, and join what it logs."""
        history = keras.callbacks.History()
        history.set_model(self)
        history.on_train_begin()
        stages = self.stages
        if epochs < len(stages):
            warnings.warn(
                f"{epochs} epochs for the stages {', '.join(stage.name for stage in stages)}: "
                "the last are left out", stacklevel=3,
            )
            stages = stages[:epochs]
        self._share_warm_ups(epochs)
        parts = parts_of_run(stages, epochs)
        own = [
            OverAllStages(
                each, lambda: self.stop_training or self.stage is parts[-1].stage, epochs
            )
            for each in callbacks
        ]
        for part in parts:
            self._enter(part.stage, part.first)
            if part.begins_anew and part.first >= max(initial_epoch, 1):
                self._begin_anew()
            if part.last <= initial_epoch:
                continue
            classifies = part.stage.main_weight > 0 or part is parts[-1]
            taking_part = [
                each for each, given in zip(own, callbacks, strict=True)
                if classifies or not judges(given)
            ]
            logged = fit(
                part.last, initial_epoch=max(part.first, initial_epoch),
                callbacks=[counter, *taking_part],
            )
            history.epoch += logged.epoch
            for name, values in logged.history.items():
                history.history.setdefault(name, []).extend(values)
            if self.stop_training:
                break
        self.history = history
        return history

    def _weigh_classes(self, weights: Mapping[int, float] | None) -> None:
        """Let the main loss of each image count by its class; None: all classes alike."""
        before, self._class_weights = self._class_weights, None
        if weights is not None:
            classes = self._number_of_classes()
            wrong = [label for label in weights if label not in range(classes)]
            if wrong:
                raise UserError(
                    f"class_weight has class {wrong[0]!r}; expected class numbers 0 to "
                    f"{classes - 1}"
                )
            table = [float(weights.get(label, 1.0)) for label in range(classes)]
            self._class_weights = Untracked(table)
        if before is not None or weights is not None:
            self.train_function = None  # the one before has the weights in its graph

    def _weighted_by_class(self, batch: Batch) -> Batch:
        """The batch, whose images weigh as their classes do; mixtures by the shares of theirs."""
        if self._class_weights is None:
            return batch
        table = tf.constant(self._class_weights.value, batch.weight.dtype)
        factor = tf.gather(table, tf.maximum(batch.label, 0))
        if batch.share is not None:
            share = tf.cast(batch.share, table.dtype)
            one = share * tf.cast(batch.label >= 0, table.dtype)
            other = (1 - share) * tf.cast(batch.other_label >= 0, table.dtype)
            factors = one * factor + other * tf.gather(table, tf.maximum(batch.other_label, 0))
            factor = tf.math.divide_no_nan(factors, one + other)
        return batch._replace(weight=batch.weight * factor)

    def _share_warm_ups(self, epochs: int) -> None:
        """Let warm-ups be a share of the run's epochs, or of `epochs` if those are not known."""
        epochs = self._run_epochs or epochs
        if epochs == self._epochs:
            return
        self._epochs = epochs
        terms = [term for stage in self.stages for term in stage.terms]
        if self._leads_through_stages or any(term.stage.warmup for term in terms):
            self.train_function = None  # the one before has their steps in its graph

    def _begin_anew(self) -> None:
        """Let the optimizer begin again, as it was before its first step."""
        with self.distribute_strategy.scope():
            for variable, value in self._fresh.value:
                variable.assign(value)

    def _number_of_classes(self) -> int:
        if self.deployed is self.student:
            return self._student.features.output["logits"].shape[-1]
        return self.deployed.outputs[0].shape[-1]

    def _check_labels(self, labels: Any = None) -> None:
        check_labels(labels, self._number_of_classes())

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`. Raises UserError where labels of an array name no class."""
        self._check_labels(y)
        self._is_evaluating = True
        try:
            return super().evaluate(x, y, *args, **kwargs)
        finally:
            self._is_evaluating = False

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Save the deployed model, the student, as `keras.Model.save` does; so
        `keras.callbacks.ModelCheckpoint` keeps a student that needs none of this."""
        self.deployed.save(filepath, *args, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Export the deployed model, the student, as `keras.Model.export` does."""
        self.deployed.export(filepath, *args, **kwargs)


class _EpochCounter(keras.callbacks.Callback):
    """Tells the distiller which epoch it is in, and gives up where too many steps are skipped."""

    def __init__(self, distiller: Distiller):
        super().__init__()
        self._distiller = distiller

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._distiller.epoch.assign(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        check_skipped(
            epoch, logs, "training diverges, or images or teacher are not finite; try a lower "
            "learning rate or a smaller weight of the method",
        )

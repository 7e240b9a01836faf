"""The model that trains one encoder by several pretext tasks at once."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from nets import Encoder, copy_encoder
from nets.keras_graph import BuiltModel
from op_util import replicas, temporal_ensemble
from pretext.balance import Balance
from pretext.batch import Batch, Use, as_batch, draws
from pretext.ensemble import TemporalMemory, WeightsAverage
from pretext.heads import SharedProjection
from pretext.measurement import Measurement
from pretext.regularizers import Regularizer
from pretext.task import Task
from registry import UserError

WIDTH = 128
"""Of every h and e."""


class Answers(NamedTuple):
    """What the tasks make of a batch.

    Attributes:
        inputs: of each task, its views.
        outputs, targets: of each task, what its head gives and what it should have given.
        embeddings: the e_t, float32 ``[B, T, width]`` of length 1.
    """

    inputs: list[list[tf.Tensor]]
    outputs: list[tf.Tensor]
    targets: list[Any]
    embeddings: tf.Tensor


class MultiTask(BuiltModel):
    """Trains an encoder without labels: ``sum_t factor_t L_t + gamma R + w E``.

    The definition is this project's own, built to do what the abstract of Kim, Lee and Song (ICCV
    Workshops 2019) says; their method section was not available.

    All views of one size go through the encoder in one pass. So batch normalisation sees a mixed
    batch: its statistics are those of all tasks' views together, no task's alone. Smaller views
    (jigsaw's tiles) are a pass, and so a batch of statistics, of their own. The moving averages of
    such a mixture belong to no kind of image: `evaluate` judges by batch statistics, as in
    training, and who uses the encoder sets them by clean images first
    (`nets.recompute_batch_statistics`).

    Losses, regularizer and ensemble are those of the global batch, however many replicas share it.
    Batches are dicts with ``image`` and ``index``; labels are never looked at.

    Args:
        encoder: to be trained; its network has the images' size or any.
        tasks: not yet built, for images of the data's size.
        balance: brings the tasks' losses to one size.
        regularizer: R, between the tasks' embeddings of the same images.
        regularizer_weight: gamma.
        memory: of the temporal ensemble E, with a row for each training image; None: no E.
        temperature: tau of E.
        ensemble_weight: w_max of E.
        ramp_epochs: after how many epochs w is w_max.
        average_decay: of the exponential average of all trained weights over the steps, by which
            the model is then judged and used; None: no average.
        weight_decay: factor of ``||w||^2 / 2`` of all kernels.
        seed: of the views' random numbers.
        sample: a fixed batch of training images, by which a balance that wants gradients measured
            (``gradnorm``) is measured.

    Raises:
        UserError: the encoder cannot take a task's views.
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[Task],
        *,
        balance: Balance,
        regularizer: Regularizer | None = None,
        regularizer_weight: float = 1.0,
        memory: TemporalMemory | None = None,
        temperature: float = 0.1,
        ensemble_weight: float = 1.0,
        ramp_epochs: float = 0.0,
        average_decay: float | None = None,
        weight_decay: float = 1e-4,
        seed: int = 0,
        sample: Batch | None = None,
    ):
        super().__init__(name="multi_task")
        if balance.interval and sample is None:
            raise ValueError("the balance wants gradients measured; give a sample")
        self.encoder = encoder
        self.tasks = tuple(tasks)
        self.network = encoder.model
        # Views stay as large as they are.
        self._standardize = dataclasses.replace(encoder.standardize, size=None)
        shapes = [task.view_shape for task in self.tasks]
        self._maps = _Untracked(
            {shape: map_model(encoder, shape) for shape in dict.fromkeys(shapes)}
        )
        for task in self.tasks:
            task.build(self._maps.held[task.view_shape].output_shape[1:], WIDTH)
        self.task_layers = [layer for task in self.tasks for layer in task.layers]
        self.projection = SharedProjection(WIDTH)
        self.balance = balance
        self.regularizer = regularizer if regularizer is not None and regularizer.acts else None
        self.regularizer_weight = regularizer_weight
        self.memory = memory
        self.temperature = temperature
        self.ensemble_weight = ensemble_weight
        self.ramp_epochs = ramp_epochs
        self.weight_decay = weight_decay
        self.seed = seed
        self._sample = sample
        self.epoch = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="epoch"
        )
        self.average = None
        if average_decay is not None:
            self.average = WeightsAverage(self.trainable_variables, average_decay)
        self._figures = {name: keras.metrics.Mean(name) for name in self._figure_names()}
        self._is_evaluating = False
        self.built = True

    # Keras' interface

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self._figures.values())

    def call(self, image: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The encoder's embedding ``[B, E]`` of raw images, in inference mode."""
        return self.encoder(image)["embedding"]

    def compile(self, optimizer: Any = None, jit_compile: bool = False, **kwargs: Any) -> None:
        """As `keras.Model.compile`; the losses are this model's own.

        Args:
            optimizer: None: Adam with learning rate 1e-3.
            jit_compile: off unless asked for, also where Keras would turn it on.
        """
        optimizer = optimizer or keras.optimizers.Adam(1e-3)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def fit(
        self,
        *args: Any,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """As `keras.Model.fit`; keeps count of the epochs, which views and weights depend on."""
        own: list[keras.callbacks.Callback] = [_EpochCounter(self)]
        if self.balance.interval:
            own.append(_Balancing(self, Measurement(self, self._sample)))
        with self.distribute_strategy.scope():
            self.optimizer.build(self.trainable_variables)
        return super().fit(*args, callbacks=[*own, *callbacks], **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`: each task's loss and metric, on the same views of an image in
        each call, with batch statistics; by the average of weights where there is one. Changes
        nothing."""
        self._is_evaluating = True
        try:
            with self._averaged(), self.unchanged():
                return super().evaluate(*args, **kwargs)
        finally:
            self._is_evaluating = False

    def trained_encoder(self) -> Encoder:
        """A copy of the encoder as it is now, on one device, with the average of weights where
        there is one. Its batch statistics are still those of training."""
        with self._averaged():
            return copy_encoder(self.encoder)

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        return self.average.applied() if self.average is not None else contextlib.nullcontext()

    def get_metrics_result(self) -> dict[str, Any]:
        """The means that the step at hand logs, over all replicas. Were there others among them,
        Keras would take the mean of the replicas' means instead."""
        names = self._held_out_names() if self._is_evaluating else self._training_names()
        return {name: self._figures[name].result() for name in names}

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        batch, weight = replicas.never_empty(as_batch(data))
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            answers = self.answers(batch, Use.TRAINING)
            terms, local, samples = self.task_terms(answers, weight)
            losses = replicas.global_sum(terms)
            factors = tf.stop_gradient(self.balance.factors(losses, samples, self.epoch.value))
            objective = tf.reduce_sum(factors * terms)
            figures = self._loss_figures(losses)
            coupled = self._coupled_terms(answers, batch, samples, figures)
            objective += coupled / replicas.count()
        gradients = replicas.global_sum_present(tape.gradient(objective, variables))
        gradients = self._with_weight_decay(gradients, variables)
        replicas.apply_summed(self.optimizer, gradients, variables)
        if self.average is not None:
            self.average.update()
        figures["loss"] = tf.reduce_sum(factors * losses) + tf.stop_gradient(coupled)
        return self._log(figures, local)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        batch, weight = replicas.never_empty(as_batch(data))
        answers = self.answers(batch, Use.HELD_OUT)
        terms, local, samples = self.task_terms(answers, weight)
        figures = self._loss_figures(replicas.global_sum(terms))
        for task, output, target in zip(
            self.tasks, answers.outputs, answers.targets, strict=True
        ):
            if task.couples_samples:
                output, target = replicas.global_batch((output, target), samples)
            figures[metric_name(task)] = tf.reduce_mean(task.score(output, target))
        return self._log(figures, local)

    # What a step is made of

    def answers(self, batch: Batch, use: Use) -> Answers:
        """Each task's view of the images, encoded in training mode, and what its head says.

        Args:
            batch: this replica's part.
            use: what for. Held-out views are the same in each epoch.
        """
        images = tf.cast(batch.image, tf.float32) / 255.0
        epoch = 0 if use is Use.HELD_OUT else self.epoch.value
        inputs, targets = [], []
        for task in self.tasks:
            uniform = draws(task.name, use, self.seed, epoch, batch.index, task.draws)
            views, target = task.views(images, uniform)
            inputs.append(views)
            targets.append(target)
        outputs, vectors = [], []
        for task, maps in zip(self.tasks, self._encode(inputs), strict=True):
            h = task.embed(maps, training=True)
            outputs.append(task.predict(h, training=True))
            vectors.append(task.vector(h))
        return Answers(inputs, outputs, targets, self.projection(tf.stack(vectors, axis=1)))

    def _encode(self, inputs: Sequence[Sequence[tf.Tensor]]) -> list[list[tf.Tensor]]:
        """The encoder's last maps of all tasks' views; those of one size in one pass."""
        places = [(task, view) for task, views in enumerate(inputs) for view in range(len(views))]
        maps: dict[tuple[int, int], tf.Tensor] = {}
        for shape, model in self._maps.held.items():
            own = [place for place in places if self.tasks[place[0]].view_shape == shape]
            joined = tf.concat([inputs[task][view] for task, view in own], axis=0)
            encoded = model(self._standardize(255.0 * joined), training=True)
            maps.update(zip(own, tf.split(encoded, len(own)), strict=True))
        return [
            [maps[task, view] for view in range(len(views))] for task, views in enumerate(inputs)
        ]

    def task_terms(
        self, answers: Answers, weight: tf.Tensor | float = 1.0
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """This replica's part of each task's loss.

        Args:
            answers: to this replica's part of the batch.
            weight: how much each of its images counts (see `replicas.never_empty`).

        Returns:
            float32 ``[T]``, whose sum over replicas are the losses of the global batch; how many
            images this replica stands for, and how many there are in all.
        """
        local = weight * tf.cast(tf.shape(answers.embeddings)[0], tf.float32)
        samples = replicas.global_sum(local)
        share = tf.math.divide_no_nan(local, samples)
        terms = []
        for task, output, target in zip(
            self.tasks, answers.outputs, answers.targets, strict=True
        ):
            if task.couples_samples:
                output, target = replicas.global_batch((output, target), samples)
                terms.append(task.loss(output, target) / replicas.count())
            else:  # the mean of no samples is NaN
                terms.append(tf.where(share > 0, share * task.loss(output, target), 0))
        return tf.stack(terms), local, samples

    def _coupled_terms(
        self, answers: Answers, batch: Batch, samples: tf.Tensor, figures: dict[str, tf.Tensor]
    ) -> tf.Tensor:
        """``gamma R + w E`` of the global batch; adds R and E to the figures, and what is seen to
        the memory, after it was read."""
        coupled = tf.constant(0.0)
        if self.regularizer is None and self.memory is None:
            return coupled
        embeddings, index = replicas.global_batch((answers.embeddings, batch.index), samples)
        if self.regularizer is not None:
            regularizer = self.regularizer(embeddings)
            coupled += self.regularizer_weight * regularizer
            figures["regularizer_loss"] = regularizer
        if self.memory is not None:
            ensemble, known = self.memory.read(index)
            loss = temporal_ensemble.contrastive_loss(
                embeddings, ensemble, known, index, self.temperature
            )
            coupled += self.current_ensemble_weight() * loss
            figures["ensemble_loss"] = loss
            figures["ensemble_distance"] = temporal_ensemble.ensemble_distance(
                embeddings, ensemble, known
            )
            self.memory.update(index, tf.stop_gradient(embeddings))
        return coupled

    def current_ensemble_weight(self) -> tf.Tensor:
        """The factor w of the ensemble loss in this epoch, a float32 scalar."""
        return temporal_ensemble.ramp(self.epoch.value, self.ramp_epochs, self.ensemble_weight)

    def _with_weight_decay(
        self, gradients: list[tf.Tensor | None], variables: list[keras.Variable]
    ) -> list[tf.Tensor | None]:
        """`gradients` of the global batch with that of ``weight_decay / 2 ||w||^2`` for kernels
        that have one: what no loss reaches stays as it is."""
        return [
            gradient + self.weight_decay * tf.cast(variable.value, gradient.dtype)
            if gradient is not None and variable.path.endswith("kernel") else gradient
            for gradient, variable in zip(gradients, variables, strict=True)
        ]

    # What is logged

    def _training_names(self) -> list[str]:
        names = ["loss", *(f"{task.name}_loss" for task in self.tasks)]
        names += ["regularizer_loss"] if self.regularizer is not None else []
        return names + (["ensemble_loss", "ensemble_distance"] if self.memory is not None else [])

    def _held_out_names(self) -> list[str]:
        return [
            name for task in self.tasks
            for name in (f"{task.name}_loss", metric_name(task))
        ]

    def _figure_names(self) -> list[str]:
        return list(dict.fromkeys([*self._training_names(), *self._held_out_names()]))

    def _loss_figures(self, losses: tf.Tensor) -> dict[str, tf.Tensor]:
        named = zip(self.tasks, tf.unstack(losses, len(self.tasks)), strict=True)
        return {f"{task.name}_loss": loss for task, loss in named}

    def _log(self, figures: dict[str, tf.Tensor], local: tf.Tensor) -> dict[str, tf.Tensor]:
        """Update the running means over images, and return them. Figures are the global batch's,
        of which this replica stands for `local` images."""
        for name, value in figures.items():
            self._figures[name].update_state(value, local)
        return {name: self._figures[name].result() for name in figures}

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Within it the encoder may work in training mode; afterwards its batch statistics and the
        states of its dropout are as they were."""
        variables = self.network.non_trainable_variables
        kept = [keras.ops.convert_to_numpy(variable) for variable in variables]
        try:
            yield
        finally:
            with self.distribute_strategy.scope():
                for variable, value in zip(variables, kept, strict=True):
                    variable.assign(value)


class _Untracked:
    """Holds models that share the encoder's layers where Keras does not look: each weight is to be
    in a checkpoint once."""

    def __init__(self, held: Any):
        self.held = held


class _EpochCounter(keras.callbacks.Callback):
    """Tells the model which epoch it is in."""

    def __init__(self, model: MultiTask):
        super().__init__()
        self._multi_task = model

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._multi_task.epoch.assign(epoch)


class _Balancing(keras.callbacks.Callback):
    """Measures for the balance: before the first step, and after every so many."""

    def __init__(self, model: MultiTask, measure: Measurement):
        super().__init__()
        self._multi_task = model
        self._measure = measure

    def on_train_begin(self, logs: Any = None) -> None:
        if self._steps() == 0:
            self._balance()

    # After a step, not before the next one: what is saved between two steps is then complete.
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._steps() % self._multi_task.balance.interval == 0:
            self._balance()

    def _steps(self) -> int:
        return int(keras.ops.convert_to_numpy(self._multi_task.optimizer.iterations))

    def _balance(self) -> None:
        found = self._measure()
        with self._multi_task.distribute_strategy.scope():
            self._multi_task.balance.measured(found.norms, found.losses)


def metric_name(task: Task) -> str:
    """What a task's held-out metric is called in logs, such as ``rotation_accuracy``."""
    return f"{task.name}_{task.metric.replace(' ', '_')}"


def map_model(encoder: Encoder, shape: tuple[int, int, int]) -> keras.Model:
    """From standardized images of `shape` to the encoder's last map, by the encoder's own layers.

    Raises:
        UserError: the encoder's network cannot take images of that size.
    """
    model = keras.Model(encoder.model.inputs[0], encoder.model.output["features"])
    if model.input_shape[1:] == shape:
        return model
    try:
        return keras.models.clone_model(
            model, input_tensors=keras.Input(shape), clone_function=lambda layer: layer
        )
    except ValueError as error:
        raise UserError(
            f"encoder {encoder.name!r} takes images of "
            f"{'x'.join(map(str, encoder.image_shape))} and cannot take a task's views of "
            f"{'x'.join(map(str, shape))}; leave that task (jigsaw) out, or resize the images"
        ) from error

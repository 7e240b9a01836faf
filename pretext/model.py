"""The model that trains one encoder by several pretext tasks at once."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

import replicas
from nets import Encoder, convolutions_by, copy_encoder, open_convolutions
from nets.finite_steps import (
    SKIPPED,
    apply_if_finite,
    batch_statistics,
    check_skipped,
    values_of,
)
from nets.keras_graph import BuiltModel, Untracked
from nets.layer_losses import weight_losses
from op_util.convolution import convolve
from op_util.weight_decay import with_weight_decay
from pretext.balance import Balance, Step
from pretext.balances.none import NoBalance
from pretext.batch import Batch, Use, as_batch, draws
from pretext.ensemble import Ensemble, Run
from pretext.ensembles.none import NoEnsemble
from pretext.heads import SharedProjection
from pretext.measurement import Measurement, flat
from pretext.regularizer import Regularizer
from pretext.sharing import Share, at_least_one, by_image, drawn_tasks, shares
from pretext.task import BuiltTask, Images, Task, build_task
from registry import UserError

WIDTH = 128
"""The width of every h and e."""


class TaskResults(NamedTuple):
    """What the tasks made of a batch.

    Attributes:
        inputs: the views of each task.
        outputs, targets: of each task, what its head gives and what it should give.
        embeddings: the e_t, float32 ``[B, T, width]`` of length 1; ``[B, n, width]`` where an image
            takes part in n tasks.
        drawn: which tasks an image takes part in, int32 ``[B, n]``; None: in all.
        shared: the images of each task; None: all images are.
    """

    inputs: list[list[tf.Tensor]]
    outputs: list[Any]
    targets: list[Any]
    embeddings: tf.Tensor
    drawn: tf.Tensor | None = None
    shared: list[Share] | None = None


class Terms(NamedTuple):
    """This replica's part of the tasks' losses.

    Attributes:
        losses: float32 ``[T]``, whose sum over replicas are the losses of the global batch.
        local: how many images this replica stands for, a float32 scalar.
        samples: how many there are in all.
        local_by_task: how many of them take part in each task, float32 ``[T]``.
        samples_by_task: likewise of all.
    """

    losses: tf.Tensor
    local: tf.Tensor
    samples: tf.Tensor
    local_by_task: tf.Tensor
    samples_by_task: tf.Tensor


class MultiTask(BuiltModel):
    """Trains an encoder without labels: ``sum_t weight_t factor_t L_t + gamma R + w E``.

    The definition is this project's own, built to do what the abstract of Kim, Lee and Song (ICCV
    Workshops 2019) says; their method section was not available to us.

    All views of one size go through the encoder in one pass. So batch normalisation sees a mixed
    batch: its statistics are those of all tasks' views together, no task's alone. Smaller views
    (jigsaw's tiles) are a pass, and so a batch of statistics, of their own. The moving averages of
    such a mixture belong to no kind of image: so `evaluate` uses batch statistics, as in training.
    Before the encoder is used, recompute its averages on clean images
    (`nets.recompute_batch_statistics`).

    Losses, regularizer and ensemble are those of the global batch, however many replicas share it.
    Batches are dicts with ``image`` and ``index``; labels are never looked at. If a gradient is not
    finite, the step uses zero gradients and is counted in ``skipped_steps``; `fit` gives up if more
    than a fifth of an epoch's steps are of this kind.

    Args:
        encoder: to be trained; its network takes images of one size or any.
        tasks: to train it by.
        images: what the tasks work on; None: images of the encoder's size.
        balance: brings the tasks' losses to one size; None: leaves them as they are.
        regularizer: R, between the tasks' embeddings of the same images; None: no R.
        regularizer_weight: gamma.
        ensemble: E, or an average of the weights by which the model is evaluated; None: none.
        train_images: how many training images there are.
        epochs: of the whole run, for the ensemble's ramp.
        tasks_per_image: how many tasks an image takes part in at a training step, drawn anew in
            each epoch; None: in all. What is measured and held out takes part in all.
        weight_decay: factor of ``||w||^2 / 2`` of all kernels that a loss reaches.
        seed: of the views' random numbers.
        sample: a fixed batch of training images, by which a balance that needs gradients measured
            (``gradnorm``) is measured.

    Raises:
        UserError: the encoder cannot take a task's views, or a task cannot work on the images.
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[Task],
        images: Images | None = None,
        *,
        balance: Balance | None = None,
        regularizer: Regularizer | None = None,
        regularizer_weight: float = 1.0,
        ensemble: Ensemble | None = None,
        train_images: int = 0,
        epochs: int = 1,
        tasks_per_image: int | None = None,
        weight_decay: float = 1e-4,
        seed: int = 0,
        sample: Batch | None = None,
    ):
        super().__init__(name="multi_task")
        self.encoder = encoder
        self.network = encoder.model
        open_convolutions(self.network)
        self.tasks = tuple(tasks)
        self.tasks_per_image = tasks_per_image or len(self.tasks)
        self._check_tasks_per_image(regularizer)
        self.regularizer = regularizer if regularizer is not None and regularizer.acts else None
        self.regularizer_weight = regularizer_weight
        self.weight_decay = weight_decay
        self.seed = seed
        self._sample = sample
        self._build_tasks(images or Images(encoder.image_shape))
        self.balance = (balance or NoBalance()).build(len(self.tasks), seed)
        if self.balance.interval and sample is None:
            raise ValueError("the balance needs gradients measured: give a sample")
        self.epoch = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="epoch"
        )
        self.ensemble = (ensemble or NoEnsemble()).build(
            Run(
                train_images, len(self.tasks), WIDTH, epochs, self.trainable_variables,
                self.tasks_per_image,
            )
        )
        self._means = {name: keras.metrics.Mean(name) for name in self._metric_names()}
        self._is_evaluating = False
        self.built = True

    def _check_tasks_per_image(self, regularizer: Regularizer | None) -> None:
        """Raise UserError if an image is to take part in more tasks than there are, or in too few
        for the regularizer."""
        tasks, per_image = len(self.tasks), self.tasks_per_image
        if not 1 <= per_image <= tasks:
            raise UserError(f"an image cannot take part in {per_image} of {tasks} tasks")
        if regularizer is None:
            return
        least = regularizer.least_tasks
        if per_image < least <= tasks:
            raise UserError(
                f"the regularizer compares at least {least} tasks' embeddings of an image, but "
                f"each image takes part in only {per_image}: let it take part in more, or leave "
                "the regularizer out"
            )
        if regularizer.needs_all_tasks and per_image < tasks:
            raise UserError(
                "the regularizer compares a task's embeddings of different images: let each image "
                "take part in all tasks, or leave the regularizer out"
            )

    def _build_tasks(self, images: Images) -> None:
        """Make necks, heads, the projection, and the encoder's maps of each size of view."""
        # Views stay as large as they are.
        self._standardize = dataclasses.replace(self.encoder.standardize, size=None)
        models: dict[tuple[int, int, int], keras.Model] = {}
        for task in self.tasks:
            shape = task.views(images).shape
            if shape not in models:
                models[shape] = map_model(self.encoder, shape, task.name)
        self._maps = Untracked(models)
        self._parts = Untracked([
            build_task(task, images, lambda shape: models[shape].output_shape[1:], WIDTH)
            for task in self.tasks
        ])
        self.task_layers = [layer for part in self.parts for layer in (part.neck, part.head)]
        self.projection = SharedProjection(WIDTH)

    @property
    def parts(self) -> list[BuiltTask]:
        """Each task with its views, neck and head."""
        return self._parts.value

    # Keras' interface

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self._means.values())

    def call(self, image: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The encoder's embedding ``[B, E]`` of raw images, in inference mode."""
        return self.encoder(image)["embedding"]

    losses_come_from = "tasks"

    def compile(
        self, optimizer: Any = None, *losses: Any, jit_compile: bool = False, **kwargs: Any
    ) -> None:
        """As `keras.Model.compile`; the losses are this model's own.

        Args:
            optimizer: None: Adam with learning rate 1e-3.
            *losses: refused, as are all losses and metrics.
            jit_compile: off unless asked for, also where Keras would turn it on.
            **kwargs: as there.

        Raises:
            UserError: a loss, metrics, a LossScaleOptimizer or moving averages are given.
        """
        with self.distribute_strategy.scope():
            optimizer = optimizer or keras.optimizers.Adam(1e-3)
        super().compile(optimizer, *losses, jit_compile=jit_compile, **kwargs)

    def fit(
        self,
        *args: Any,
        callbacks: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """As `keras.Model.fit`; keeps count of the epochs, which views and weights depend on.

        Raises:
            UserError: `compile` was not called.
        """
        if not self.compiled:
            raise UserError("the model has no optimizer yet: call compile() before fit()")
        counter = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: self.epoch.assign(epoch),
            on_epoch_end=lambda epoch, logs: check_skipped(
                epoch, logs, "training diverges; try a lower learning rate"
            ),
        )
        own: list[keras.callbacks.Callback] = [counter]
        if self.balance.interval:
            own.append(_Balancing(self, Measurement(self, self._sample)))
        with self.distribute_strategy.scope():
            self.optimizer.build(self.trainable_variables)
        return super().fit(*args, callbacks=[*own, *keras.tree.flatten(callbacks or [])], **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`: each task's loss and metric, on the same views of an image in
        each call, with batch statistics and dropout as in training; by the average of weights
        if there is one. Changes nothing."""
        self._is_evaluating = True
        try:
            with self.ensemble.applied(), self.unchanged():
                return super().evaluate(*args, **kwargs)
        finally:
            self._is_evaluating = False

    def trained_encoder(self) -> Encoder:
        """A copy of the encoder as it is now, on one device, with the average of weights if there
        is one. Its batch statistics are still those of training."""
        with self.ensemble.applied():
            return copy_encoder(self.encoder)

    def get_metrics_result(self) -> dict[str, Any]:
        """The means that the current step logs, over all replicas. With others among them, Keras
        would take the mean of the replicas' means instead."""
        names = self._held_out_names() if self._is_evaluating else self._training_names()
        return {name: self._means[name].result() for name in names}

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        batch, weight = replicas.never_empty(as_batch(data), replicas.copies_of(data))
        variables = self.trainable_variables
        persistent = self.balance.combines_gradients
        kept = values_of(self._changed_by_steps())
        with convolutions_by(convolve), tf.GradientTape(persistent=persistent) as tape:
            results = self.run_tasks(batch, Use.TRAINING)
            terms = self.task_terms(results, weight)
            losses = replicas.global_sum(terms.losses)
            step = Step(self.optimizer.iterations.value, self.epoch.value, terms.samples_by_task)
            factors = self._task_weights() * self.balance.factors(losses, step)
            coupled, logs = self._coupled_terms(results, batch, terms.samples)
            common = coupled + self.balance.penalty() + sum(weight_losses(self.network))
            objectives = [*tf.unstack(factors * terms.losses), common / replicas.count()]
            total = tf.add_n(objectives)
        if self.balance.combines_gradients:
            gradients = self._combined_gradients(tape, objectives, total, variables)
        else:
            gradients = replicas.global_sum_present(tape.gradient(total, variables))
        gradients = with_weight_decay(gradients, variables, self.weight_decay)
        logs[SKIPPED] = apply_if_finite(self.optimizer, gradients, variables, kept)
        self.ensemble.end_step()
        logs["loss"] = tf.stop_gradient(tf.reduce_sum(factors * losses) + common)
        return self._log(losses, logs, terms)

    def _changed_by_steps(self) -> list[keras.Variable]:
        """What a step changes besides the trained variables: batch statistics and the balance's
        state."""
        layers = (self.network, *self.task_layers, self.projection)
        return [*batch_statistics(layers), *self.balance.non_trainable_variables]

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        batch, weight = replicas.never_empty(as_batch(data), replicas.copies_of(data))
        results = self.run_tasks(batch, Use.HELD_OUT)
        terms, logs = self.task_terms(results, weight), {}
        for task, output, target in zip(
            self.tasks, results.outputs, results.targets, strict=True
        ):
            if task.couples_samples:
                output, target = replicas.global_batch((output, target), terms.samples)
            logs[metric_name(task)] = tf.reduce_mean(task.score(output, target))
        return self._log(replicas.global_sum(terms.losses), logs, terms)

    # What a step is made of

    def run_tasks(self, batch: Batch, use: Use) -> TaskResults:
        """Each task's view of its images, encoded in training mode, and what its head says.

        Args:
            batch: this replica's part.
            use: what for. Held-out views are the same in each epoch.
        """
        images = tf.cast(batch.image, tf.float32) / 255.0
        epoch = 0 if use is Use.HELD_OUT else self.epoch.value
        drawn = shared = None
        if use is Use.TRAINING and self.tasks_per_image < len(self.tasks):
            drawn = drawn_tasks(
                self.seed, epoch, batch.index, len(self.tasks), self.tasks_per_image
            )
            shared = shares(drawn, len(self.tasks))
        inputs, targets = [], []
        for place, part in enumerate(self.parts):
            own = Batch(images, batch.index)
            if shared is not None:
                own = Batch(*(tf.gather(each, shared[place].rows) for each in own))
            views = part.views
            uniform = draws(part.task.name, use, self.seed, epoch, own.index, views.draws)
            shown, target = views(own.image, uniform)
            inputs.append(shown)
            targets.append(target)
        outputs, vectors = [], []
        for part, maps in zip(self.parts, self._encode(inputs, shared), strict=True):
            h = part.embed(maps, training=True)
            outputs.append(part.predict(h, training=True))
            vectors.append(part.task.vector(h))
        stacked = (
            tf.stack(vectors, axis=1) if shared is None
            else by_image(vectors, shared, self.tasks_per_image)
        )
        return TaskResults(inputs, outputs, targets, self.projection(stacked), drawn, shared)

    def _encode(
        self, inputs: Sequence[Sequence[tf.Tensor]], shared: Sequence[Share] | None
    ) -> list[list[tf.Tensor]]:
        """The encoder's last maps of all tasks' views; those of one size in one pass. A stand-in
        image (see `Share`) is not encoded; its maps are zeros."""
        places = [(task, view) for task, views in enumerate(inputs) for view in range(len(views))]
        maps: dict[tuple[int, int], tf.Tensor] = {}
        for shape, model in self._maps.value.items():
            own = [place for place in places if self.parts[place[0]].views.shape == shape]
            views = [inputs[task][view] for task, view in own]
            if shared is None:
                parts = tf.split(self._pass(model, tf.concat(views, axis=0)), len(own))
            else:
                counts = [shared[task].count for task, _ in own]
                taken = [view[:count] for view, count in zip(views, counts, strict=True)]
                encoded = self._pass(model, at_least_one(tf.concat(taken, axis=0)))
                encoded = encoded[: tf.add_n(counts)]
                parts = tf.split(encoded, tf.stack(counts), num=len(own))
                parts = [at_least_one(part) for part in parts]
            maps.update(zip(own, parts, strict=True))
        return [
            [maps[task, view] for view in range(len(views))] for task, views in enumerate(inputs)
        ]

    def _pass(self, model: keras.Model, views: tf.Tensor) -> tf.Tensor:
        """The encoder's last maps of views of one size. A frozen encoder is in inference mode:
        without dropout too."""
        learns = bool(self.network.trainable_variables)
        return model(self._standardize(255.0 * views), training=learns)

    def task_terms(self, results: TaskResults, weight: tf.Tensor | float = 1.0) -> Terms:
        """This replica's part of each task's loss.

        Args:
            results: to this replica's part of the batch.
            weight: how much each of its images counts (see `replicas.never_empty`).
        """
        local = weight * tf.cast(tf.shape(results.embeddings)[0], tf.float32)
        if results.shared is None:
            own = tf.fill([len(self.tasks)], local)
        else:
            counts = tf.stack([share.count for share in results.shared])
            own = weight * tf.cast(counts, tf.float32)
        samples, by_task = replicas.global_sum([local, own])
        losses = []
        for place, task in enumerate(self.tasks):
            pair = (results.outputs[place], results.targets[place])
            if task.couples_samples:  # L_t of the global batch, alike on every replica
                share = results.shared and results.shared[place]
                pair = self._global_pair(pair, share, by_task[place])
                images, part = by_task[place], 1 / replicas.count()
            else:  # a mean over images: this replica's share of them
                images, part = own[place], tf.math.divide_no_nan(own[place], by_task[place])
            losses.append(tf.where(images > 0, part * task.loss(*pair), 0))  # of none: NaN
        return Terms(tf.stack(losses), local, samples, own, by_task)

    @staticmethod
    def _global_pair(pair: Any, share: Share | None, samples: tf.Tensor) -> Any:
        """The global batch's outputs and targets of a task whose loss couples images; of one image
        that stands in where none takes part.

        Args:
            pair: this replica's part.
            share: its images; None: all take part.
            samples: how many take part in all.
        """
        if share is not None:
            count = tf.where(samples > 0, share.count, 1)
            pair = tf.nest.map_structure(lambda rows: rows[:count], pair)
        return replicas.global_batch(pair, tf.maximum(samples, 1))

    def _task_weights(self) -> tf.Tensor:
        """Each task's own weight, float32 ``[T]``."""
        return tf.constant([task.weight for task in self.tasks], tf.float32)

    def current_factors(self) -> tf.Tensor:
        """The factor of each task's loss as of the last step, its own weight included, float32
        ``[T]``."""
        return self._task_weights() * self.balance.current()

    def _coupled_terms(
        self, results: TaskResults, batch: Batch, samples: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """``gamma R + w E`` of the global batch, and R and E to log."""
        coupled, logs = tf.constant(0.0), {}
        if self.regularizer is None and not self.ensemble.adds_loss:
            return coupled, logs
        embeddings, index = replicas.global_batch((results.embeddings, batch.index), samples)
        drawn = results.drawn
        if drawn is not None:
            drawn = replicas.global_batch(drawn, samples)
        if self.regularizer is not None:
            regularizer_loss = self.regularizer(embeddings)
            coupled += self.regularizer_weight * regularizer_loss
            logs["regularizer_loss"] = regularizer_loss
        if self.ensemble.adds_loss:
            loss, ensemble_logs = self.ensemble.loss(embeddings, index, self.epoch.value, drawn)
            coupled += loss
            logs.update(ensemble_logs)
        return coupled, logs

    def _combined_gradients(
        self,
        tape: tf.GradientTape,
        objectives: Sequence[tf.Tensor],
        total: tf.Tensor,
        variables: Sequence[keras.Variable],
    ) -> list[tf.Tensor | None]:
        """The global batch's gradients where the balance combines those of the tasks on the
        encoder.

        Args:
            tape: persistent.
            objectives: this replica's part of each task's weighted loss, and of the rest.
            total: their sum.
            variables: all that are trained.
        """
        encoder = self.network.trainable_variables
        *by_task, rest = [tape.gradient(objective, encoder) for objective in objectives]
        by_task = [replicas.global_sum_present(each) for each in by_task]
        if any(gradient is not None for gradient in rest):
            rest = replicas.global_sum_present(rest)
        combined = self.balance.combined(tf.stack([flat(each, encoder) for each in by_task]))
        parts = tf.split(combined, [tf.size(variable.value) for variable in encoder])
        reached = {}
        for place, (variable, part) in enumerate(zip(encoder, parts, strict=True)):
            if any(each[place] is not None for each in by_task):
                part = tf.reshape(part, variable.shape)
                reached[id(variable)] = part if rest[place] is None else part + rest[place]
            else:
                reached[id(variable)] = rest[place]
        others = [variable for variable in variables if id(variable) not in reached]
        summed = replicas.global_sum_present(tape.gradient(total, others))
        reached.update({id(v): gradient for v, gradient in zip(others, summed, strict=True)})
        return [reached[id(variable)] for variable in variables]

    # What is logged

    def _training_names(self) -> list[str]:
        names = ["loss", *(f"{task.name}_loss" for task in self.tasks)]
        names += ["regularizer_loss"] if self.regularizer is not None else []
        return [*names, *self.ensemble.metrics_of_steps, SKIPPED]

    def _held_out_names(self) -> list[str]:
        return [
            name for task in self.tasks
            for name in (f"{task.name}_loss", metric_name(task))
        ]

    def _metric_names(self) -> list[str]:
        return list(dict.fromkeys([*self._training_names(), *self._held_out_names()]))

    def _log(
        self, losses: tf.Tensor, others: dict[str, tf.Tensor], terms: Terms
    ) -> dict[str, tf.Tensor]:
        """Update the running means over images, and return them.

        Args:
            losses: the tasks', of the global batch, float32 ``[T]``.
            others: what else is logged of the global batch, by name.
            terms: how many images this replica stands for.
        """
        names = [f"{task.name}_loss" for task in self.tasks]
        # NaN in a step that is skipped would hide the others of its epoch.
        counts = others.get(SKIPPED, tf.constant(0.0)) == 0
        losses = tf.where(counts, losses, 0)
        for place, name in enumerate(names):
            part = terms.local_by_task[place]
            self._means[name].update_state(losses[place], tf.where(counts, part, 0))
        for name, value in others.items():
            part = terms.local if name == SKIPPED else tf.where(counts, terms.local, 0)
            # A replica without images has no metrics; what it computes may be NaN.
            value = tf.where(part > 0, value, tf.zeros_like(value))
            self._means[name].update_state(value, part)
        return {name: self._means[name].result() for name in [*names, *others]}

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Within this context encoder and heads may work in training mode. Afterwards their batch
        statistics and the states of their dropout are as they were."""
        layers = [self.network, *self.task_layers]
        variables = [each for layer in layers for each in layer.non_trainable_variables]
        kept = [keras.ops.convert_to_numpy(variable) for variable in variables]
        try:
            yield
        finally:
            with self.distribute_strategy.scope():
                for variable, value in zip(variables, kept, strict=True):
                    variable.assign(value)


class _Balancing(keras.callbacks.Callback):
    """Measures for the balance: before the first step, and then after every `interval` steps."""

    def __init__(self, model: MultiTask, measure: Measurement):
        super().__init__()
        self._multi_task = model
        self._measure = measure

    def on_train_begin(self, logs: Any = None) -> None:
        if self._steps() == 0:
            self._balance()

    # After a step, not before the next one: what is saved between two steps is then complete.
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # With `steps_per_execution` above 1, Keras calls this only after the last step of a group.
        interval, executed = self._multi_task.balance.interval, self._multi_task.steps_per_execution
        if self._steps() % interval < executed:
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


def map_model(encoder: Encoder, shape: tuple[int, int, int], task: str) -> keras.Model:
    """From standardized images of `shape`, the views of a task, to the encoder's last map, by the
    encoder's own layers.

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
            f"{'x'.join(map(str, encoder.image_shape))} and cannot take the views of "
            f"{task}, {'x'.join(map(str, shape))}; leave {task} out, or resize the images"
        ) from error

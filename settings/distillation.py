"""The settings of a distillation: the flags of train_w_distill.py, and most of compare.py's."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags

import plugins
from experiment.command.main import read
from experiment.command.options import (
    base_type,
    compared,
    define_flag,
    define_flags,
    from_flags,
    option,
    values,
)
from experiment.report.methods import methods_table
from experiment.run.processor import computes_bfloat16
from registry import UserError, nearest, plain
from settings import known
from settings.common import DATA, RUN, TRAINING, DataSettings, RunSettings, TrainingSettings
from settings.formats import EXPORT, NAMES, ExportSettings, create_formats
from settings.recipes import AUTO, RECIPES, choose

NETWORKS, METHOD, QUANTIZATION = "networks", "method", "quantization"
# The first fifth of the epochs trains the new classifier of a pretrained network alone.
FINE_TUNING = "None(head_share=0.2)"
TEACHER = "teacher"  # in a run folder, the folder of the run that trained the teacher
QUANTIZED = "quantized"  # and of the run of quantisation-aware training
PAPERS_PAIRS = ("VGG", "VGG_stride", "MobileNet", "ResNeXt")
CACHED = ("logits", "embedding")  # features of the teacher that --cache_teacher can keep
# The settings that a recipe gives a value to where they are left out.
OF_RECIPE = (
    "epochs", "batch_size", "optimizer", "learning_rate", "schedule", "warmup_epochs",
    "weight_decay", "rotation", "crop_padding", "random_resized_crop", "color_jitter",
    "randaugment", "mixup", "cutmix", "label_smoothing", "mixed_precision",
)
# Where no pair is named: the paper's first, and for the few digits with half of its width, so that
# the first run of all takes a minute or two.
PAIR = "VGG"
OPTIONS_FOR_DIGITS = ("width=32",)


@dataclasses.dataclass(frozen=True)
class Settings(DataSettings, TrainingSettings, RunSettings, ExportSettings):
    """The settings; each field but the last is the flag of its name.

    Attributes:
        hyper_parameters: of the method, by name. On the command line each is a flag of its own.
    """

    Distillation: str = option(
        "SSKD_SVD", "the method, NAME or NAME(hyper_parameter=value,...), or a sum NAME+NAME: "
        f"{', '.join(known.method_names())}; help: list them", group=METHOD,
    )
    main_loss: str = option(
        "cross_entropy", "loss of the main task; none transfers without any label", group=METHOD,
        choices=("cross_entropy", "none"),
    )

    labelled_per_class: int | None = option(
        None, "labels kept in each class; the other images only feed the distillation",
        group=DATA, minimum=1,
    )
    flip: bool | None = option(
        None, "mirror half of the images (default: where a mirrored image is as good)", group=DATA
    )
    rotation: float | None = option(
        None, "rotate images by up to this many degrees (default: of the recipe)", group=DATA,
        minimum=0, maximum=180,
    )
    crop_padding: int | None = option(
        None, "pad images by this many pixels and crop back at random (default: of the recipe)",
        group=DATA, minimum=0,
    )
    random_resized_crop: float | None = option(
        None, "crop a part of at least this share of the area, and enlarge it; 0: none (default: "
        "of the recipe)", group=DATA, minimum=0, maximum=1,
    )
    color_jitter: float | None = option(
        None, "change brightness, contrast and saturation by up to this share; 0: none (default: "
        "of the recipe)", group=DATA, minimum=0, maximum=1,
    )
    randaugment: tuple[float, ...] | None = option(
        None, "N,M: N operations of RandAugment of magnitude M, 0 to 10; 0,0: none (default: of "
        "the recipe)", group=DATA, minimum=0,
    )
    mixup: float | None = option(
        None, "alpha of mixup of two images; 0: none (default: of the recipe)", group=DATA,
        minimum=0,
    )
    cutmix: float | None = option(
        None, "alpha of CutMix of two images; 0: none (default: of the recipe)", group=DATA,
        minimum=0,
    )

    net: str | None = option(
        None, f"pair of networks: {', '.join(known.pair_names())} (default: {PAIR}, for digits "
        "with a width of 32)", group=NETWORKS,
    )
    teacher_net: str | None = option(
        None, f"the teacher, if not the pair's: {', '.join(known.network_names())}", group=NETWORKS
    )
    student_net: str | None = option(None, "the student, if not the pair's", group=NETWORKS)
    teacher_options: tuple[str, ...] | None = option(
        None, "options of the teacher net, as name=value,...", group=NETWORKS
    )
    student_options: tuple[str, ...] | None = option(
        None, "options of the student net, as name=value,...", group=NETWORKS
    )
    teacher: str | None = option(
        None, "a trained teacher: run folder, .keras, .weights.h5, published .mat, tte:RUN of "
        "pretrain_tte.py, or pretrained:NAME (default: one is trained first, in teacher/ of the "
        "run folder)",
        group=NETWORKS, is_path=True,
    )
    teacher_model: str | None = option(
        None, "a teacher of your own instead of --net's: FILE.keras or FILE.h5 (trained), "
        "keras.applications:NAME (trained first), or keras_hub:PRESET_OR_FOLDER (fine-tuned first)",
        group=NETWORKS, is_path=True,
    )
    teacher_weights: str | None = option(
        None, "pretrained weights of a teacher from keras.applications, which is fine-tuned first: "
        "imagenet (downloaded by Keras), or a file of weights", group=NETWORKS, is_path=True,
    )
    student_model: str | None = option(
        None, "a student of your own: FILE.keras or FILE.h5 (trained on from its weights), "
        "keras.applications:NAME, or keras_hub:PRESET_OR_FOLDER", group=NETWORKS, is_path=True,
    )
    student_weights: str | None = option(
        None, "pretrained weights of a student from keras.applications: imagenet or a file",
        group=NETWORKS, is_path=True,
    )
    student_init: str | None = option(
        None, "tte:RUN, whose encoder's weights the student begins with", group=NETWORKS,
        is_path=True,
    )
    teacher_preprocessing: str = option(
        "auto", "what the teacher was trained with, where its file does not say; auto: what its "
        "layers or its name tell, else data; data: the data set's channel statistics, none: "
        "0..255, unit: 0..1, tf: -1..1, torch: ImageNet's statistics, caffe: blue, green, red "
        "less ImageNet's means",
        group=NETWORKS, choices=("auto", *known.PREPROCESSING),
    )
    student_preprocessing: str = option(
        "auto", "what the student was trained with, likewise", group=NETWORKS,
        choices=("auto", *known.PREPROCESSING),
    )
    teacher_taps: tuple[str, ...] | None = option(
        None, "names of the layers of the teacher to compare, shallow to deep; default: those that "
        "a network of this project declares (see --list_layers)", group=NETWORKS
    )
    student_taps: tuple[str, ...] | None = option(
        None, "names of the layers of the student to compare, likewise", group=NETWORKS
    )
    list_layers: bool = option(
        False, "list the layers of teacher and student, whose names taps take, and exit",
        group=NETWORKS, same_run=True,
    )

    label_smoothing: float | None = option(
        None, "share of the main loss's target that is spread evenly over all classes (default: "
        "the recipe's)", group=TRAINING, minimum=0, maximum=0.99,
    )
    recipe: str = option(
        AUTO, "values for the training flags that are left out; auto: the recipe that fits data "
        "and networks. "
        + "; ".join(f"{name}: {RECIPES.get(name).about}" for name in RECIPES.names()),
        group=TRAINING, same_run=True,
    )
    teacher_epochs: int | None = option(
        None, "epochs of a teacher that is trained or fine-tuned first (default: --epochs, or else "
        "its recipe's); 0: use a pretrained teacher as it is. A --teacher_model from a file is "
        "fine-tuned only if this is above 0",
        group=TRAINING, minimum=0,
    )
    teacher_learning_rate: float | None = option(
        None, "learning rate of a teacher that is trained first (default: --learning_rate, or else "
        "that of the recipe that fits it)",
        group=TRAINING, above=0,
    )

    cache_teacher: bool = option(
        False, "compute the teacher's logits or embeddings of all epochs before training, and keep "
        "them, rounded to float16, for further runs on the same images; for methods that read no "
        "feature maps", group=METHOD,
    )
    cache_dir: str | None = option(
        None, "with --cache_teacher: where they are kept (default: runs/teacher_cache; of "
        "compare.py: teacher_cache in --compare_dir)", group=METHOD, same_run=True, is_path=True,
    )
    cache_outputs: tuple[str, ...] = option(
        (), "with --cache_teacher: further outputs of the teacher to keep, for methods that are "
        "run later; what the method reads is always kept, and by compare.py what any of its "
        "methods reads",
        group=METHOD, same_run=True, choices=CACHED,
    )

    export: str = option(
        "", "file formats to export the trained student to, as in export.py --formats: "
        f"{NAMES}", group=EXPORT, same_run=True,
    )

    quantize: str = option(
        "none", "int8: after the last epoch, fine-tune a copy of the student by quantisation-aware "
        "training, distilled from the teacher, or from the student itself where there is none or "
        "it has other classes; export.py --formats litert-qat writes it", group=QUANTIZATION,
        choices=("none", "int8"),
    )
    quantize_epochs: int | None = option(
        None, "epochs of quantisation-aware training (default: a fifth of --epochs)",
        group=QUANTIZATION, minimum=1,
    )
    quantize_learning_rate: float = option(
        1e-4, "initial learning rate of quantisation-aware training, by Adam; the copy has no "
        "batch normalisation, so larger rates may diverge", group=QUANTIZATION, above=0,
    )
    quantize_distillation: str = option(
        "Soft_logits(alpha=0.9)", "the distillation method for it, as in --Distillation",
        group=QUANTIZATION,
    )

    images_per_second: float | None = option(
        None, "throughput from which --dry_run estimates the time (default: measured on a few "
        "steps)",
        group=RUN, above=0, same_run=True,
    )

    hyper_parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def teacher_name(self) -> str:
        """The teacher net as it is registered, or a file's name."""
        return _net_name(self.teacher_model, self.teacher_net or self._pair()[0])

    def student_name(self) -> str:
        """The student net as it is registered, or a file's name."""
        return _net_name(self.student_model, self.student_net or self._pair()[1])

    def _pair(self) -> tuple[str, str]:
        return known.pair(self.net or PAIR)

    def with_networks(self) -> Settings:
        """The settings, with small networks of the default pair for the digits (in bfloat16 where
        the processor computes it), unless ``net`` or options say otherwise."""
        if self.dataset != "digits" or self.net is not None:
            return self
        options = {
            f"{role}_options": OPTIONS_FOR_DIGITS for role in ("teacher", "student")
            if self._is_of_default_pair(role)
        }
        if not options:
            return self
        mixed = computes_bfloat16() if self.mixed_precision is None else self.mixed_precision
        return dataclasses.replace(self, net=PAIR, mixed_precision=mixed, **options)

    def _is_of_default_pair(self, role: str) -> bool:
        """Whether a role's network is one of the default pair, to be made without options."""
        if getattr(self, f"{role}_model") or getattr(self, f"{role}_options") is not None:
            return False
        if role == "student" and self.student_init:  # as the encoder is
            return False
        named = getattr(self, f"{role}_net")
        return named is None or known.network_name(named) in known.pair(PAIR)

    def teacher_file(self) -> str | None:
        """The trained teacher's file or folder; None: it is to be trained."""
        return self.teacher or (self.teacher_model if self.teacher_model_is_trained() else None)

    def network_files(self) -> dict[str, str | None]:
        """Where networks may come from, by the setting that says so."""
        names = (
            "teacher", "teacher_model", "teacher_weights", "student_model", "student_weights",
            "student_init",
        )
        paths = {name: known.path_of(getattr(self, name)) for name in names}
        for name in ("teacher_weights", "student_weights"):  # imagenet is no folder of that name
            if paths[name] is not None and not Path(paths[name]).is_file():
                paths[name] = None
        return paths

    def cache_folder(self) -> Path:
        """Where the teacher's outputs are kept."""
        return Path(self.cache_dir or Path("runs") / "teacher_cache")

    def teacher_model_is_trained(self) -> bool:
        """Whether the teacher's model comes from a file, with its weights, which stay."""
        return _is_file(self.teacher_model) and not self.teacher_epochs

    def is_pretrained(self, role: str) -> bool:
        """Whether the ``"teacher"`` or the ``"student"`` is another library's, with weights."""
        model = getattr(self, f"{role}_model")
        return model is not None and (
            known.is_preset(model) or getattr(self, f"{role}_weights") is not None
        )

    def teacher_is_ready(self) -> bool:
        """Whether the teacher needs no training before it teaches."""
        if self.teacher_file() is not None:
            return True
        without_labels = self.teacher_epochs is None and self.main_loss == "none"
        return self.is_pretrained("teacher") and (without_labels or self.teacher_epochs == 0)

    def needs_classes(self) -> bool:
        """Whether anything is trained by labels, so that each class needs an image."""
        trains_teacher = self.has_teacher() and not self.teacher_is_ready()
        return self.main_loss != "none" or trains_teacher

    def fine_tunes(self) -> bool:
        """Whether the student is fine-tuned alone: it then gets a classifier for the data."""
        return any(name == "None" and float(given.get("head_share", 0)) > 0
                   for name, given in self.methods())

    def spelled(self) -> Settings:
        """The same settings with registered names and with nothing left to a default, so that a run
        is recognised however its settings are written.

        Raises:
            UserError: a name is unknown, or settings do not go together or do not fit the data.
        """
        settings = self.named().with_recipe()
        settings.check_schedule()
        return settings._with_quantization()

    def named(self) -> Settings:
        """The same settings with registered names. Neither data nor networks are looked at.

        Raises:
            UserError: a name is unknown, or settings do not go together.
        """
        self.checked()
        settings = self.with_networks()
        net = settings.net or PAIR
        return dataclasses.replace(
            settings,
            recipe=AUTO if plain(self.recipe) == AUTO else RECIPES.name(self.recipe),
            Distillation="+".join(
                plugins.spelled(known.methods(), part) for part in self._method_parts()
            ),
            net=next(name for name in known.pair_names() if plain(name) == plain(net)),
            teacher_options=settings.teacher_options or (),
            student_options=settings.student_options or (),
            teacher_net=self.teacher_net and self.teacher_name(),
            student_net=self.student_net and self.student_name(),
            cache_teacher=self.cache_teacher and self.has_teacher(),
        )

    def with_recipe(self) -> Settings:
        """The same settings with the recipe's values where training flags are left out.

        With ``recipe="auto"`` the recipe is the one that fits data and networks, which are looked
        at if need be: this loads TensorFlow.

        Raises:
            UserError: there are no such data or networks.
        """
        given = {name: getattr(self, name) for name in OF_RECIPE}
        if None not in given.values():
            return self
        name = self._recipe_by_names() if self.recipe == AUTO else self.recipe
        facts = None
        if name is None or RECIPES.get(name).depends_on_facts:
            from settings.run_facts import find_facts

            facts = find_facts(self)
            name = name or choose(facts)
        return dataclasses.replace(self, recipe=name, **RECIPES.get(name).fill(given, facts))

    def _recipe_by_names(self) -> str | None:
        """The recipe that the names of data and networks decide on; None: they do not."""
        if self.dataset == "digits":
            return "digits"
        papers = {network for pair in PAPERS_PAIRS for network in known.pair(pair)}
        used = {self.student_name(), *([self.teacher_name()] if self.has_teacher() else [])}
        is_papers = self.dataset in known.PAPERS_DATA and used <= papers and not self.student_init
        return "paper" if is_papers else None

    def has_teacher(self) -> bool:
        """Whether a method of the settings has a teacher."""
        return any(known.methods().get(name).needs_teacher for name, _ in self.methods())

    def _with_quantization(self) -> Settings:
        """The same settings with what `quantize` leaves to a default, once the epochs are known.

        All of it has no meaning where it is none.
        """
        names = [name for name in values(self) if name.startswith("quantize_")]
        found = {name: getattr(Settings, name) for name in names}
        if self.quantize != "none":
            found = {"quantize_epochs": self.quantize_epochs or max(1, round(0.2 * self.epochs))}
        return dataclasses.replace(self, **found)

    def checked(self) -> Settings:
        """The same settings. Raises UserError as `spelled`."""
        if self.randaugment is not None and (
            len(self.randaugment) != 2 or self.randaugment[0] % 1 or self.randaugment[1] > 10
        ):
            raise UserError(
                f"--randaugment is {','.join(f'{each:g}' for each in self.randaugment)}; expected "
                "N,M: a number of operations and a magnitude from 0 to 10, such as 2,9"
            )
        list(self.methods())
        self._pair()
        for role in ("teacher", "student"):
            self._check_weights(role)
            self._check_network(role)
        self._check_teacher()
        self._check_export()
        self._check_quantization()
        if self.student_init and not known.is_encoder(self.student_init):
            given = self.student_init
            hint = f", such as {known.ENCODER}{given}" if Path(given).is_dir() else ""
            raise UserError(f"--student_init is {given!r}; expected tte:RUN{hint}")
        return self

    def _check_network(self, role: str) -> None:
        """Raise UserError where the network of a role is named twice."""
        if getattr(self, f"{role}_model") and getattr(self, f"{role}_net"):
            raise UserError(
                f"--{role}_model and --{role}_net both name the {role}; give only one of them"
            )
        if _is_file(getattr(self, f"{role}_model")) and getattr(self, f"{role}_options"):
            raise UserError(
                f"--{role}_options are those of a network that is built, and --{role}_model "
                f"{getattr(self, f'{role}_model')} is one already: leave the options out"
            )

    def _check_teacher(self) -> None:
        """Raise UserError where the teacher is given twice, or is missing."""
        if self.teacher and self.teacher_model_is_trained() and self.teacher != self.teacher_model:
            raise UserError(
                "--teacher and --teacher_model both give a trained teacher; give only one of them"
            )
        if self.teacher_epochs == 0 and not self.teacher_is_ready():
            raise UserError(
                "--teacher_epochs 0 needs a pretrained teacher, and none is given: give "
                "--teacher_weights, a keras_hub: preset, or 1 epoch or more"
            )
        learning = [name for name, _ in self.methods() if known.methods().get(name).trains_teacher]
        if learning and self.main_loss == "none" and not self.teacher_is_ready():
            raise UserError(
                f"with --main_loss none and no trained --teacher, {learning[0]} has two networks "
                "that learn nothing but from each other: give a teacher, or leave out --main_loss"
            )

    def _check_export(self) -> None:
        """Raise UserError where a format needs another student."""
        for form in create_formats(self.export):
            if form.source == QUANTIZED and self.quantize == "none":
                raise UserError(
                    f"--export {form.name} is made of a student from quantisation-aware training: "
                    "add --quantize int8, or give the format litert-int8"
                )

    def _check_quantization(self) -> None:
        """Raise UserError where quantisation-aware training cannot follow."""
        if self.quantize == "none":
            return
        list(self.of_quantized(Path()).methods())
        if self.strategy == "multi_worker":
            raise UserError(
                "--quantize trains on one host, not with --strategy multi_worker: quantise in "
                "a run of its own, or give another strategy"
            )

    def _check_weights(self, role: str) -> None:
        """Raise UserError unless weights are given for a network that takes them."""
        model, weights = getattr(self, f"{role}_model"), getattr(self, f"{role}_weights")
        if weights is not None and not (model and known.is_application(model)):
            of_preset = model is not None and known.is_preset(model)
            raise UserError(
                f"--{role}_weights are those of a network of keras.applications, and "
                f"--{role}_model is {model or 'not given'}"
                + (", which brings its own: leave them out" if of_preset else
                   f": give --{role}_model keras.applications:NAME")
            )

    def _method_parts(self) -> list[str]:
        """``"A+B(c=1)"`` in its parts."""
        several = plugins.split(self.Distillation)
        if len(several) > 1:
            raise UserError(
                f"--Distillation {self.Distillation} names {len(several)} methods; expected one, "
                f"or their sum {'+'.join(several)} (compare.py takes several)"
            )
        return plugins.summands(self.Distillation)

    def methods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and hyper-parameters of each method of the sum that `Distillation` is.

        Raises:
            UserError: there is no such method or hyper-parameter, its value is wrong, or several
                methods of the sum have one that is given without its method.
        """
        registry = known.methods()
        parsed = [plugins.parse(registry, part) for part in self._method_parts()]
        owners = find_owners([name for name, _ in parsed], self.hyper_parameters)
        for name, given in parsed:
            given = {**{key: self.hyper_parameters[key] for key in owners[name]}, **given}
            if name in known.declared_methods():
                plugins.configured(known.declared_methods().get(name), name, given)
            yield name, given

    def student_in_paths(self) -> str:
        """The student's name as a part of a file's name."""
        name = self.student_name()
        if known.is_application(name):
            return name.partition(":")[2]
        return (Path(name).stem if _is_file(name) else Path(name).name).replace(":", "_")

    def folder(self) -> Path:
        """The run folder."""
        name = f"{self.dataset_in_paths()}-{self.student_in_paths()}"
        name += f"-{self.Distillation}-{self.seed}"
        return Path(self.train_dir or Path("runs") / name)

    def _fine_tunes_teacher(self) -> bool:
        return self.is_pretrained("teacher") or _is_file(self.teacher_model)

    def _warmup_of_teacher(self) -> float | None:
        """The same share of the teacher's epochs as of the student's; None: the recipe's, where
        the schedule is the recipe's too, or the share is not known."""
        if self.warmup_epochs == 0:  # fits every schedule
            return 0.0
        if self.warmup_epochs is None or self.schedule is None:
            return None
        if not self.teacher_epochs:
            return self.warmup_epochs
        if self.epochs is None:
            return None
        return round(self.warmup_epochs * self.teacher_epochs / self.epochs, 2)

    def of_teacher(self, folder: Path) -> Settings:
        """The settings of the run that trains the teacher alone, with labels, for this one. Of
        settings as they were given, before a recipe has filled them, the teacher gets its own.

        Args:
            folder: its run folder.
        """
        untouched = {
            field.name: field.default for field in dataclasses.fields(Settings)
            if field.name.startswith(("teacher", "cache", "quantize"))
        }
        return dataclasses.replace(
            self,
            **untouched,
            Distillation=FINE_TUNING if self._fine_tunes_teacher() else "None",
            hyper_parameters={},
            main_loss="cross_entropy",
            student_net=None if self.teacher_model else self.teacher_name(),
            student_options=self.teacher_options,
            student_taps=self.teacher_taps,
            student_model=self.teacher_model,
            student_weights=self.teacher_weights,
            student_init=None,
            student_preprocessing=self.teacher_preprocessing,
            epochs=self.teacher_epochs or self.epochs,
            learning_rate=self.teacher_learning_rate or self.learning_rate,
            warmup_epochs=self._warmup_of_teacher(),
            export="",
            train_dir=str(folder),
        )

    def of_quantized(self, folder: Path) -> Settings:
        """The settings of the run of quantisation-aware training, of a copy of this one's student.

        Args:
            folder: its run folder.
        """
        untouched = {
            field.name: field.default for field in dataclasses.fields(Settings)
            if field.name.startswith(("cache", "quantize"))
        }
        return dataclasses.replace(
            self,
            **untouched,
            Distillation=self.quantize_distillation,
            hyper_parameters={},
            epochs=self.quantize_epochs,
            optimizer="adam",
            learning_rate=self.quantize_learning_rate,
            warmup_epochs=0.0,
            export="",
            train_dir=str(folder),
        )


def _is_file(model: str | None) -> bool:
    """Whether a model is given as a file."""
    return model is not None and not known.is_application(model) and not known.is_preset(model)


def _net_name(model: str | None, net: str) -> str:
    """A network's name: that of a model of the user's own, or else of the net."""
    if model is None or known.is_application(model):
        return known.network_name(model or net)
    return model


# Hyper-parameters


def find_owners(methods: list[str], given: Mapping[str, Any]) -> dict[str, list[str]]:
    """Which methods the hyper-parameters `given` without a method belong to.

    Args:
        methods: registered names.
        given: by name.

    Returns:
        For each method the names of its hyper-parameters.

    Raises:
        UserError: none of the methods has such a hyper-parameter, or several have it.
    """
    fields = {name: known.methods().get(name).hyper_parameters() for name in methods}
    for key, value in given.items():
        owners = [name for name in fields if key in fields[name]]
        if len(owners) > 1:
            raise UserError(
                f"{' and '.join(owners)} have a hyper-parameter {key!r}, so --{key} is ambiguous: "
                f'give it with its method, as in --Distillation "{owners[0]}({key}={value})"'
            )
        if not owners:
            have = list(dict.fromkeys(each for own in fields.values() for each in own))
            has, they = ("has", "it has") if len(fields) == 1 else ("have", "they have")
            raise UserError(
                f"{' and '.join(fields)} {has} no hyper-parameter {key!r}{nearest(key, have)}; "
                f"{they}: {', '.join(have) or 'none'}"
            )
    return {name: [key for key in given if key in own] for name, own in fields.items()}


@functools.cache
def hyper_parameters() -> dict[str, tuple[Any, list[str]]]:
    """Each hyper-parameter of any method that is a flag: its type, and a line of help for each
    method that has it.

    One with the name of a setting has no flag; it is given with its method: ``NAME(epochs=2)``. Of
    several types in different methods the flag's is text.
    """
    taken = {field.name for field in dataclasses.fields(Settings)}
    found: dict[str, tuple[Any, list[str]]] = {}
    registry = known.declared_methods()
    for name in known.method_names():
        method = registry.get(name)
        texts, kinds = plugins.described_fields(method), plugins.field_types(method)
        for key, field in method.hyper_parameters().items():
            if key not in taken:
                kind, lines = found.get(key, (kinds[key], []))
                line = f"{name} (default {field.default}): {texts.get(key, '')}"
                same = base_type(kind) == base_type(kinds[key])
                found[key] = (kind if same else str, [*lines, line])
    return found


# The command line


def define() -> None:
    """Define the flags."""
    define_flags(Settings)
    for key, (kind, lines) in hyper_parameters().items():
        define_flag(key, kind, None, "\n".join(lines), METHOD)


def given_settings() -> Settings:
    """The settings as the command line gives them, by the flags of `define`."""
    values = {key: flags.FLAGS[key].value for key in hyper_parameters()}
    return from_flags(Settings, hyper_parameters={
        key: tuple(value) if isinstance(value, list) else value
        for key, value in values.items() if value not in (None, "", [])
    })


def read_settings(description: str) -> Settings:
    """The settings that the command line gives, or the end of the process (see `main.read`);
    ``--Distillation help`` lists the methods.

    Args:
        description: the script's docstring.
    """

    def make() -> Settings:
        settings = given_settings()
        if plain(settings.Distillation) == "help":
            print(methods_table(known.declared_methods()))
            sys.exit(0)
        return settings.named()

    return read(description, define, make)


def determining_settings(settings: Settings, method: Any) -> dict[str, Any]:
    """What a run folder compares to recognise a run.

    Args:
        settings: of the run.
        method: the method that is made of them.
    """
    return {**compared(settings), "hyper_parameters": method.settings()}

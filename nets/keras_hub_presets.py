"""Networks of KerasHub, by names such as ``keras_hub:vit_base_patch16_224_imagenet``.

KerasHub is an optional dependency. What it does not document is used here alone: `preset_utils`,
by which it opens presets (of KerasHub 0.32; see ``keras_hub/src/utils/preset_utils.py``).
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from registry import UserError, nearest

from .downloads import downloading
from .fused import fuse_batch_normalization
from .keras_graph import calls_before
from .memory import limited_memory
from .weights import h5_file, unreadable

PREFIX = "keras_hub:"
_BACKBONE = "backbone"
_HOSTS = {"kaggle": "https://www.kaggle.com", "hf": "https://huggingface.co"}
INSTALL = 'pip install "keras-hub==0.32.*"'


def is_preset(name: str) -> bool:
    """Whether `name` is of the form ``keras_hub:PRESET_OR_FOLDER``."""
    return name.lower().startswith(PREFIX)


def load_preset(name: str, input_shape: Sequence[int]) -> keras.Model:
    """An image model of KerasHub with its weights, from raw images, 0..255.

    Its first layer is the scaling of the preset's image converter. The backbone is a model within
    the model, so that its layers are tapped as ``backbone/vit_encoder/3``.

    Args:
        name: ``keras_hub:`` and the folder of a preset, or the name of one of KerasHub's, or an
            address ``hf://...``, ``kaggle://...``, which are downloaded; without a network, what an
            earlier download left is read.
        input_shape: (height, width, channels) of the images, for backbones that take any size.

    Returns:
        A functional model that ends in its classifier (`nets.heads.find_classifier`), if the
        preset has one, else in the backbone's features.

    Raises:
        UserError: KerasHub is not installed, there is no such preset, it is no image model, it is
            damaged, or the download fails.
    """
    preset = name[len(PREFIX) :]
    _check_installed(name)
    folder = Path(preset)
    if folder.is_dir():
        return _read_folder(name, folder, input_shape)
    if "://" not in preset:
        _check_known(name, preset)
    scheme = preset.partition("://")[0].lower() if "://" in preset else "kaggle"
    instead = "its folder, as keras_hub:FOLDER"
    host = os.environ.get("HF_ENDPOINT") if scheme == "hf" else None
    try:
        with downloading(f"the preset {name}", instead, host or _HOSTS.get(scheme)):
            return _read(name, preset, input_shape)
    except UserError as error:
        kept = _kept_folder(preset) if error.__cause__ else None  # a failed download has a cause
        if kept is None:
            raise
        logging.getLogger(__name__).warning("%s: no network; it is read from %s", name, kept)
        return _read_folder(name, kept, input_shape)


def _kept_folder(preset: str) -> Path | None:
    """Where an earlier download of a preset is kept; None: nowhere."""
    import kagglehub
    from keras_hub.models import Backbone

    handle = preset if "://" in preset else Backbone.presets[preset]["kaggle_handle"]
    scheme, _, place = handle.partition("://")
    if scheme.lower() == "kaggle":
        folder = Path(kagglehub.config.get_cache_folder(), "models", place)
    elif scheme.lower() == "hf" and importlib.util.find_spec("huggingface_hub"):
        import huggingface_hub

        found = huggingface_hub.try_to_load_from_cache(place, "config.json")
        folder = Path(found).parent if isinstance(found, str) else None
    else:
        return None
    is_whole = folder is not None and (folder / "config.json").exists() and any(folder.glob("*.h5"))
    return folder if is_whole else None


def _check_installed(name: str) -> None:
    if importlib.util.find_spec("keras_hub") is None:
        raise UserError(f"{name} needs the package keras-hub, which is not installed: {INSTALL}")


def _check_known(name: str, preset: str) -> None:
    from keras_hub.models import Backbone

    if preset not in Backbone.presets:
        images = [each for cls in _image_backbones() for each in cls.presets]
        raise UserError(
            f"{name}: there is no folder {preset}, and KerasHub has no preset of this name"
            f"{nearest(preset, images)}; expected keras_hub:FOLDER, a preset's name, or hf:// or "
            "kaggle:// and its address"
        )


def _read_folder(name: str, folder: Path, input_shape: Sequence[int]) -> keras.Model:
    if not (folder / "config.json").exists():
        raise UserError(
            f"{name}: {folder} holds no config.json; expected a folder that save_to_preset wrote"
        )
    for file in folder.glob("*.h5"):
        with h5_file(file):
            pass  # it refuses what is damaged, or whose numbers lie elsewhere
    try:
        with limited_memory(f"the preset in {folder}"):
            return _read(name, str(folder), input_shape)
    except UserError:
        raise
    # A folder can state anything, so KerasHub can fail in any way.
    except Exception as error:
        raise unreadable(folder, "a preset of an image model", error) from error


def _read(name: str, preset: str, input_shape: Sequence[int]) -> keras.Model:
    from keras_hub.models import Backbone, ImageClassifier
    from keras_hub.src.utils import preset_utils

    kind = preset_utils.get_preset_loader(preset).check_backbone_class()
    if kind not in set(_image_backbones()):
        raise UserError(f"{name} is a {kind.__name__}, which is not a model of images alone")
    task = None
    if preset_utils.check_file_exists(preset, preset_utils.TASK_CONFIG_FILE):
        config = preset_utils.load_json(preset, preset_utils.TASK_CONFIG_FILE)
        if issubclass(preset_utils.check_config_class(config), ImageClassifier):
            task = ImageClassifier.from_preset(preset)
            task.backbone.name = _BACKBONE
    # Named at once, as some name their layers after themselves.
    backbone = task.backbone if task else Backbone.from_preset(preset, name=_BACKBONE)
    inputs = keras.tree.flatten(backbone.input)
    outputs = keras.tree.flatten(backbone.output)
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or len(outputs) != 1:
        raise UserError(
            f"{name} is a {kind.__name__}, which is not a model of one image to features"
        )
    shape = [own or given for own, given in zip(inputs[0].shape[1:], input_shape, strict=True)]
    image = keras.Input(shape, name="image")
    scaled = _scaled(image, _converter(preset, preset_utils))
    features = backbone(keras.tree.pack_sequence_as(backbone.input, [scaled]))
    output = _run_again(task, backbone, features) if task else features
    called = _model_name(name[len(PREFIX) :])
    return fuse_batch_normalization(keras.Model(image, output, name=called))


def _image_backbones() -> Iterator[type]:
    """The backbones of KerasHub that have an image converter and no tokenizer."""
    from keras_hub.layers import ImageConverter
    from keras_hub.tokenizers import Tokenizer

    texts = {each.backbone_cls for each in _subclasses(Tokenizer)}
    for converter in _subclasses(ImageConverter):
        if converter.backbone_cls is not None and converter.backbone_cls not in texts:
            yield converter.backbone_cls


def _subclasses(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def _converter(preset: str, preset_utils: Any) -> Any:
    """The image converter of a preset; None where it has none."""
    from keras_hub.layers import ImageConverter

    file = preset_utils.IMAGE_CONVERTER_CONFIG_FILE
    is_keras = preset_utils.check_file_exists(preset, file)
    is_foreign = "registered_name" not in preset_utils.load_json(preset)
    return ImageConverter.from_preset(preset) if is_keras or is_foreign else None


def _scaled(image: keras.KerasTensor, converter: Any) -> keras.KerasTensor:
    scale = 1.0 if converter is None or converter.scale is None else converter.scale
    offset = 0.0 if converter is None or converter.offset is None else converter.offset
    scale, offset = (
        list(map(float, each)) if isinstance(each, Sequence) else float(each)
        for each in (scale, offset)
    )
    # In float32 under a mixed policy too: numbers up to 255 have no fractions in bfloat16.
    layer = keras.layers.Rescaling(scale, offset, dtype="float32", name="preprocessing")
    return layer(image)


def _run_again(
    task: keras.Model, backbone: keras.Model, features: keras.KerasTensor
) -> keras.KerasTensor:
    """What a classifier makes of other features of its backbone, symbolic."""
    known: dict[int, keras.KerasTensor] = {}

    def now(tensor: Any) -> Any:
        return known.get(id(tensor), tensor)

    for call in calls_before(task.outputs):
        if call.operation is backbone:
            known[id(call.outputs[0])] = features
        elif call.inputs:
            args, kwargs = keras.tree.map_structure(now, (call.arguments, call.keywords))
            given = keras.tree.flatten(call.operation(*args, **kwargs))
            known.update(zip(map(id, call.outputs), given, strict=True))
    return known[id(task.outputs[0])]


def _model_name(preset: str) -> str:
    return Path(preset).name.replace(":", "_") or "preset"

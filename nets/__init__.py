"""Networks by name: functional Keras models that declare their taps, embedding and logits.

`build` makes a registered network, `pair` names the teacher and the student that belong together,
`feature_extractor` turns any functional model, registered or not, into one that gives the maps,
the embedding and the logits from which a student is taught. `load` reads a network from a file.

A further family of networks is one new file in this package; see `nets.vgg` for a model.
"""

from registry import import_modules

from .applications import is_application
from .batch_statistics import recompute_batch_statistics
from .class_names import class_lines, read_class_names, write_class_names
from .convolutions import convolutions_by, open_convolutions
from .copying import (
    check_trainable,
    computes_in_float16,
    copy_model,
    copy_state,
    count_frozen,
    describe_frozen,
    is_narrow,
    reinitialize,
    renew_state,
)
from .counting import UncountableError, count_flops, count_parameters, known_flops
from .encoders import (
    Encoder,
    ExportedEncoder,
    copy_encoder,
    encoder_of,
    load_encoder,
    trainable_copy,
)
from .features import Outputs, feature_extractor, outputs_of
from .fingerprints import fingerprints
from .fused import fuse_batch_normalization
from .heads import embedding_layer, find_classifier, with_new_classifier
from .inferred_preprocessing import infer_preprocessing
from .keras_graph import Untracked, operations_before, output_layer_of, producer
from .keras_hub_presets import is_preset
from .layer_list import list_layers
from .library import load_library_network, with_classes
from .logits import gives_probabilities, without_softmax
from .memory import check_memory, limited_memory
from .preprocessing import COLOURED, PREPROCESSING, Standardize, named_preprocessing
from .quantization import check_quantizable, quantize, quantized_names, with_rounded_weights
from .random_layers import describe_random_layers
from .registration import (
    build,
    declare_pair,
    declared_outputs,
    declared_outputs_of,
    minimum_size,
    names,
    pair,
    pairs,
    parse_options,
    register,
    registered_name,
)
from .stored import RUN_FILES, Stored, load
from .tokens import token_grid, tokens_to_maps
from .transfer import fill_from_encoder, is_pretrained, load_pretrained

import_modules(__name__, __path__)

__all__ = [
    "check_quantizable",
    "quantize",
    "quantized_names",
    "with_rounded_weights",
    "class_lines",
    "embedding_layer",
    "find_classifier",
    "with_new_classifier",
    "is_preset",
    "load_library_network",
    "with_classes",
    "read_class_names",
    "write_class_names",
    "load_pretrained",
    "list_layers",
    "named_preprocessing",
    "is_pretrained",
    "infer_preprocessing",
    "RUN_FILES",
    "is_application",
    "is_narrow",
    "check_trainable",
    "computes_in_float16",
    "describe_frozen",
    "describe_random_layers",
    "known_flops",
    "fill_from_encoder",
    "fingerprints",
    "fuse_batch_normalization",
    "gives_probabilities",
    "without_softmax",
    "COLOURED",
    "PREPROCESSING",
    "Encoder",
    "ExportedEncoder",
    "Outputs",
    "Standardize",
    "Stored",
    "UncountableError",
    "Untracked",
    "build",
    "check_memory",
    "convolutions_by",
    "copy_encoder",
    "trainable_copy",
    "copy_model",
    "copy_state",
    "count_flops",
    "count_frozen",
    "count_parameters",
    "declare_pair",
    "declared_outputs",
    "declared_outputs_of",
    "encoder_of",
    "feature_extractor",
    "limited_memory",
    "load",
    "load_encoder",
    "minimum_size",
    "names",
    "open_convolutions",
    "operations_before",
    "output_layer_of",
    "outputs_of",
    "pair",
    "pairs",
    "parse_options",
    "producer",
    "recompute_batch_statistics",
    "register",
    "reinitialize",
    "renew_state",
    "registered_name",
    "token_grid",
    "tokens_to_maps",
]

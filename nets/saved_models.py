"""What a SavedModel would do is read from its file before it is loaded.

A SavedModel is a program: TensorFlow runs its graph, and a graph can read and write files. Here a
foreign one serves as an encoder, so its operations have to be among those that compute numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from registry import UserError

from .memory import check_memory

_NUMERICAL = frozenset("""
Abs Acos Acosh Add AddN AddV2 All Any ArgMax ArgMin Asin Asinh Assert Atan Atan2 Atanh AvgPool
AvgPool3D BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchToSpaceND BiasAdd BiasAddV1 Bincount Bitcast
BroadcastArgs BroadcastTo Bucketize Cast Ceil CheckNumerics ClipByValue Complex Concat ConcatV2
Const Conv Conv2D Conv2DBackpropInput Conv2DBackpropInputV2 Conv3D Conv3DBackpropInputV2 Cos Cosh
CropAndResize Cumprod Cumsum DenseBincount DepthToSpace DepthwiseConv2dNative Diag DiagPart Div
DivNoNan DynamicStitch Einsum Elu EmptyTensorList EnsureShape Equal Erf Erfc Exp ExpandDims Expm1
ExtractImagePatches FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars
FakeQuantWithMinMaxVarsPerChannel Fill Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2
FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual HSVToRGB Identity IdentityN If Imag
ImageProjectiveTransformV2 ImageProjectiveTransformV3 InTopKV2 Inv InvertPermutation IsFinite IsInf
IsNan L2Loss LRN LeakyRelu Less LessEqual LinSpace Log Log1p LogSoftmax LogicalAnd LogicalNot
LogicalOr MatMul MatrixBandPart MatrixDiag MatrixDiagV2 MatrixDiagV3 MatrixInverse Max MaxPool
MaxPool3D MaxPoolV2 Maximum Mean Min Minimum MirrorPad Mod Mul MulNoNan Multinomial Neg NoOp
NotEqual OneHot OnesLike Pack Pad PadV2 PartitionedCall Placeholder PlaceholderWithDefault Pow
PreventGradient Prod Qr RGBToHSV RandomStandardNormal RandomUniform RandomUniformInt Range Rank Real
RealDiv Reciprocal Relu Relu6 Reshape ResizeArea ResizeBicubic ResizeBilinear
ResizeNearestNeighbor Reverse ReverseV2 Rint Roll Round Rsqrt ScaleAndTranslate ScatterNd
SegmentSum Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Sinh Size Slice Snapshot Softmax
Softplus Softsign SpaceToBatchND SpaceToDepth SparseSoftmaxCrossEntropyWithLogits Split SplitV Sqrt
Square SquaredDifference Squeeze StatelessIf StatelessRandomGetKeyCounter StatelessRandomNormalV2
StatelessRandomUniformIntV2 StatelessRandomUniformV2 StopGradient StridedSlice Sub Sum Svd Tan Tanh
Tile TopK TopKV2 Transpose TruncateDiv TruncateMod Unpack UnsortedSegmentSum Where Xdivy Xlog1py
Xlogy ZerosLike
ReadVariableOp ResourceGather ResourceGatherNd StatefulPartitionedCall VarHandleOp
VarIsInitializedOp
""".split())
"""Operations that turn numbers into numbers, and read variables."""

_SAVER = frozenset("""
AssignVariableOp DisableCopyOnRead MergeV2Checkpoints RestoreV2 SaveV2 ShardedFilename
StaticRegexFullMatch StringJoin
""".split())
"""What the SavedModel's own saver consists of. It is never run as an encoder is loaded or called:
TensorFlow reads the variables itself."""


def check_saved_model(path: Path) -> None:
    """Raise UserError unless a SavedModel only computes.

    All operations are listed, those in its functions too. What can be run has to be in a list of
    numerical operations; only functions that nothing leads to but the saver may save and restore.

    Raises:
        UserError: it does something else, is damaged, is in TensorFlow 1's format, or its variables
            need more memory than there is.
    """
    file = path / "saved_model.pb"
    if not file.is_file():
        raise UserError(
            f"{path} is not a SavedModel for serving (no saved_model.pb): give export/1"
        )
    for part in (*path.iterdir(), *(path / "variables").glob("*")):
        if not (part.is_file() or part.is_dir()):  # TensorFlow would wait for a pipe
            raise UserError(f"{part} is neither file nor folder: export the model again")
    saved = SavedModel()
    _parse(saved, file)
    fingerprint = path / "fingerprint.pb"
    if fingerprint.exists():  # TensorFlow would go on after a traceback
        _parse(FingerprintDef(), fingerprint)
    if len(saved.meta_graphs) != 1 or not saved.meta_graphs[0].HasField("object_graph_def"):
        raise UserError(
            f"{path} is not a SavedModel of TensorFlow 2 with one graph: export the model again"
        )
    (graph,) = saved.meta_graphs
    functions = {each.signature.name: each.node_def for each in graph.graph_def.library.function}
    run = _reached(graph.object_graph_def.concrete_functions, functions)
    found: set[str] = _operations(graph.graph_def.node) - _SAVER
    for name, nodes in functions.items():
        found |= _operations(nodes) - (frozenset() if name in run else _SAVER)
    foreign = sorted(found - _NUMERICAL - functions.keys())
    if foreign:
        raise UserError(
            f"{path} is refused, as it may do more than compute, and its operations would run: "
            f"{', '.join(foreign[:8])}{' ...' if len(foreign) > 8 else ''}; give an export of "
            "numerical operations, or the .keras file"
        )
    needed = sum(
        math.prod(dim.size for dim in node.variable.shape.dim)
        * tf.dtypes.as_dtype(node.variable.dtype).size
        for node in graph.object_graph_def.nodes if node.HasField("variable")
    )
    check_memory(needed, f"the variables that {path} claims", "give a smaller model")


def _parse(message: Any, file: Path) -> None:
    """Fill the protocol buffer `message` from `file`. Raises UserError where it is damaged."""
    try:
        content = file.read_bytes()
        if not content:
            raise ValueError("empty")
        message.ParseFromString(content)
    except Exception as error:  # DecodeError, whose module no package of ours is named after
        raise UserError(f"{file} is damaged: export the model again") from error


def _operations(nodes: Iterable[NodeDef]) -> frozenset[str]:
    return frozenset(node.op for node in nodes)


def _called(nodes: Iterable[NodeDef]) -> Iterator[str]:
    """What nodes name as their operation, or as a function in an attribute at any depth."""
    for node in nodes:
        yield node.op
        waiting = list(node.attr.values())
        while waiting:
            value = waiting.pop()
            for function in (value.func, *value.list.func):
                yield function.name
                waiting += function.attr.values()


def _reached(names: Iterable[str], functions: dict[str, Iterable[NodeDef]]) -> set[str]:
    """The functions that those called `names` lead to, themselves included."""
    reached: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in functions and name not in reached:
            reached.add(name)
            waiting += _called(functions[name])
    return reached

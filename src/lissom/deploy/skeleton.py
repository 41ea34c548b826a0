"""Skeleton: an ONNX model without its weights, in few bytes, and the way back to exactly the file it came from.

The network section of an archive. Layout: one byte that names the form, then the body, compressed. The body is the
``ModelProto`` itself, in which an initialiser whose data is kept elsewhere has no data, and says in its
``doc_string`` where its data is: a letter for the role, digits for the permutation, and the tensor's name where
that is not the initialiser's own. In the compact form, names that follow lissom's own rule are left out.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lissom.codec.tensors import Quantized, Table, Uniform
from lissom.deploy import naming
from lissom.errors import CorruptArchive, DeployFailed

__all__ = ["pack", "restore", "split"]

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array | Quantized]

LARGEST = 2**28
INLINE_BYTES = 64
"""Constants of the graph up to this size stay in the skeleton: a tensor of its own would cost more."""
LETTERS = {"values": "v", "levels": "l", "packed": "p", "scale": "s", "zero_point": "z", "table": "t"}
SUFFIXES = {"v": "", "l": ".levels", "p": ".packed", "s": ".scale", "z": ".zero_point", "t": ".table"}
LZMA_FILTER = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 3, "lp": 0, "pb": 0}]
COMMON = (
    b"\x08\n\x12\x06lissom:\x02\x10\x14 "
    b"DequantizeLinear QuantizeLinear .zero_point .scale .levels .table .folded running_var running_mean epsilon momentum "
    b"BatchNormalization LSTM GRU hidden_size Softmax LayerNormalization Erf Sqrt Div Sub Pow Mul Tanh Sigmoid HardSwish "
    b"GlobalAveragePool ReduceMean Unsqueeze Squeeze Transpose perm Concat axis Slice Split Where Cast to Gather "
    b"AveragePool count_include_pad ceil_mode allowzero Reshape Flatten ConvTranspose Conv group strides pads dilations "
    b"kernel_shape auto_pad NOTSET MaxPool Relu Clip Add MatMul Gemm transA transB alpha beta network input output batch "
    b"logits features layers conv1 conv2 conv fc1 fc2 fc3 fc .bias .weight"
)
"""What graphs are made of: deflate starts with it in its window, so that a small graph costs little."""


HELD_TYPES = frozenset(helper.get_all_tensor_dtypes()) - {TensorProto.STRING, TensorProto.UNDEFINED}


class Bound(Protocol):
    """What the skeleton needs to know of an initialiser (see ``Binding``)."""

    @property
    def parameter(self) -> str:
        """The tensor's name."""

    @property
    def role(self) -> str:
        """Values, levels, or what decodes them."""

    @property
    def permutation(self) -> tuple[int, ...]:
        """The order of the tensor's axes in the model."""

    @property
    def axis(self) -> int | None:
        """The tensor's axis that a one-axis scale goes along."""


def split(model: ModelProto, bindings: Mapping[str, Bound] | None = None) -> tuple[bytes, dict[str, Array | Quantized]]:
    """Part a model into its skeleton and its tensors.

    Args:
        model: Any ONNX model that holds its own data.
        bindings: For initialisers by name, the tensor they hold; others hold values under their own name, and small
            ones stay in the skeleton.

    Returns:
        The skeleton, and the tensors: arrays, or levels with their decoding, in the order that the user has them.

    Raises:
        DeployFailed: the parts do not give the model back, byte for byte.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('<ir_version: 10, opset_import: ["": 20]> g (float[N] x) => (float[N] y) {y = Abs(x)}')
        >>> body, tensors = split(model)
        >>> restore(body, tensors) == model.SerializeToString(deterministic=True)
        True
    """
    bound = dict(bindings or {})
    pieces: dict[str, dict[str, tuple[Array, Bound | None]]] = {}
    stripped = ModelProto()
    stripped.CopyFrom(model)
    for tensor in stripped.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise DeployFailed(f"the initialiser {tensor.name} keeps its data in another file: load the model with its data")
        binding = bound.get(tensor.name)
        if (
            tensor.data_type == TensorProto.STRING
            or not _plain(tensor)
            or (binding is None and len(tensor.raw_data) <= INLINE_BYTES)
        ):
            continue
        parameter, role = (tensor.name, "values") if binding is None else (binding.parameter, binding.role)
        order = () if binding is None else binding.permutation
        pieces.setdefault(parameter, {})[role] = (numpy_helper.to_array(tensor), binding)
        tensor.ClearField("raw_data")
        letter = LETTERS[role]
        same = parameter + SUFFIXES[letter] == tensor.name
        tensor.doc_string = letter + ",".join(map(str, order)) + ("" if same else f":{parameter}")
    tensors = {name: _joined(name, roles) for name, roles in pieces.items()}
    original = model.SerializeToString(deterministic=True)
    bodies = [(0, stripped.SerializeToString(deterministic=True))]
    compact = naming.shorten(stripped)
    if compact is not None:
        bodies.append((1, compact.SerializeToString(deterministic=True)))
    for form, body in reversed(bodies):
        packed = _compressed(form, body)
        if restore(packed, tensors) == original:
            return packed, tensors
    raise DeployFailed("the ONNX model cannot be taken apart and put together to the same bytes: save it anew with onnx.save")


def restore(skeleton: bytes, tensors: Tensors) -> bytes:
    """The bytes of the model that :func:`split` took apart.

    Raises:
        CorruptArchive: the skeleton is damaged, or a tensor that it names is missing or of another shape.
    """
    form, body = _expanded(skeleton)
    model = ModelProto()
    try:
        model.ParseFromString(body)
    except DecodeError as error:
        raise CorruptArchive("the network section of the archive is damaged: get the file again") from error
    # Names that are no UTF-8 come out of protobuf as bytes, and would break whatever handles them.
    texts = [text for node in model.graph.node for text in (node.op_type, node.name, *node.input, *node.output)]
    texts += [text for tensor in model.graph.initializer for text in (tensor.name, tensor.doc_string)]
    if not all(isinstance(text, str) for text in texts):
        raise CorruptArchive("the network section of the archive has a name that is not text: get the file again")
    if form == 1:
        naming.lengthen(model)
    for tensor in model.graph.initializer:
        if tensor.doc_string and not tensor.raw_data and tensor.data_type != TensorProto.STRING:
            _fill(tensor, tensors)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _plain(tensor: TensorProto) -> bool:
    return bool(tensor.raw_data) and not tensor.doc_string


def _joined(name: str, roles: dict[str, tuple[Array, Bound | None]]) -> Array | Quantized:
    """One tensor from the initialisers that hold its parts, in the user's order of axes."""
    if "values" in roles:
        return _back(*roles["values"])
    if "packed" in roles:
        array, binding = roles["packed"]
        levels = np.stack([array & 15, array >> 4], -1).reshape(len(array), -1).astype(np.int32) - 8
        roles["levels"] = (levels, binding)
    if "levels" not in roles:
        raise DeployFailed(f"{name} has {', '.join(roles)} and no levels: bind its levels too")
    levels = _back(*roles["levels"]).astype(np.int32)
    if "table" in roles:
        return Quantized(levels, Table(roles["table"][0].astype(np.float32).ravel()))
    scale = _along(*roles["scale"], levels.ndim).astype(np.float32)
    zero = (
        _along(*roles["zero_point"], levels.ndim).astype(np.int32) if "zero_point" in roles else np.zeros(scale.shape, np.int32)
    )
    return Quantized(levels, Uniform(scale, zero))


def pack(levels: Array, shape: Sequence[int]) -> Array:
    """Levels from -8 to 7, two to a byte with 8 added, the first of two in the lower half.

    >>> pack(np.array([[-8, 7, 0, 1]]), (1, 1, 2)).tolist()
    [[[240, 152]]]
    """
    pairs = ((levels.reshape(-1, 2) + 8) & 15).astype(np.uint8)
    return np.asarray(pairs[:, 0] | pairs[:, 1] << 4).reshape(shape)


def _back(array: Array, binding: Bound | None) -> Array:
    order = () if binding is None else binding.permutation
    return np.ascontiguousarray(array.transpose(np.argsort(order))) if order and len(order) == array.ndim else array


def _along(array: Array, binding: Bound | None, axes: int) -> Array:
    """A scale or zero point with as many axes as its levels (none where there is one for all)."""
    if binding is None or binding.axis is None:
        return _back(array, binding)
    return array.reshape([-1 if axis == binding.axis else 1 for axis in range(axes)])


def _fill(tensor: TensorProto, tensors: Tensors) -> None:
    place, _, other = tensor.doc_string.partition(":")
    letter = place[:1]
    if letter not in SUFFIXES or (place[1:] and not place[1:].replace(",", "").isdigit()):
        raise CorruptArchive(f"the network section says {tensor.doc_string[:40]!r} of {tensor.name[:40]}, which means nothing")
    parameter = other or tensor.name.removesuffix(SUFFIXES[letter])
    if parameter not in tensors:
        raise CorruptArchive(f"the archive has no tensor {parameter[:80]!r}, which its network section needs")
    array = _part(tensors[parameter], letter, parameter)
    order = tuple(int(digits) for digits in place[1:].split(",") if digits) if place[1:] else ()
    if order and len(order) == array.ndim and sorted(order) == list(range(array.ndim)):
        array = array.transpose(order)
    size = int(np.prod(list(tensor.dims), dtype=np.int64)) * (2 if letter == "p" else 1)
    if array.size != size or min(tensor.dims, default=0) < 0:
        raise CorruptArchive(
            f"the tensor {parameter[:80]!r} has shape {array.shape}, its place in the network {list(tensor.dims)}"
        )
    if tensor.data_type not in HELD_TYPES:
        raise CorruptArchive(f"the network section gives the tensor {parameter[:80]!r} a type that lissom never writes")
    if letter == "p":
        array = pack(array, list(tensor.dims))
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    filled = numpy_helper.from_array(np.ascontiguousarray(array.reshape(list(tensor.dims)).astype(kind)), tensor.name)
    tensor.raw_data = filled.raw_data
    tensor.ClearField("doc_string")


def _part(stored: Array | Quantized, letter: str, name: str) -> Array:
    if letter == "v":
        return np.asarray(stored.dense()) if isinstance(stored, Quantized) else stored
    if isinstance(stored, Quantized):
        if letter in "lp":
            return stored.levels
        if letter == "t" and isinstance(stored.decoding, Table):
            return stored.decoding.values
        if letter in "sz" and isinstance(stored.decoding, Uniform):
            return stored.decoding.scale if letter == "s" else stored.decoding.zero_point
    raise CorruptArchive(f"the tensor {name[:80]!r} of the archive is stored in another way than its network section says")


def _compressed(form: int, body: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, COMMON)
    deflated = bytes([form]) + deflater.compress(body) + deflater.flush()
    squeezed = bytes([form | 2]) + lzma.compress(body, lzma.FORMAT_RAW, filters=LZMA_FILTER)
    return min(deflated, squeezed, key=len)


def _expanded(skeleton: bytes) -> tuple[int, bytes]:
    """The form and the body; at most ``LARGEST`` bytes, whatever the skeleton claims."""
    if not skeleton or skeleton[0] > 3:
        raise CorruptArchive("the network section of the archive has an unknown form: a newer lissom wrote it, or it is damaged")
    try:
        if skeleton[0] & 2:
            body = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=LZMA_FILTER).decompress(skeleton[1:], max_length=LARGEST + 1)
        else:
            body = zlib.decompressobj(-15, COMMON).decompress(skeleton[1:], LARGEST + 1)
    except (zlib.error, lzma.LZMAError) as error:
        raise CorruptArchive("the network section of the archive is damaged: get the file again") from error
    if len(body) > LARGEST:
        raise CorruptArchive(f"the network section of the archive is larger than {LARGEST:,} bytes")
    return skeleton[0] & 1, body

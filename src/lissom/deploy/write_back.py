"""Write-back: an edited ONNX network returns to the file it came from.

Names, inputs, outputs, operator sets, metadata and open axes stay. What differs is the initialisers that were edited;
those with levels become integers with a DequantizeLinear, or indices with a Gather, under the name they had. Where
channels went, initialisers are smaller, and so are the numbers of the nodes that state sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from lissom import edits
from lissom.codec.tensors import Quantized, Table
from lissom.deploy.deployed import Binding, Deployed
from lissom.deploy.editing import Editor
from lissom.deploy.weights import place_quantized
from lissom.errors import DeployFailed, UsageError
from lissom.network import Network
from lissom.networks.onnx import changed_sizes, original_name
from lissom.networks.onnx.table import snake_case

__all__ = ["write_back"]

Array = npt.NDArray[Any]
LARGEST_FILE = 2**31 - 1
"""Bytes; protobuf writes no more."""


def write_back(network: Network) -> Deployed:
    """The file that the network was read from, with the values and levels that its weights have now.

    Args:
        network: Read by :func:`lissom.networks.onnx.read_onnx`, and edited since; left as it is.

    Returns:
        The model, and what its initialisers hold. Weights whose levels the file's operator set cannot decode are stored
        as the values that the levels stand for, and named in the notes.

    Raises:
        UsageError: the network did not come from an ONNX file.
        DeployFailed: a weight has another shape than in the file and no structure edit says why, or the file would pass
            two gigabytes.

    Example:
        >>> import torch
        >>> from onnx import TensorProto, helper
        >>> from lissom.networks.onnx import read_onnx
        >>> weight = helper.make_tensor("weight", TensorProto.FLOAT, [2, 1], [1.0, 2.0])
        >>> graph = helper.make_graph(
        ...     [helper.make_node("MatMul", ["x", "weight"], ["y"])], "g",
        ...     [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        ...     [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])], [weight],
        ... )
        >>> network = edits.copy(read_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])))
        >>> _ = edits.attach(network.module, "weight", mask=torch.tensor([[True], [False]]))
        >>> onnx.numpy_helper.to_array(write_back(network).model.graph.initializer[0]).tolist()
        [[1.0], [0.0]]
    """
    original = network.source.original
    if not isinstance(original, ModelProto):
        raise UsageError(f"write-back needs a network that was read from an ONNX file; this one is a {network.source.kind}")
    model = ModelProto()
    model.CopyFrom(original)
    writer = _Writer(model, resized=bool(network.slices))
    for key, stored in edits.tensors(network.module).items():
        writer.write(key, stored)
    for output, sizes in changed_sizes(network.module).items():
        writer.resize(original_name(output), sizes)
    writer.finish()
    return Deployed(model, tuple(writer.bindings), notes=tuple(writer.notes))


class _Writer:
    """Puts tensors into a model, each where one of its name stands."""

    def __init__(self, model: ModelProto, *, resized: bool) -> None:
        self.model = model
        self.resized = resized
        self.bindings: list[Binding] = []
        self.notes: list[str] = []
        self.opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        self.places = dict(_tensors(model.graph))
        self.top = {tensor.name for tensor in model.graph.initializer}
        self.editor = Editor(_names_only(model))  # only to make nodes and fresh names beside the real graph
        self.editor.nodes, self.editor.constants = [], {}
        self.replaced: set[str] = set()

    def write(self, key: str, stored: Array | Quantized) -> None:
        """Store the tensor ``key`` of the module, as levels where that is possible."""
        name = original_name(key)
        place = self.places.get(name)
        if place is None:
            raise DeployFailed(f"the file holds no tensor {name!r}: read it again and repeat the edits")
        if isinstance(stored, Quantized):
            if name in self.top and self.place_levels(name, key, stored):
                return
            self.notes.append(f"{name} keeps its levels as values: operator set {self.opset} has no way to decode them")
        values = stored.dense() if isinstance(stored, Quantized) else stored
        if list(place.dims) != list(values.shape) and not self.resized:
            raise DeployFailed(
                f"{name} has shape {list(values.shape)}, and {list(place.dims)} in the file: edit it by lissom's steps"
            )
        _store(place, values)
        if name in self.top:
            self.bindings.append(Binding(name, key))

    def place_levels(self, name: str, key: str, stored: Quantized) -> bool:
        """Replace an initialiser by its levels and their decoding, where the operator set has what that takes."""
        if stored.dtype != "float32" or self.places[name].data_type != TensorProto.FLOAT:
            return False
        if stored.mask is not None and not (isinstance(stored.decoding, Table) and (stored.decoding.values == 0).any()):
            return False
        before, nodes = set(self.editor.constants), list(self.editor.nodes)
        self.editor.constants[name] = stored.levels  # what is replaced
        bindings = place_quantized(self.editor, name, stored)
        made = self.editor.constants.keys() - before
        for constant in made:
            self.editor.constants[constant] = self.without_small_types(self.editor.constants[constant])
        fresh = [node for node in self.editor.nodes if not any(node is other for other in nodes)]
        if not all(self.decodes(node) for node in fresh):
            self.editor.nodes = nodes
            for constant in made:
                del self.editor.constants[constant]
            return False
        self.bindings += [Binding(b.initializer, key, b.role, b.permutation, b.axis) for b in bindings]
        self.replaced.add(name)
        return True

    def without_small_types(self, values: Array) -> Array:
        """4-bit integers one to a byte, where the file is older than they are."""
        if self.opset >= 21 and self.model.ir_version >= 10:
            return values
        wide = {np.dtype(ml_dtypes.int4): np.int8, np.dtype(ml_dtypes.uint4): np.uint8}.get(values.dtype)
        return values if wide is None else values.astype(wide)

    def decodes(self, node: NodeProto) -> bool:
        """Whether the file's operator set has this node with these attributes and types."""
        if node.op_type != "DequantizeLinear":
            return True
        named = {attribute.name for attribute in node.attribute}
        byte = self.editor.constants[node.input[0]].dtype.itemsize == 1
        needed = 21 if "block_size" in named or not byte else 13 if "axis" in named else 10
        return self.opset >= needed

    def resize(self, output: str, sizes: Mapping[int | str, list[int] | int]) -> None:
        """Change the numbers that the node of this output states: its attributes, and constants among its inputs."""
        node = next((node for node in self.model.graph.node if output in node.output), None)
        if node is None:
            raise DeployFailed(f"no node of the file makes {output!r}, whose sizes changed: deploy the network by export")
        for key, numbers in sizes.items():
            if isinstance(key, str):
                old = next(attribute for attribute in node.attribute if snake_case(attribute.name) == key)
                old.CopyFrom(onnx.helper.make_attribute(old.name, numbers))
                continue
            name = node.input[key]
            values = np.asarray(numbers, np.int64)
            place = self.places.get(name)
            if place is not None and sum(name in other.input for other in self.model.graph.node) == 1:
                _store(place, values.reshape(tuple(place.dims)).astype(numpy_helper.to_array(place).dtype))
            else:  # other nodes read the same numbers, or they were computed from others
                node.input[key] = self.editor.add_constant(f"{name}.resized", values)

    def finish(self) -> None:
        """Put the levels and their nodes into the graph, in place of the initialisers that they decode to."""
        graph = self.model.graph
        kept = [tensor for tensor in graph.initializer if tensor.name not in self.replaced]
        fresh = [numpy_helper.from_array(values, name) for name, values in self.editor.constants.items()]
        nodes = [*self.editor.nodes, *graph.node]
        inputs = [value for value in graph.input if value.name not in self.replaced]
        if self.resized:
            graph.ClearField("value_info")  # shapes of values that are smaller now
        for field, values in (("initializer", [*kept, *fresh]), ("node", nodes), ("input", inputs)):
            copies = [type(value).FromString(value.SerializeToString()) for value in values]
            graph.ClearField(field)
            getattr(graph, field).extend(copies)
        if self.model.ByteSize() > LARGEST_FILE:
            raise DeployFailed(f"the model would have {self.model.ByteSize():,} bytes, and an ONNX file holds {LARGEST_FILE:,}")


def _store(place: TensorProto, values: Array) -> None:
    """Put values into a tensor of the file, unless they are there already, bit for bit."""
    external = place.data_location == TensorProto.EXTERNAL
    if not external and numpy_helper.to_array(place).tobytes() == np.ascontiguousarray(values).tobytes():
        return
    name, kind, note = place.name, place.data_type, place.doc_string
    kept = numpy_helper.from_array(np.ascontiguousarray(values), name)
    if kept.data_type != kind:  # bfloat16 comes as its bits; 4-bit integers one to a byte
        kept = onnx.helper.make_tensor(name, kind, list(values.shape), np.asarray(values).ravel())
    place.CopyFrom(kept)
    place.doc_string = note


def _tensors(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Every tensor that a name stands for: initialisers and Constant nodes, in branches too."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield node.output[0], attribute.t
            elif attribute.HasField("g"):
                yield from _tensors(attribute.g)


def _names_only(model: ModelProto) -> ModelProto:
    """A model with the same names taken and nothing in it, for making nodes beside the real one."""
    bare = ModelProto(ir_version=model.ir_version)
    bare.opset_import.extend(model.opset_import)
    for node in model.graph.node:
        bare.graph.node.add(op_type=node.op_type, output=list(node.output))
    bare.graph.initializer.extend(
        TensorProto(name=tensor.name, data_type=TensorProto.FLOAT, dims=[0]) for tensor in model.graph.initializer
    )
    return bare

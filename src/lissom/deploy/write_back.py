"""Write-back: an edited ONNX network returns to the file it came from.

Names, inputs, outputs, operator sets, metadata and open axes stay. What differs is the tensors that were edited; those
with levels become integers with their decoding, or indices with a Gather, under the name they had. Where channels
went, tensors are smaller, and so are the numbers of the nodes that state sizes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from lissom import edits
from lissom.codec.tensors import Quantized, Table
from lissom.deploy.deployed import Binding, Deployed
from lissom.deploy.editing import Editor, make_node
from lissom.deploy.weights import is_multiplied, place_quantized
from lissom.errors import DeployFailed, UsageError
from lissom.network import Bypass, Network, Preprocess, Replace
from lissom.networks.onnx import OnnxModule, Sizes, changed_sizes, original_name, read_sparse, read_tensor
from lissom.networks.onnx.table import snake_case
from lissom.networks.preprocess import METADATA_KEY, preprocess_dict

__all__ = ["returns", "write_back"]

Array = npt.NDArray[Any]
Path_ = tuple[str, ...]
"""Where a tensor stands: its name, after the branches that it lies in."""
LARGEST_FILE = 2**31 - 1
"""Bytes; protobuf writes no more."""
WITH_INPUTS = 3
"""The last version of the format in which every initialiser is an input, too."""
CASTS = {"float32": None, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "float64": TensorProto.DOUBLE}
"""By the type of a weight, what its decoded float32 values are cast to."""


def returns(network: Network) -> bool:
    """Whether the network goes back into the ONNX file that it was read from: every edit can but a removed or replaced block."""
    removed = any(isinstance(edit, Bypass | Replace) for edit in network.slices)
    return isinstance(network.source.original, ModelProto) and isinstance(network.module, OnnxModule) and not removed


def write_back(network: Network, *, levels: bool = True) -> Deployed:
    """The file that the network was read from, with the values and levels that its weights have now.

    Args:
        network: Read by :func:`lissom.networks.onnx.read_onnx`, and edited since; left as it is.
        levels: Whether weights on grids are stored as levels; False stores the values that they stand for.

    Returns:
        The model, and what its initialisers hold. Weights whose levels the file has no way to decode are stored as
        the values that the levels stand for, and named in the notes.

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
    original, module = network.source.original, network.module
    if not isinstance(original, ModelProto) or not isinstance(module, OnnxModule):
        raise UsageError(f"write-back needs a network that was read from an ONNX file; this one is a {network.source.kind}")
    model = ModelProto()
    model.CopyFrom(original)
    writer = _Writer(model, resized=bool(network.slices))
    for key, stored in edits.tensors(module).items():
        plain = stored.dense() if isinstance(stored, Quantized) and not levels else stored
        writer.write(module.origins[key], plain, module.readers.get(key))
    for output, sizes in changed_sizes(module).items():
        writer.resize(original_name(output), sizes)
    for name, tensor in module.changed_constants().items():
        writer.replace(name, tensor.cpu().numpy())
    writer.finish(Path(network.source.location).parent if network.source.location else None)
    _tell_preprocess(model, network.preprocess)
    return Deployed(model, tuple(writer.bindings), notes=(*network.notes, *writer.notes))


class _Writer:
    """Puts tensors into a model, each where it stands."""

    def __init__(self, model: ModelProto, *, resized: bool) -> None:
        self.model = model
        self.resized = resized
        self.bindings: list[Binding] = []
        self.notes: list[str] = []
        self.places = dict(_tensors(model.graph))
        self.initializers = {tensor.name for tensor in model.graph.initializer}
        self.editor = Editor(_names_only(model))  # only to make nodes and fresh names beside the real graph
        self.editor.nodes, self.editor.constants = [], {}
        self.replaced: set[str] = set()
        self.own: set[str] = set()
        self.shapes: dict[str, tuple[int, ...]] = {}

    def write(self, path: Path_, stored: Array | Quantized, reader: tuple[str, int] | None = None) -> None:
        """Store a tensor of the module, as levels where that is possible; for one reader alone, if it is named."""
        name = path[-1]
        place = self.places.get(path) or self.plain_form(path, stored)
        if place is None:
            return
        self.shapes[name] = stored.shape
        if reader is not None:
            self.write_for(reader, name, place, stored)
            return
        if isinstance(stored, Quantized):
            if len(path) == 1 and self.place_levels(name, stored):
                return
            self.notes.append(f"{name} keeps its levels as values: the file has no way to decode them there")
        values = stored.dense() if isinstance(stored, Quantized) else stored
        if list(place.dims) != list(values.shape) and not self.resized:
            raise DeployFailed(
                f"{name} has shape {list(values.shape)}, and {list(place.dims)} in the file: edit it by lissom's steps"
            )
        _store(place, values)
        if len(path) == 1 and name in self.initializers:
            self.bindings.append(Binding(name, name))

    def write_for(self, reader: tuple[str, int], name: str, place: TensorProto, stored: Array | Quantized) -> None:
        """Give one reader of a shared tensor a tensor of its own, if it is not what the file holds for all."""
        values = stored.dense() if isinstance(stored, Quantized) else stored
        if np.array_equal(numpy_helper.to_array(place), values):
            return
        node = self.maker(reader[0])
        own = self.editor.fresh(f"{name}.own")
        node.input[reader[1]] = own
        self.own.add(name)
        if not (isinstance(stored, Quantized) and self.place_levels(own, stored)):
            self.editor.constants[own] = np.asarray(values)
            self.bindings.append(Binding(own, own))

    def maker(self, output: str) -> NodeProto:
        """The node of the file that makes a value."""
        node = next((node for node in _nodes(self.model.graph) if output in node.output), None)
        if node is None:
            raise DeployFailed(f"no node of the file makes {output!r}, whose sizes changed: they cannot be written back")
        return node

    def plain_form(self, path: Path_, stored: Array | Quantized) -> TensorProto | None:
        """A list of floats in a Constant, or a sparse initialiser, as a plain tensor; None where it was not edited."""
        graph, name = self.model.graph, path[-1]
        for node in _nodes(graph):
            if node.op_type == "Constant" and name in node.output:
                attribute = node.attribute[0]
                floats = np.array(onnx.helper.get_attribute_value(attribute), np.float32)
                if not isinstance(stored, Quantized) and np.array_equal(floats, stored):
                    return None
                attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(floats, name)))
                return attribute.t
        for index, sparse in enumerate(graph.sparse_initializer):
            if sparse.values.name == name:
                dense = read_sparse(sparse).numpy()
                if not isinstance(stored, Quantized) and np.array_equal(dense, stored):
                    return None
                del graph.sparse_initializer[index]
                graph.initializer.append(numpy_helper.from_array(dense, name))
                return graph.initializer[-1]
        raise DeployFailed(f"the file holds no tensor {name!r}: read it again and repeat the edits")

    def place_levels(self, name: str, stored: Quantized) -> bool:
        """Replace a tensor by its levels and their decoding, where it decodes to exactly the values that it has."""
        if stored.dtype not in CASTS:
            return False
        if stored.mask is not None and not (isinstance(stored.decoding, Table) and (stored.decoding.values == 0).any()):
            return False
        before, count = set(self.editor.constants), len(self.editor.nodes)
        self.editor.constants[name] = stored.levels  # what is replaced
        readers = [node for node in _nodes(self.model.graph) if name in node.input]
        bindings = place_quantized(self.editor, name, stored, spell_out=is_multiplied(readers))
        made = self.editor.constants.keys() - before
        if name in made:  # no way to decode these: the values themselves
            del self.editor.constants[name]
            return False
        for constant in made:
            self.editor.constants[constant] = self.without_small_types(self.editor.constants[constant])
        self.cast(name, len(self.editor.nodes) - count, CASTS[stored.dtype])
        self.bindings += bindings
        self.replaced.add(name)
        return True

    def cast(self, name: str, count: int, kind: int | None) -> None:
        """Cast what the first ``count`` nodes decode to the type that the file's other nodes want."""
        if kind is not None:
            wide = self.editor.fresh(f"{name}.wide")
            last = next(node for node in self.editor.nodes[:count] if name in node.output)
            last.output[0] = wide
            self.editor.nodes.insert(count, make_node("Cast", [wide], [name], to=kind))

    def without_small_types(self, values: Array) -> Array:
        """4-bit integers one to a byte, where the file's format is older than they are."""
        if self.editor.opset >= 21 and self.model.ir_version >= 10:
            return values
        wide = {np.dtype(ml_dtypes.int4): np.int8, np.dtype(ml_dtypes.uint4): np.uint8}.get(values.dtype)
        return values if wide is None else values.astype(wide)

    def resize(self, output: str, sizes: Sizes) -> None:
        """Change the numbers that the node of this output states: its attributes, and constants among its inputs."""
        node = self.maker(output)
        for key, numbers in sizes.items():
            if isinstance(key, str):
                old = next(attribute for attribute in node.attribute if snake_case(attribute.name) == key)
                old.CopyFrom(onnx.helper.make_attribute(old.name, numbers))
                continue
            name = node.input[key]
            place = self.places.get((name,))
            if place is not None and sum(name in other.input for other in _nodes(self.model.graph)) == 1:
                _store(place, np.asarray(numbers))
            else:  # other nodes read the same numbers, or they were computed from others
                node.input[key] = self.editor.add_constant(f"{name}.resized", np.asarray(numbers))

    def resize_recurrent(self) -> None:
        """Let recurrent nodes state the size of their hidden state as their weights have it."""
        for node in _nodes(self.model.graph):
            if node.op_type in ("LSTM", "GRU", "RNN") and node.input[2] in self.shapes:
                for attribute in node.attribute:
                    if attribute.name == "hidden_size":
                        attribute.i = self.shapes[node.input[2]][-1]

    def replace(self, name: str, values: Array) -> None:
        """Let every reader of a value that is known without data read other values; what only made it goes."""
        readers = [node for node in _nodes(self.model.graph) if name in node.input]
        if not readers:
            raise DeployFailed(f"no node of the file reads {name!r}, which was cut: it cannot be written back")
        made = self.editor.add_constant(f"{name}.resized", values)
        for node in readers:
            for position, read in enumerate(node.input):
                node.input[position] = made if read == name else read
        self.drop_unread(name)

    def drop_unread(self, name: str) -> None:
        """Take out the node that makes a value which nothing reads any more, and what was made for it alone."""
        graph = self.model.graph
        answers = {value.name for value in graph.output}
        if name in answers or any(name in node.input for node in _nodes(graph)):
            return
        for index, node in enumerate(graph.node):
            if list(node.output) == [name]:
                inputs = list(node.input)
                del graph.node[index]
                for each in inputs:
                    self.drop_unread(each)
                return

    def finish(self, folder: Path | None) -> None:
        """Put the levels and their nodes into the graph, in place of the tensors that they decode to."""
        graph = self.model.graph
        for tensor in _every_tensor(graph):
            if tensor.data_location == TensorProto.EXTERNAL and tensor.name not in self.replaced:
                _store(tensor, read_tensor(tensor, folder).numpy())
        self.resize_recurrent()
        read = {name for node in _nodes(graph) for name in node.input} | {value.name for value in graph.output}
        self.replaced |= self.own - read  # every reader has its own now
        kept = [tensor for tensor in graph.initializer if tensor.name not in self.replaced]
        fresh = [numpy_helper.from_array(values, name) for name, values in self.editor.constants.items()]
        old_nodes = [node for node in graph.node if not (node.op_type == "Constant" and node.output[0] in self.replaced)]
        inputs = [value for value in graph.input if value.name not in self.replaced]
        if self.model.ir_version <= WITH_INPUTS:
            inputs += [onnx.helper.make_tensor_value_info(each.name, each.data_type, list(each.dims)) for each in fresh]
        if self.resized:
            _forget_shapes(graph)
        fields = {"initializer": [*kept, *fresh], "node": [*self.editor.nodes, *old_nodes], "input": inputs}
        for field, values in fields.items():
            copies = [type(value).FromString(value.SerializeToString()) for value in values]  # type: ignore[attr-defined]
            graph.ClearField(field)
            getattr(graph, field).extend(copies)
        if self.model.ByteSize() > LARGEST_FILE:
            raise DeployFailed(f"the model would have {self.model.ByteSize():,} bytes, and an ONNX file holds {LARGEST_FILE:,}")


def _store(place: TensorProto, values: Array) -> None:
    """Put values into a tensor of the file, unless they are there already, bit for bit."""
    external = place.data_location == TensorProto.EXTERNAL
    contiguous = np.ascontiguousarray(values) if values.ndim else values
    if not external and numpy_helper.to_array(place).tobytes() == contiguous.tobytes():
        return
    name, kind, note = place.name, place.data_type, place.doc_string
    kept = numpy_helper.from_array(contiguous, name)
    if kept.data_type != kind:  # bfloat16 comes as its bits; 4-bit integers one to a byte
        kept = onnx.helper.make_tensor(name, kind, list(values.shape), np.asarray(values).ravel())
    place.CopyFrom(kept)
    place.doc_string = note


def _tensors(graph: GraphProto, path: Path_ = ()) -> Iterator[tuple[Path_, TensorProto]]:
    """Every tensor that a name stands for: initialisers and Constant nodes, in branches too."""
    for tensor in graph.initializer:
        yield (*path, tensor.name), tensor
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield (*path, node.output[0]), attribute.t
            elif attribute.HasField("g"):
                yield from _tensors(attribute.g, (*path, node.output[0], attribute.name))


def _every_tensor(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in _nodes(graph):
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _forget_shapes(graph: GraphProto) -> None:
    """Leave out the sizes of values inside: some are smaller now. Ranks stay, which a Loop's body cannot do without."""
    graph.ClearField("value_info")
    branches = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    for branch in branches:
        for value in (*branch.input, *branch.output):
            for size in value.type.tensor_type.shape.dim:
                size.Clear()
        _forget_shapes(branch)


def _names_only(model: ModelProto) -> ModelProto:
    """A model with the same names taken and nothing in it, for making nodes beside the real one."""
    bare = ModelProto(ir_version=model.ir_version)
    bare.opset_import.extend(model.opset_import)
    for node in _nodes(model.graph):
        bare.graph.node.add(op_type=node.op_type, output=list(node.output))
    bare.graph.initializer.extend(
        TensorProto(name=path[-1], data_type=TensorProto.FLOAT, dims=[0]) for path, _ in _tensors(model.graph)
    )
    return bare


def _tell_preprocess(model: ModelProto, preprocess: Preprocess | None) -> None:
    """Write down how images become inputs, for whoever runs the file."""
    if preprocess is None:
        return
    entry = next((entry for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    entry = model.metadata_props.add(key=METADATA_KEY) if entry is None else entry
    entry.value = json.dumps(preprocess_dict(preprocess))

"""The quantized graph as a Network: activations have their QuantizeLinear pairs, and weights can still be rounded and trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from onnx import ModelProto

from lissom import edits
from lissom.codec.tensors import Quantized, Uniform
from lissom.deploy import targets
from lissom.deploy.deployed import Binding, Deployed
from lissom.deploy.editing import Editor
from lissom.deploy.finish import Plain, finish
from lissom.deploy.integer_weights import IntegerTypes, integer_nodes, place_weights
from lissom.deploy.operators import weight_axis
from lissom.deploy.settings import Deploy, Ranges
from lissom.deploy.static import NONE, Static, chosen_activations
from lissom.deploy.stem import widen_stem
from lissom.deploy.weights import place_levels
from lissom.errors import UsageError
from lissom.network import Network, Source
from lissom.networks.onnx import read_onnx
from lissom.networks.onnx.names import original_name, torch_names

__all__ = [
    "QuantizedGraph",
    "close_graph",
    "float_twin",
    "graph_of",
    "is_quantized_graph",
    "quantize_graph",
    "return_weights",
    "weight_names",
    "wide_weights",
]

KIND = "quantized graph"


@dataclass(frozen=True)
class QuantizedGraph:
    """What a network that was read from a quantized graph needs to become a file again.

    Args:
        model: The graph; the constants that the network holds are not in it.
        original: The graph before its activations were quantized, likewise.
        weights: The weights of integer operators in the order of the graph: the network's names by the graph's.
        settings: How it was quantized, ranges and types as they were chosen.
        permutations: The order of axes in which constants stand in the graph, by name.
        parameters: Names of the constants that were trained.
        bindings: What constants hold that are levels already.
        keep_names: Whether values keep the names that they have.
        smoothed: Of weights that carry a factor, along which axis, and the constant that their inputs are multiplied by.
    """

    model: ModelProto
    original: ModelProto
    weights: Mapping[str, str]
    settings: Deploy
    permutations: Mapping[str, tuple[int, ...]]
    parameters: frozenset[str]
    bindings: tuple[Binding, ...]
    keep_names: bool = False
    smoothed: Mapping[str, tuple[str, int]] = field(default_factory=dict)


def quantize_graph(
    source: Plain, settings: Deploy, calibration: Iterable[Sequence[Any]], own_ranges: Mapping[str, Ranges] = NONE
) -> Network:
    """Quantize the activations of a float graph, and read it back as a network whose weights are float.

    The network answers as the deployed file will: nothing else simulates quantization. Round its weights
    (``QuantizeWeights``, ``RoundWeights``), correct or train it like any other network; deploying it writes the levels
    into this very graph. Scales of activations are parameters, which training moves.

    Args:
        source: The float graph.
        settings: As for deploying with ``precision="int8"``.
        calibration: Batches of inputs.
        own_ranges: Values of the graph whose range is taken by a formula of their own.
    """
    static = Static(source, settings, calibration)
    chosen = chosen_activations(static)
    editor = static.activations(chosen.ranges, chosen.types, own_scales=True, own_ranges=own_ranges)
    model = editor.close(keep_names=source.keep_names)
    like, integer = source.network, integer_nodes(editor)
    network = read_onnx(model, like.example_inputs)
    names = torch_names([tensor.name for tensor in model.graph.initializer])
    for node, _ in integer:
        path, _, attribute = names[node.input[1]].rpartition(".")
        owner: Any = network.module.get_submodule(path)
        owner.channel_axes = {**getattr(owner, "channel_axes", {}), attribute: weight_axis(node)}
    held = {original_name(name) for name in edits.state_dict(network.module)}
    graph = QuantizedGraph(
        model=_without(editor, held, keep_names=source.keep_names),
        original=_without(static.editor, held),
        weights={node.input[1]: names[node.input[1]] for node, _ in integer},
        settings=chosen,
        permutations=dict(editor.permutations),
        parameters=frozenset(editor.parameters & set(editor.constants)),
        bindings=tuple(static.embedded),
        keep_names=source.keep_names,
        smoothed=static.smoothed,
    )
    return dataclasses.replace(
        network,
        dynamic_axes=like.dynamic_axes,
        preprocess=like.preprocess,
        source=Source(KIND, like.source.location, graph),
        notes=like.notes,
    ).noting(*static.notes)


def _without(editor: Editor, names: Collection[str], *, keep_names: bool = False) -> ModelProto:
    """The graph without these constants."""
    bare = editor.copy()
    bare.constants = {name: array for name, array in bare.constants.items() if name not in names}
    return bare.close(keep_names=keep_names)


def is_quantized_graph(network: Network) -> bool:
    """Whether the network is one that :func:`quantize_graph` made."""
    return isinstance(network.source.original, QuantizedGraph)


def graph_of(network: Network) -> QuantizedGraph:
    """What :func:`quantize_graph` made the network of.

    Raises:
        UsageError: it is no such network.
    """
    if not isinstance(network.source.original, QuantizedGraph):
        raise UsageError("the network's activations are not quantized: apply QuantizeActivations first")
    return network.source.original


def wide_weights(network: Network) -> tuple[str, ...]:
    """The weights of the first and the last integer operator, by the network's names: they keep 8 bits."""
    names = list(weight_names(network).values())
    return tuple(dict.fromkeys((names[0], names[-1]))) if names else ()


def weight_names(network: Network) -> dict[str, str]:
    """The weights of integer operators in the order of the graph: the network's names by the graph's."""
    return dict(graph_of(network).weights)


def float_twin(network: Network) -> Network:
    """The same graph with the same weights and without the pairs of its activations: what rounding should come near."""
    state = edits.state_dict(network.module)
    editor = Editor(graph_of(network).original)
    editor.give({original_name(name): tensor.detach().numpy() for name, tensor in state.items()})
    twin = read_onnx(editor.close(keep_names=True), network.example_inputs)
    twin.module.load_state_dict({name: state[name] for name in twin.module.state_dict()}, assign=True)  # not a second copy
    return dataclasses.replace(
        twin, dynamic_axes=network.dynamic_axes, preprocess=network.preprocess, source=Source("float graph", "", None)
    )


def close_graph(network: Network) -> Deployed:
    """The file of a quantized graph: its weights become levels, everything else stands there already."""
    graph = graph_of(network)
    target, types = targets.row(graph.settings.target), IntegerTypes.of(graph.settings.types)
    editor = Editor(_copied(graph.model), graph.parameters)
    editor.permutations.update(graph.permutations)
    stored = {original_name(key): tensor for key, tensor in edits.tensors(network.module).items()}
    editor.give({name: np.asarray(each.dense() if isinstance(each, Quantized) else each) for name, each in stored.items()})
    held = {
        name: _in_users_order(each, graph.permutations.get(name, ()))
        for name, each in stored.items()
        if isinstance(each, Quantized)
    }
    bindings = place_weights(editor, held, types, integer_bias=target.integer_bias)
    rest = {name: stored for name, stored in held.items() if name in editor.constants}
    bindings += place_levels(editor, rest) + list(graph.bindings)
    widen_stem(editor, target.stem_channels)
    chosen = {"ranges": graph.settings.ranges, "types": graph.settings.types}
    return finish(editor, bindings, keep_names=graph.keep_names, precision="int8", notes=network.notes, choices=chosen)


def _copied(model: ModelProto) -> ModelProto:
    """An editor changes the nodes of the model that it is given."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _in_users_order(stored: Quantized, order: tuple[int, ...]) -> Quantized:
    """Levels as the user's tensor has its axes; in the graph they stand in another order."""
    if not order:
        return stored
    back = np.argsort(order)
    decoding = stored.decoding
    if isinstance(decoding, Uniform):
        decoding = dataclasses.replace(
            decoding, scale=decoding.scale.transpose(back), zero_point=decoding.zero_point.transpose(back)
        )
    mask = None if stored.mask is None else stored.mask.transpose(back)
    return dataclasses.replace(stored, levels=stored.levels.transpose(back), decoding=decoding, mask=mask)


def return_weights(trained: Network, folded: Network) -> Network:
    """A copy of the user's network with the weights that a quantized graph was trained to, by name.

    Args:
        trained: The quantized graph.
        folded: The user's network, whose normalisations are folded (:func:`lissom.deploy.fold.fold_batch_norm`): the graph
            was made of it.
    """
    graph = graph_of(trained)
    result = edits.copy(folded)
    own = dict(edits.weights(result.module))
    held = {original_name(key): stored for key, stored in edits.tensors(trained.module).items()}
    for graph_name, stored in held.items():
        name = edits.users_name(graph_name)
        if name not in own:
            continue
        array = np.asarray(stored.dense() if isinstance(stored, Quantized) else stored)
        if graph_name in graph.smoothed:
            constant, axis = graph.smoothed[graph_name]
            array = array * np.expand_dims(np.asarray(held[constant]), 1 - axis)
        order = graph.permutations.get(graph_name, ())
        array = array.transpose(np.argsort(order)) if order else array
        with torch.no_grad():
            own[name].copy_(torch.from_numpy(np.ascontiguousarray(array)))
    return result

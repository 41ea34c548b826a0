"""Structure edits on a module: slices of its tensors, sizes in its attributes, modules that are passed by or replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lissom import edits
from lissom.errors import ModelRefused
from lissom.graph.attention import fit_heads
from lissom.graph.blocks import block
from lissom.graph.narrow_norms import averaged_width, narrow
from lissom.network import Bypass, Replace, Resize, Scale, Slice, StructureEdit
from lissom.networks.keras import KerasModule

__all__ = ["PassThrough", "apply_structure", "structure_from_json", "structure_to_json"]


class PassThrough(nn.Module):
    """What takes the place of a block that was removed: its first argument, in the form in which the block answered.

    Args:
        wrapped: True where the block answered with a tuple whose first value has the input's shape.
    """

    def __init__(self, *, wrapped: bool = False) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The first argument."""
        first = arguments[0] if arguments else next(iter(named.values()))
        return (first,) if self.wrapped else first


def apply_structure(module: nn.Module, structure: Iterable[StructureEdit]) -> nn.Module:
    """Apply structure edits in place, in order, and bring standard modules' attributes in line.

    Applied to a fresh instance of the user's class, the structure of a pruned network makes room for its weights.

    Args:
        module: Parameters, buffers and the state of value edits are sliced, under all their aliases.
        structure: The edits, as :attr:`lissom.network.Network.slices` holds them.

    Raises:
        ModelRefused: an edit names a tensor, a module or a position that is not there.

    Example:
        >>> layer = apply_structure(nn.Linear(2, 3), [Slice("weight", 0, (0, 2)), Slice("bias", 0, (0, 2))])
        >>> layer.weight.shape, layer.out_features
        (torch.Size([2, 2]), 2)
    """
    tied = edits.aliases(module)
    whole = {path: count for path, part in module.named_modules() if (count := averaged_width(part)) is not None}
    touched: set[str] = set()
    for edit in structure:
        _APPLY[type(edit)](module, edit)
        touched.add(_owner_path(edit))
        if isinstance(edit, Slice):
            touched.update(alias.rpartition(".")[0] for alias in tied.get(edit.tensor, ()))
    for path in sorted(touched):
        _update_attributes(_submodule(module, path))
        if path in whole:
            narrow(_submodule(module, path), whole[path])
        if isinstance(around := _submodule(module, path.rpartition(".")[0]), nn.MultiheadAttention):
            fit_heads(around)
    if isinstance(module, KerasModule):
        with contextlib.suppress(ValueError):  # its next call says what is wrong
            module.fit()  # now: a model cannot be built while its graph is captured
    return module


def _owner_path(edit: StructureEdit) -> str:
    if isinstance(edit, Slice | Scale):
        return edit.tensor.rpartition(".")[0]
    return edit.module


def _slice(module: nn.Module, edit: Slice) -> None:
    owner = _submodule(module, _owner_path(edit))
    name = edit.tensor.rpartition(".")[2]
    buffer = dict(owner.named_buffers(recurse=False)).get(name)
    tensor = buffer if buffer is not None else edits.latent(module, edit.tensor)
    if edit.axis >= tensor.ndim or (edit.kept and max(edit.kept) >= tensor.shape[edit.axis]):
        raise ModelRefused(
            f"{edit.tensor} has shape {list(tensor.shape)}, and axis {edit.axis} was to keep position {max(edit.kept)}: "
            "build the network as it was before pruning"
        )
    if buffer is None:
        standing = edits.edit_of(module, edit.tensor) if not _foreign(owner) else None
        if standing is not None:
            _slice_edit(standing, edit, tensor.ndim)
    # The parameter object stays, so tied names, recurrent layers' lists and optimisers go on pointing at it.
    tensor.data = _take(tensor.data, edit.axis, edit.kept)
    tensor.grad = None


def _foreign(owner: nn.Module) -> bool:
    """Whether the tensor belongs to a parametrization of the user's own, such as weight normalisation."""
    return isinstance(owner, nn.utils.parametrize.ParametrizationList)


def _take(tensor: Tensor, axis: int, kept: tuple[int, ...]) -> Tensor:
    return tensor.index_select(axis, torch.tensor(kept, dtype=torch.int64, device=tensor.device)).contiguous()


def _slice_edit(standing: edits.ValueEdit, edit: Slice, ndim: int) -> None:
    """Slice the mask and the grid's state along: each of their axes says which axis of the weight it follows."""
    if standing.mask is not None:
        standing.mask = _take(standing.mask, edit.axis, edit.kept)
    grid = standing.grid
    if grid is None:
        return
    for name, follows in grid.follows.items():
        state = getattr(grid, name)
        followed = tuple(range(ndim)) if follows == "all" else follows
        for place, axis in enumerate(followed):
            if axis == edit.axis and state.ndim > place and state.shape[place] != 1:
                state.data = _take(state.data, place, edit.kept)


def _resize(module: nn.Module, edit: Resize) -> None:
    holder: Any = _submodule(module, edit.module)
    *through, name = edit.attribute.split(".")
    for part in through:
        holder = getattr(holder, part, None)
    if not hasattr(holder, name):
        raise ModelRefused(f"module {edit.module!r} has no attribute {edit.attribute!r}: build the network's own class")
    setattr(holder, name, edit.value)


def _bypass(module: nn.Module, edit: Bypass) -> None:
    _submodule(module, edit.module)
    _put(module, edit.module, PassThrough(wrapped=edit.wrapped))


def _replace(module: nn.Module, edit: Replace) -> None:
    layer = _submodule(module, edit.module)
    made = block(layer, edit.method, edit.sizes)
    _put(module, edit.module, made.train(layer.training))


def _put(module: nn.Module, path: str, part: nn.Module) -> None:
    around, _, name = path.rpartition(".")
    setattr(_submodule(module, around), name, part)


def _scale(module: nn.Module, edit: Scale) -> None:
    edits.latent(module, edit.tensor).data.mul_(edit.factor)


_APPLY: dict[type, Callable[[nn.Module, Any], None]] = {
    Slice: _slice,
    Resize: _resize,
    Bypass: _bypass,
    Replace: _replace,
    Scale: _scale,
}


def _submodule(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise ModelRefused(f"the network has no module {path!r}: build the network's own class") from error


def _linear(layer: nn.Linear) -> dict[str, Any]:
    return {"out_features": layer.weight.shape[0], "in_features": layer.weight.shape[1]}


def _convolution(layer: nn.Conv2d) -> dict[str, Any]:
    first, second = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
    return {"in_channels": first, "out_channels": second} if layer.transposed else {"out_channels": first, "in_channels": second}


def _channel_statistics(layer: nn.BatchNorm2d) -> dict[str, Any]:
    sized = layer.weight if layer.weight is not None else layer.running_mean
    return {} if sized is None else {"num_features": sized.shape[0]}


def _recurrent(layer: nn.LSTM) -> dict[str, Any]:
    into, hidden = edits.latent(layer, "weight_ih_l0"), edits.latent(layer, "weight_hh_l0")
    return {"input_size": into.shape[1], "hidden_size": hidden.shape[1]}


def _recurrent_cell(layer: nn.LSTMCell) -> dict[str, Any]:
    return {"input_size": layer.weight_ih.shape[1], "hidden_size": layer.weight_hh.shape[1]}


_ATTRIBUTES: dict[type, Callable[[Any], dict[str, Any]]] = {
    nn.Linear: _linear,
    nn.modules.conv._ConvNd: _convolution,  # noqa: SLF001 - the only common class of torch's convolutions
    nn.modules.batchnorm._NormBase: _channel_statistics,  # noqa: SLF001 - and of its channel statistics
    nn.LayerNorm: lambda layer: {} if layer.weight is None else {"normalized_shape": tuple(layer.weight.shape)},
    nn.RMSNorm: lambda layer: {} if layer.weight is None else {"normalized_shape": tuple(layer.weight.shape)},
    nn.GroupNorm: lambda layer: {} if layer.weight is None else {"num_channels": layer.weight.shape[0]},
    nn.Embedding: lambda layer: {"num_embeddings": layer.weight.shape[0], "embedding_dim": layer.weight.shape[1]},
    nn.PReLU: lambda layer: {"num_parameters": layer.weight.shape[0]},
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _recurrent_cell,
}
"""How the attributes of torch's own modules follow from the shapes of their tensors."""


def _update_attributes(layer: nn.Module) -> None:
    for kind, sizes in _ATTRIBUTES.items():
        if isinstance(layer, kind):
            for name, value in sizes(layer).items():
                setattr(layer, name, value)
    if isinstance(layer, nn.MultiheadAttention):
        fit_heads(layer)


_KINDS: dict[str, type] = {"slice": Slice, "resize": Resize, "bypass": Bypass, "replace": Replace, "scale": Scale}


def structure_to_json(structure: Iterable[StructureEdit]) -> list[dict[str, Any]]:
    """Structure edits as JSON values, for the metadata of an archive.

    >>> structure_to_json([Slice("weight", 0, (0, 2))])
    [{'kind': 'slice', 'tensor': 'weight', 'axis': 0, 'kept': [0, 2]}]
    """
    names = {kind: name for name, kind in _KINDS.items()}
    plain = ({"kind": names[type(edit)], **vars(edit)} for edit in structure)
    return [{key: list(value) if isinstance(value, tuple) else value for key, value in each.items()} for each in plain]


def structure_from_json(values: Iterable[dict[str, Any]]) -> tuple[StructureEdit, ...]:
    """The structure edits that :func:`structure_to_json` wrote.

    Raises:
        ModelRefused: a value is not a structure edit.
    """
    found: list[StructureEdit] = []
    for value in values:
        fields = {key: tuple(field) if isinstance(field, list) else field for key, field in value.items() if key != "kind"}
        try:
            found.append(_KINDS[value["kind"]](**fields))
        except (KeyError, TypeError) as error:
            raise ModelRefused(f"{value!r} is no structure edit: the file was written by another program or altered") from error
    return tuple(found)

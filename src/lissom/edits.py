"""Value edits: what a weight may be, ``value = mask ⊙ grid(levels)``, as torch parametrizations.

Any training loop trains through them. One :class:`ValueEdit` stands on the *set of aliases* of a tensor, so tied
weights stay tied, and it holds at most one grid and one mask. The mask always comes last: whatever the grid, a
masked weight is exactly +0.0, and pruning and quantizing work in any order. Functions here speak of tensors by the
user's own names (``layers.0.weight``), never by the names that torch gives to parametrized ones.
"""

from __future__ import annotations

import copy as copying
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lissom.codec.tensors import Quantized, Table
from lissom.errors import ModelRefused, UsageError
from lissom.grids.base import Grid
from lissom.network import Network

__all__ = [
    "ValueEdit", "aliases", "attach", "bake", "copy", "edit_of", "edited", "latent", "state_dict", "tensors", "value", "weights",
]  # fmt: skip


class ValueEdit(nn.Module):
    """What one weight may be: a grid, a mask, or both.

    Args:
        mask: bool of the weight's shape, False where the value is +0.0; None for no mask.
        grid: The values that the weight may take; None for any.
    """

    mask: Tensor | None

    def __init__(self, mask: Tensor | None = None, grid: Grid | None = None) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.grid = grid

    def forward(self, original: Tensor) -> Tensor:
        """The value of the weight: on the grid, and zero where masked."""
        on_grid: Tensor = original if self.grid is None else self.grid(original)
        # Multiplying by the mask would make -0.0 of negative weights, which is another bit pattern than 0.0.
        return on_grid if self.mask is None else torch.where(self.mask, on_grid, 0.0)


def attach(module: nn.Module, name: str, *, mask: Tensor | None = None, grid: Grid | None = None) -> ValueEdit:
    """Edit the tensor ``name`` of ``module`` in place, under all its aliases.

    A further mask joins the one that stands: what is zero stays zero. A second grid is refused, because moving
    levels would undo the first.

    Args:
        module: The module that holds the tensor; changed in place (see :func:`copy`).
        name: The user's name of the parameter, as in ``module.state_dict()`` before any edit.
        mask: bool, of the tensor's shape; True is kept.
        grid: The grid to round to.

    Returns:
        The edit that stands on the tensor now.

    Raises:
        UsageError: the mask has another shape, or a grid stands already.
        ModelRefused: there is no such parameter.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = attach(layer, "weight", mask=torch.tensor([[True, False]]))
        >>> layer.weight[0, 1].item()
        0.0
    """
    original = latent(module, name)
    names = aliases(module)[name]
    if mask is not None and mask.shape != original.shape:
        raise UsageError(f"the mask of {name} has shape {list(mask.shape)}; the tensor has {list(original.shape)}")
    edit = edit_of(module, name)
    if edit is None:
        edit = ValueEdit()
        for alias in names:
            owner, attribute = _owner(module, alias)
            parametrize.register_parametrization(owner, attribute, edit, unsafe=True)
    if grid is not None:
        if edit.grid is not None:
            raise UsageError(f"{name} already takes its values from a {type(edit.grid).__name__}; a second grid would undo it")
        edit.grid = grid
    if mask is not None:
        kept = mask.to(device=original.device, dtype=torch.bool)
        edit.mask = kept.clone() if edit.mask is None else edit.mask & kept
    return edit


def edit_of(module: nn.Module, name: str) -> ValueEdit | None:
    """The edit that stands on the tensor ``name``, or None."""
    owner, attribute = _owner(module, name)
    if not parametrize.is_parametrized(owner, attribute):
        return None
    found = _stack(owner, attribute)[0]
    if not isinstance(found, ValueEdit):
        raise ModelRefused(f"{name} carries a torch parametrization of its own ({type(found).__name__}): bake it first")
    return found


def edited(module: nn.Module) -> dict[str, ValueEdit]:
    """Every edit of ``module`` by the first name of its tensor."""
    found = ((names[0], edit_of(module, names[0])) for names in _tied(module))
    return {name: edit for name, edit in found if edit is not None}


def latent(module: nn.Module, name: str) -> nn.Parameter:
    """The parameter under the edit, which training moves; the parameter itself where nothing is edited."""
    owner, attribute = _owner(module, name)
    if parametrize.is_parametrized(owner, attribute):
        original: nn.Parameter = _stack(owner, attribute).original
        return original
    found = getattr(owner, attribute, None)
    if not isinstance(found, nn.Parameter):
        raise ModelRefused(f"the network has no parameter {name!r}; it has {', '.join(list(aliases(module))[:5])} …")
    return found


def value(module: nn.Module, name: str) -> Tensor:
    """The value that the network computes with now: masked, on its grid, detached."""
    owner, attribute = _owner(module, name)
    found: Tensor = getattr(owner, attribute)
    return found.detach()


def weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The user's name and the latent parameter of every floating parameter, tied ones once."""
    for name, *_ in _tied(module):
        parameter = latent(module, name)
        if parameter.is_floating_point():
            yield name, parameter


def aliases(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """For each parameter name, all the names of the same tensor (itself among them), in the module's order."""
    return {name: names for names in _tied(module) for name in names}


def _tied(module: nn.Module) -> list[tuple[str, ...]]:
    groups: dict[int, list[str]] = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        if _inside_parametrization(prefix):
            continue
        for attribute, parameter in _own_parameters(owner):
            groups.setdefault(id(parameter), []).append(f"{prefix}.{attribute}" if prefix else attribute)
    return [tuple(names) for names in groups.values()]


def state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state under the user's own keys, with the values that edits give."""
    state: dict[str, Tensor] = {}
    for key, tensor in module.state_dict().items():
        name = _user_key(key)
        if name is not None:
            state[name] = tensor if name == key else value(module, name)
    return state


def tensors(module: nn.Module) -> dict[str, np.ndarray[Any, Any] | Quantized]:
    """The state under the user's own keys as the archive stores it: levels where a grid stands, else arrays.

    Tied weights are one object under each of their names, so the archive can store them once.
    """
    stored: dict[str, np.ndarray[Any, Any] | Quantized] = {}
    tied = aliases(module)
    for name, tensor in state_dict(module).items():
        first = tied.get(name, (name,))[0]
        if first in stored:
            stored[name] = stored[first]
            continue
        edit = edit_of(module, name) if name in tied else None
        stored[name] = tensor.detach().cpu().numpy() if edit is None or edit.grid is None else quantized(module, name)
    return stored


def quantized(module: nn.Module, name: str) -> Quantized:
    """The tensor ``name`` as levels: masked weights take the level that stands for zero, added to the table if need be."""
    edit = edit_of(module, name)
    if edit is None or edit.grid is None:
        raise UsageError(f"{name} has no grid")
    with torch.no_grad():
        levels = edit.grid.levels(latent(module, name)).cpu().numpy().astype(np.int32)
    decoding = edit.grid.decoding()
    if edit.mask is None:
        return Quantized(levels, decoding)
    mask = edit.mask.cpu().numpy()
    if isinstance(decoding, Table):
        return _with_zero_entry(levels, decoding, mask)
    return Quantized(np.where(mask, levels, np.broadcast_to(decoding.zero_point, levels.shape)).astype(np.int32), decoding)


def _with_zero_entry(levels: np.ndarray[Any, Any], table: Table, mask: np.ndarray[Any, Any]) -> Quantized:
    zeros = np.flatnonzero(table.values == 0)
    if zeros.size:
        return Quantized(np.where(mask, levels, zeros[0]).astype(np.int32), table)
    if table.values.size == 2**16:  # no room for one more entry
        return Quantized(levels, table, mask)
    extended = np.append(table.values, np.float32(0))
    return Quantized(np.where(mask, levels, table.values.size).astype(np.int32), Table(extended))


def bake(module: nn.Module) -> nn.Module:
    """Make every edit permanent in place: plain parameters that hold the values, and no parametrization left."""
    values = {name: value(module, name).clone() for name in edited(module)}
    for owner, attribute, original, _ in _detach(module):
        owner.register_parameter(attribute, original)
        setattr(owner, attribute, original)
    for name, tensor in values.items():
        with torch.no_grad():
            latent(module, name).copy_(tensor)
    return module


def copy(network: Network, **changes: Any) -> Network:
    """A network whose module is a deep copy with the same edits; the one given is as it was.

    Edits are taken off, copied and put back, on both: a parametrized LSTM cannot be deep-copied after a forward
    pass, and copies of a parametrized module would share the class that torch made for it.

    Args:
        network: The network to copy.
        changes: Fields of the copy that differ.
    """
    return dataclasses.replace(network, module=copy_module(network.module), **changes)


def copy_module(module: nn.Module) -> nn.Module:
    """A deep copy of ``module`` with the same edits."""
    attached = _detach(module)
    try:
        memo: dict[int, Any] = {}
        duplicate = copying.deepcopy(module, memo)
        edits: dict[int, ValueEdit] = {id(edit): copying.deepcopy(edit) for *_, edit in attached}
        for owner, attribute, _original, edit in attached:
            parametrize.register_parametrization(memo[id(owner)], attribute, edits[id(edit)], unsafe=True)
    finally:
        for owner, attribute, _original, edit in attached:
            parametrize.register_parametrization(owner, attribute, edit, unsafe=True)
    return duplicate


def _detach(module: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter, ValueEdit]]:
    """Take every edit off, leaving the latent parameters in place; what to attach again."""
    attached: list[tuple[nn.Module, str, nn.Parameter, ValueEdit]] = []
    for owner in [part for part in module.modules() if parametrize.is_parametrized(part)]:
        for attribute in list(owner.parametrizations):  # type: ignore[arg-type]
            edit, original = _stack(owner, attribute)[0], _stack(owner, attribute).original
            parametrize.remove_parametrizations(owner, attribute, leave_parametrized=False)
            setattr(owner, attribute, original)  # an LSTM also keeps its weights in a list, which this mends
            attached.append((owner, attribute, original, edit))
    return attached


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    try:
        return module.get_submodule(path), attribute
    except AttributeError as error:
        raise ModelRefused(f"the network has no module {path!r} (for the tensor {name!r})") from error


def _stack(owner: nn.Module, attribute: str) -> Any:
    """The parametrizations of one tensor, as torch keeps them."""
    parametrizations: Any = owner.parametrizations
    return parametrizations[attribute]


def _own_parameters(owner: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    yield from owner.named_parameters(recurse=False, remove_duplicate=False)
    if parametrize.is_parametrized(owner):
        for attribute, stack in owner.parametrizations.items():  # type: ignore[operator, union-attr]
            yield attribute, stack.original


def _inside_parametrization(path: str) -> bool:
    return "parametrizations" in path.split(".")


def _user_key(key: str) -> str | None:
    """The user's key of a state-dict key of torch's; None for the state of an edit."""
    head, found, tail = key.partition("parametrizations.")
    if not found:
        return key
    attribute, _, rest = tail.partition(".")
    return head + attribute if rest == "original" else None

"""Value edits: what a weight may be, ``value = mask ⊙ grid(levels)``, as torch parametrizations.

Any training loop trains through them. One :class:`ValueEdit` stands on the *set of aliases* of a tensor, so tied
weights stay tied, and it holds at most one grid and one mask. The mask always comes last: whatever the grid, a
masked weight is exactly +0.0, and pruning and quantizing work in any order. Functions here speak of tensors by the
user's own names (``layers.0.weight``), never by the names that torch gives to parametrized ones.
"""

from __future__ import annotations

import copy as copying
import dataclasses
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lissom.codec.tensors import Quantized, Table, Uniform, spread
from lissom.errors import ModelRefused, UsageError
from lissom.grids.base import Grid
from lissom.network import Network

__all__ = [
    "ValueEdit", "aliases", "attach", "bake", "copy", "copy_module", "edit_of", "edited", "latent", "live", "quantized",
    "selected", "state_dict", "tensors", "users_name", "value", "weights",
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
        # Grids compute in float32, whatever the weight is; the network keeps its dtype.
        on_grid: Tensor = original if self.grid is None else self.grid(original).to(original.dtype)
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
    if edit_of(module, name) is not None:
        original: nn.Parameter = _stack(owner, attribute).original
        return original
    found = getattr(owner, attribute, None)
    if not isinstance(found, nn.Parameter):
        raise ModelRefused(f"the network has no parameter {name!r}; it has {', '.join(list(aliases(module))[:5])} …")
    return found


def value(module: nn.Module, name: str) -> Tensor:
    """The value that the network computes with now: masked, on its grid, detached."""
    return live(module, name).detach()


def live(module: nn.Module, name: str) -> Tensor:
    """The same value, through which gradients flow to what lies under it."""
    owner, attribute = _owner(module, name)
    found: Tensor = getattr(owner, attribute)
    return found


def weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The user's name and the latent parameter of every floating parameter, tied ones once."""
    for name, *_ in _tied(module):
        parameter = latent(module, name)
        if parameter.is_floating_point():
            yield name, parameter


def selected(module: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[str]:
    """The tensors that a step works on: those that globs pick; by default every matrix and kernel.

    Args:
        module: The module that holds them.
        include: Globs over tensor names and over the paths of their modules (``"encoder.*"``, ``"head"``). They pick
            parameters with two axes or more: biases and normalisations are left alone, but where a glob says what the
            tensor itself is called (``"head.bias"``, ``"*.bias"``). Where none is given, every matrix and kernel.
        exclude: Globs of what is left alone.

    Raises:
        UsageError: a glob picks nothing.

    >>> selected(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), exclude=("1",))
    ['0.weight']
    """
    tied = aliases(module)
    floating = [name for name, _ in weights(module)]
    large = {name for name in floating if latent(module, name).ndim >= 2}
    for pattern in (*include, *exclude):
        if not any(_matches(tied[name], pattern) for name in floating):
            raise UsageError(
                f"no parameter matches {pattern!r}; there are {', '.join(floating[:8])}" + " …" * (len(floating) > 8)
            )
    picked = {
        pattern: {name for name in floating if _matches(tied[name], pattern) and (name in large or _names(pattern, name))}
        for pattern in include
    }
    for pattern in (pattern for pattern, names in picked.items() if not names):
        raise UsageError(f"no matrix and no kernel matches {pattern!r}: biases and normalisations are picked by their own names")
    chosen = set().union(*picked.values()) if include else large
    return [name for name in floating if name in chosen and not any(_matches(tied[name], pattern) for pattern in exclude)]


def _matches(names: tuple[str, ...], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern) for name in names)


def _names(pattern: str, name: str) -> bool:
    """Whether a glob says what the tensor itself is called, and not only where it is."""
    own = pattern.rpartition(".")[2]
    return bool(own.strip("*")) and fnmatchcase(name.rpartition(".")[2], own)


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


def users_name(name: str) -> str:
    """The user's name of a weight that a graph, or the file of one, holds folded or smoothed.

    >>> users_name("stem.folded.weight")
    'stem.weight'
    """
    return f".{name}".replace(".smoothed.", ".").replace(".folded.", ".").removeprefix(".")


def state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state under the user's own keys, with the values that edits give."""
    state: dict[str, Tensor] = {}
    for key, tensor in module.state_dict().items():
        name = _user_key(module, key)
        if name is not None:
            state[name] = tensor if name == key else value(module, name)
    return state


def tensors(module: nn.Module) -> dict[str, np.ndarray[Any, Any] | Quantized]:
    """The state under the user's own keys as the archive stores it: levels where a grid stands, else arrays; short
    floats where the grid is one of them.

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
        decoding = None if edit is None or edit.grid is None else edit.grid.decoding()
        if isinstance(decoding, Table | Uniform):
            stored[name] = quantized(module, name)
        else:
            stored[name] = _as_numpy(tensor.detach().cpu().to(tensor.dtype if decoding is None else decoding.dtype))
    return stored


def quantized(module: nn.Module, name: str) -> Quantized:
    """The tensor ``name`` as levels: masked weights take the level that stands for zero, added to the table if need be."""
    edit = edit_of(module, name)
    decoding = None if edit is None or edit.grid is None else edit.grid.decoding()
    if edit is None or edit.grid is None or not isinstance(decoding, Table | Uniform):
        raise UsageError(f"{name} has no levels: put it on a grid first")
    weight = latent(module, name)
    with torch.no_grad():
        levels = edit.grid.levels(weight).cpu().numpy().astype(np.int32)
    stored = Quantized(levels, decoding, dtype=str(weight.dtype).removeprefix("torch."))
    return stored if edit.mask is None else _masked(stored, edit.mask.cpu().numpy())


def _masked(stored: Quantized, mask: np.ndarray[Any, Any]) -> Quantized:
    levels, decoding = stored.levels, stored.decoding
    if isinstance(decoding, Uniform):
        zero = spread(decoding.zero_point, levels.shape)
        return dataclasses.replace(stored, levels=np.where(mask, levels, zero).astype(np.int32))
    zeros = np.flatnonzero(decoding.values == 0)
    if not zeros.size and decoding.values.size == 2**16:  # no room for one more entry
        return dataclasses.replace(stored, mask=mask)
    entry = zeros[0] if zeros.size else decoding.values.size
    table = decoding if zeros.size else Table(np.append(decoding.values, np.float32(0)))
    return dataclasses.replace(stored, levels=np.where(mask, levels, entry).astype(np.int32), decoding=table)


def _as_numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The array of a tensor; numpy has no bfloat16 of its own and takes it from ml_dtypes."""
    if tensor.dtype is not torch.bfloat16:
        array: np.ndarray[Any, Any] = tensor.numpy()
        return array
    import ml_dtypes

    return tensor.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)


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
        edits: dict[int, ValueEdit] = {id(edit): copying.deepcopy(edit, memo) for *_, edit in attached}
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
        for attribute in [name for name in owner.parametrizations if _is_ours(owner, name)]:  # type: ignore[union-attr]
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


def _is_ours(owner: nn.Module, attribute: str) -> bool:
    """Whether the parametrization is an edit, and not the user's own (weight norm, spectral norm)."""
    return isinstance(_stack(owner, attribute)[0], ValueEdit)


def _own_parameters(owner: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    yield from owner.named_parameters(recurse=False, remove_duplicate=False)
    if parametrize.is_parametrized(owner):
        for attribute, stack in owner.parametrizations.items():  # type: ignore[operator, union-attr]
            if _is_ours(owner, attribute):
                yield attribute, stack.original


def _inside_parametrization(path: str) -> bool:
    return "parametrizations" in path.split(".")


def _user_key(module: nn.Module, key: str) -> str | None:
    """The user's key of a state-dict key of torch's; None for the state of an edit."""
    head, found, tail = key.partition("parametrizations.")
    attribute, _, rest = tail.partition(".")
    if not found or not _is_ours(_owner(module, head + attribute)[0], attribute):
        return key
    return head + attribute if rest == "original" else None

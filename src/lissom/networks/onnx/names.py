"""Names: an initialiser's name in the file and the parameter's name in the module, each found from the other.

A dot is a level of the module tree, so ``encoder.layer.0.weight`` keeps its name. What torch refuses as a name
(an empty piece, the name of an attribute that every module has, a tensor that is also a folder) is percent-encoded.
"""

from __future__ import annotations

from urllib.parse import unquote

from torch import nn

__all__ = ["original_name", "torch_names"]


def torch_names(names: list[str]) -> dict[str, str]:
    """A valid and distinct torch name for each name of the file.

    >>> torch_names(["a.weight", "forward", "a", "x..y"])
    {'a.weight': 'a%2Eweight', 'forward': '%66orward', 'a': 'a', 'x..y': 'x%2E%2Ey'}
    """
    taken = set(names)
    return {name: _torch_name(name, taken) for name in names}


def original_name(torch_name: str) -> str:
    """The name in the file of a parameter of the module.

    >>> original_name("a%2Eweight")
    'a.weight'
    """
    return unquote(torch_name)


def _torch_name(name: str, taken: set[str]) -> str:
    pieces = name.replace("%", "%25").split(".")
    folders = {".".join(name.split(".")[:end]) for end in range(1, len(pieces))}
    if folders & taken or "" in pieces:
        pieces = ["%2E".join(pieces)]
    return ".".join(_escaped(piece) for piece in pieces)


def _escaped(piece: str) -> str:
    """Encode the first letter of what cannot be the name of a parameter or submodule."""
    if not piece or not (hasattr(_PLAIN, piece) or piece in _RESERVED):
        return piece or "%"
    return f"%{ord(piece[0]):02X}{piece[1:]}"


_PLAIN = nn.Module()
_RESERVED = frozenset(
    {
        "readers",
        "batch",
        "changed_constants",
        "constants",
        "inputs",
        "origins",
        "outputs",
        "parametrizations",
        "slots",
        "state",
        "steps",
        "weights_only",
    }
)
"""What the reader's module and torch's parametrizations call their own."""

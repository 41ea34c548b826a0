"""Changing the class of one layer in place, so that its parameters keep their names and its edits stand."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.utils import parametrize

__all__ = ["change_class"]


def change_class(layer: nn.Module, made: Callable[[type], type]) -> None:
    """Give ``layer`` the class that ``made`` makes of its own.

    A layer with parametrizations has a class that torch made for it alone, which reads its weights through them; there
    the base changes, which torch gives the layer back when the parametrizations go.

    Example:
        >>> class Loud(nn.ReLU):
        ...     pass
        >>> layer = nn.ReLU()
        >>> change_class(layer, lambda kind: Loud)
        >>> type(layer).__name__
        'Loud'
    """
    kind = type(layer)
    if parametrize.is_parametrized(layer):
        kind.__bases__ = (made(kind.__bases__[0]),)
    else:
        layer.__class__ = made(kind)

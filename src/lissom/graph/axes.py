"""The algebra of axes: an axis is a sum of segments, or a product of factors, of atoms that operators unite.

An :class:`Atom` is an index set with a size. :class:`Sum` is concatenation (its positions come one segment after the
other), :class:`Product` is a row-major grid (its last factor runs fastest). Operators :func:`tie` axes that must lose
the same positions; where two axes are cut up differently, atoms are refined *everywhere they stand*, because an atom
that has been refined is only a name for its parts. Removing one index of an atom removes what it means on every axis
that it is part of: one channel is 49 columns of the linear layer that follows a 7x7 flatten.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = [
    "ONE", "Atom", "Axis", "Product", "Sum", "atoms", "concatenate", "cut", "factor", "freeze", "indices", "kept", "multiply",
    "reshape", "resolve", "size", "tie",
]  # fmt: skip


@dataclass(eq=False)
class Atom:
    """An index set of ``size`` positions that no operator has taken apart.

    Args:
        size: How many positions.
        frozen: Why none of them can be removed; None where they can.
        ties: What united other atoms with this one, in words.
        parts: What the atom has been refined into or united with; the atom then is only a name for it.
    """

    size: int
    frozen: str | None = None
    ties: list[str] = field(default_factory=list)
    parts: Axis | None = None


@dataclass(frozen=True)
class Sum:
    """Segments, one after the other."""

    parts: tuple[Axis, ...]


@dataclass(frozen=True)
class Product:
    """Factors of a row-major grid: the last runs fastest."""

    parts: tuple[Axis, ...]


Axis = Atom | Sum | Product

ONE = Product(())
"""The axis of length 1. Nothing can be removed from it, so it has no atom."""


def size(axis: Axis) -> int:
    """The number of positions of ``axis``."""
    if isinstance(axis, Atom):
        return axis.size
    if isinstance(axis, Sum):
        return sum(map(size, axis.parts))
    return math.prod(map(size, axis.parts))


def multiply(*factors: Axis) -> Axis:
    """The product of ``factors``, flat; factors of length 1 vanish.

    >>> a, b = Atom(2), Atom(3)
    >>> multiply(a, ONE, multiply(b)) == Product((a, b))
    True
    """
    flat = [part for each in factors for part in (each.parts if isinstance(each, Product) else (each,)) if size(part) != 1]
    return flat[0] if len(flat) == 1 else Product(tuple(flat))


def concatenate(*segments: Axis) -> Axis:
    """The sum of ``segments``, flat; empty segments vanish."""
    flat = [part for each in segments for part in (each.parts if isinstance(each, Sum) else (each,)) if size(part) != 0]
    return flat[0] if len(flat) == 1 else Sum(tuple(flat))


def resolve(axis: Axis) -> Axis:
    """``axis`` in terms of the atoms that stand now."""
    if isinstance(axis, Atom):
        if axis.size == 1:
            return ONE
        if axis.parts is None:
            return axis
        axis.parts = resolve(axis.parts)
        return axis.parts
    if isinstance(axis, Sum):
        return concatenate(*map(resolve, axis.parts))
    return multiply(*map(resolve, axis.parts))


def atoms(axis: Axis) -> Iterator[Atom]:
    """The atoms that ``axis`` is made of now, from the left, each as often as it stands there."""
    found = resolve(axis)
    if isinstance(found, Atom):
        yield found
    else:
        for part in found.parts:
            yield from atoms(part)


def freeze(axis: Axis, why: str) -> None:
    """Forbid removing any position of ``axis``; the first reason given stays."""
    for atom in atoms(axis):
        atom.frozen = atom.frozen or why


def tie(left: Axis, right: Axis, why: str) -> None:
    """Make two axes of one length lose the same positions from now on, refining atoms as far as that takes.

    Axes that cannot be refined into common parts (2 x 3 against 3 x 2) are frozen.
    """
    left, right = resolve(left), resolve(right)
    if left == right:
        return
    if size(left) != size(right):
        freeze(left, why)
        freeze(right, why)
    elif isinstance(left, Atom):
        _unite(left, right, why)
    elif isinstance(right, Atom):
        _unite(right, left, why)
    elif isinstance(left, Sum) or isinstance(right, Sum):
        _tie_segments([left], [right], why)
    else:
        _tie_factors(left, right, why)


def _unite(atom: Atom, axis: Axis, why: str) -> None:
    atom.parts = axis
    for other in atoms(axis):
        other.ties.extend(tie for tie in (*atom.ties, why) if tie not in other.ties)
    if atom.frozen is not None:
        freeze(axis, atom.frozen)


def _tie_segments(left: list[Axis], right: list[Axis], why: str) -> None:
    """Tie two lists of segments of one total length, from the left; a segment longer than its fellow is cut."""
    while left and right:
        one, other = _pop_segment(left), _pop_segment(right)
        if size(one) < size(other):
            other, rest = cut(other, size(one), why)
            right.insert(0, rest)
        elif size(one) > size(other):
            one, rest = cut(one, size(other), why)
            left.insert(0, rest)
        tie(one, other, why)


def _pop_segment(segments: list[Axis]) -> Axis:
    """Take off the first segment that is not itself a sum: earlier ties may have refined what stands in the list."""
    while isinstance(first := resolve(segments.pop(0)), Sum):
        segments[:0] = first.parts
    return first


def _tie_factors(left: Axis, right: Axis, why: str) -> None:
    """Tie two grids factor by factor, from the one that runs fastest."""
    one_rest, other_rest = left, right
    while size(one_rest) > 1:
        one, other = _last(one_rest), _last(other_rest)
        inner = min(size(one), size(other))
        one_split, other_split = factor(one_rest, inner, why), factor(other_rest, inner, why)
        if one_split is None or other_split is None:
            freeze(left, f"{why} ties grids of different shapes")
            freeze(right, f"{why} ties grids of different shapes")
            return
        (one_rest, one), (other_rest, other) = one_split, other_split
        tie(one, other, why)


def _last(axis: Axis) -> Axis:
    found = resolve(axis)
    return found.parts[-1] if isinstance(found, Product) else found


def cut(axis: Axis, at: int, why: str) -> tuple[Axis, Axis]:
    """The first ``at`` positions of ``axis``, and the others.

    A product can be cut only between whole rows; one that would have to be cut elsewhere is frozen.
    """
    axis = resolve(axis)
    if isinstance(axis, Atom):
        pieces = Atom(at, axis.frozen, list(axis.ties)), Atom(axis.size - at, axis.frozen, list(axis.ties))
        axis.parts = Sum(pieces)
        return pieces
    if isinstance(axis, Sum):
        before: list[Axis] = []
        for number, part in enumerate(axis.parts):
            if at < size(part):
                first, rest = cut(part, at, why) if at else (Sum(()), part)
                return concatenate(*before, first), concatenate(rest, *axis.parts[number + 1 :])
            before.append(part)
            at -= size(part)
        return axis, Sum(())
    outer, *inner = axis.parts
    row = math.prod(map(size, inner))
    if at % row:
        freeze(axis, f"{why} cuts through the rows of a grid")
        return Atom(at, f"{why} cuts through the rows of a grid"), Atom(size(axis) - at, f"{why} cuts through the rows of a grid")
    first, rest = cut(outer, at // row, why)
    return multiply(first, *inner), multiply(rest, *inner)


def factor(axis: Axis, inner: int, why: str) -> tuple[Axis, Axis] | None:
    """``axis`` as a grid of rows of ``inner`` positions: the axis of rows, and the axis within a row.

    Returns:
        None where the atoms do not allow it (4 x 6 as rows of 8); nothing is changed then in a way that matters.
    """
    axis = resolve(axis)
    if inner < 1 or size(axis) % inner:
        return None
    if inner == 1:
        return axis, ONE
    if inner == size(axis):
        return ONE, axis
    if isinstance(axis, Atom):
        rows, row = Atom(axis.size // inner, axis.frozen, list(axis.ties)), Atom(inner, axis.frozen, list(axis.ties))
        axis.parts = Product((rows, row))
        return rows, row
    return _factor_sum(axis, inner, why) if isinstance(axis, Sum) else _factor_product(axis, inner, why)


def _factor_product(axis: Product, inner: int, why: str) -> tuple[Axis, Axis] | None:
    *outer, last = axis.parts
    if inner % size(last) == 0:
        deeper = factor(multiply(*outer), inner // size(last), why)
        return None if deeper is None else (deeper[0], multiply(deeper[1], last))
    if size(last) % inner == 0:
        split = factor(last, inner, why)
        return None if split is None else (multiply(*outer, split[0]), split[1])
    return None


def _factor_sum(axis: Sum, inner: int, why: str) -> tuple[Axis, Axis] | None:
    """Segments of whole rows share their rows' axis; several equal segments to a row are united row by row."""
    lengths = {size(part) for part in axis.parts}
    if all(length % inner == 0 for length in lengths):
        split = [factor(part, inner, why) for part in axis.parts]
        done = [each for each in split if each is not None]
        if len(done) < len(split):
            return None
        for _, row in done[1:]:
            tie(done[0][1], row, why)
        return concatenate(*(rows for rows, _ in done)), done[0][1]
    if len(lengths) == 1 and inner % next(iter(lengths)) == 0:
        count = inner // next(iter(lengths))
        for number, part in enumerate(axis.parts[count:]):
            tie(axis.parts[number % count], part, why)
        return Atom(len(axis.parts) // count, f"{why} counts equal segments"), concatenate(*axis.parts[:count])
    return None


def reshape(axes: Sequence[Axis], lengths: Sequence[int], why: str) -> tuple[Axis, ...]:
    """The axes of a tensor after ``reshape(lengths)``, in row-major order; what does not fit is frozen.

    >>> channels, height, width = Atom(8), Atom(7), Atom(7)
    >>> reshape([channels, height, width], [8 * 49], "flatten") == (Product((channels, height, width)),)
    True
    """
    if 0 in lengths:
        return tuple(Atom(length, why) for length in lengths)
    result: list[Axis] = []
    start = into = 0
    while start < len(axes) or into < len(lengths):
        first, begin, have, want = start, into, 1, 1
        while have != want or start == first or into == begin:
            if (start < len(axes) and (have < want or start == first)) or into == len(lengths):
                if start == len(axes):
                    break
                have, start = have * size(axes[start]), start + 1
            else:
                want, into = want * lengths[into], into + 1
        result.extend(_reshape_block(multiply(*axes[first:start]), lengths[begin:into], why))
    return tuple(result)


def _reshape_block(axis: Axis, lengths: Sequence[int], why: str) -> list[Axis]:
    result: list[Axis] = []
    rest = axis
    for length in reversed(lengths[1:]):
        split = factor(rest, length, why)
        if split is None:
            freeze(axis, f"{why} regroups positions in a way that no removal survives")
            return [Atom(length, f"{why} regroups positions in a way that no removal survives") for length in lengths]
        rest, inner = split
        result.append(inner)
    return [rest, *reversed(result)] if lengths else []


def kept(axis: Axis, keep: Mapping[Atom, npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
    """Which positions of ``axis`` stay, where ``keep`` says which indices of some atoms do; all of the others stay.

    >>> channel, pixel = Atom(2), Atom(3)
    >>> kept(Product((channel, pixel)), {channel: np.array([False, True])}).tolist()
    [False, False, False, True, True, True]
    """
    axis = resolve(axis)
    if isinstance(axis, Atom):
        return keep.get(axis, np.ones(axis.size, bool))
    if isinstance(axis, Sum):
        return np.concatenate([kept(part, keep) for part in axis.parts])
    result = np.ones(1, bool)
    for part in axis.parts:
        result = np.logical_and.outer(result, kept(part, keep)).reshape(-1)
    return result


def indices(axis: Axis, atom: Atom) -> list[npt.NDArray[np.int64]]:
    """Which index of ``atom`` each position of ``axis`` means, -1 for none: one array for each time that it stands there.

    >>> channel, pixel = Atom(2), Atom(3)
    >>> indices(Product((channel, pixel)), channel)[0].tolist()
    [0, 0, 0, 1, 1, 1]
    """
    axis = resolve(axis)
    if isinstance(axis, Atom):
        return [np.arange(axis.size)] if axis is atom else []
    if isinstance(axis, Sum):
        return _indices_of_sum(axis, atom)
    found: list[npt.NDArray[np.int64]] = []
    outer, inner = 1, size(axis)
    for part in axis.parts:
        inner //= size(part)
        found.extend(np.tile(np.repeat(each, inner), outer) for each in indices(part, atom))
        outer *= size(part)
    return found


def _indices_of_sum(axis: Sum, atom: Atom) -> list[npt.NDArray[np.int64]]:
    by_part = [(size(part), indices(part, atom)) for part in axis.parts]
    times = max(len(found) for _, found in by_part)
    return [
        np.concatenate([found[turn] if turn < len(found) else np.full(length, -1, np.int64) for length, found in by_part])
        for turn in range(times)
    ]

"""The algebra of axes against what numpy does with the numbers themselves."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.graph.axes import (
    ONE,
    Atom,
    Product,
    Sum,
    atoms,
    concatenate,
    cut,
    factor,
    freeze,
    indices,
    kept,
    multiply,
    reshape,
    resolve,
    size,
    tie,
)


def removing(axis, atom, index):
    """Which positions of the axis go when one index of an atom goes."""
    keep = {atom: np.arange(atom.size) != index}
    return np.flatnonzero(~kept(axis, keep)).tolist()


def test_a_flattened_channel_is_a_run_of_columns():
    channel = Atom(3)
    (flat,) = reshape([channel, Atom(2), Atom(2)], [12], "flatten")
    assert removing(flat, channel, 1) == [4, 5, 6, 7]


def test_the_same_two_cuts_meet_whatever_their_order():
    left, right = Sum((Atom(3), Atom(5))), Sum((Atom(5), Atom(3)))
    tie(left, right, "add")
    assert [size(part) for part in resolve(left).parts] == [3, 2, 3]
    assert list(atoms(left)) == list(atoms(right))


def test_a_rotation_of_halves_ties_the_halves():
    axis = Atom(8)
    first, second = cut(axis, 4, "slice")
    tie(axis, concatenate(second, first), "add")
    atom = next(atoms(axis))
    assert removing(axis, atom, 1) == [1, 5]


def test_refining_reaches_every_place_where_the_atom_stands():
    axis = Atom(12)
    beside = Sum((Atom(2), axis))
    heads, _ = factor(axis, 3, "view")
    assert removing(beside, next(atoms(heads)), 1) == [5, 6, 7]


def test_a_shuffle_is_a_product_in_another_order():
    axis = Atom(6)
    rows, columns = reshape([axis], [2, 3], "view")
    (shuffled,) = reshape([columns, rows], [6], "view")
    (row,) = atoms(rows)
    assert removing(axis, row, 0) == [0, 1, 2]
    assert removing(shuffled, row, 0) == [0, 2, 4]


def test_grids_of_other_shapes_freeze():
    left, right = Product((Atom(2), Atom(3))), Product((Atom(3), Atom(2)))
    tie(left, right, "add")
    assert all(atom.frozen for axis in (left, right) for atom in atoms(axis))


def test_a_frozen_axis_freezes_what_is_tied_to_it():
    frozen, free = Atom(4), Atom(4)
    freeze(frozen, "input x has it")
    tie(free, frozen, "add")
    assert next(atoms(free)).frozen == "input x has it"


def test_equal_segments_viewed_as_rows_become_one():
    segments = [Atom(4) for _ in range(3)]
    rows, row = factor(Sum(tuple(segments)), 4, "view")
    assert size(rows) == 3
    assert len({id(atom) for segment in segments for atom in atoms(segment)}) == 1
    assert size(row) == 4


def test_length_one_has_no_atom():
    assert multiply(Atom(1), ONE) == ONE
    assert list(atoms(Atom(1))) == []
    assert reshape([Atom(1), Atom(4)], [4, 1, 1], "view")[1:] == (ONE, ONE)


SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(SHAPES, st.permutations(range(6)))
def test_reshape_agrees_with_numpy(shape, order):
    """What an index of an original axis means after a reshape is where numpy puts those numbers, or it is frozen."""
    factors = [length for length in shape if length > 1] or [1]
    target = [math.prod(factors[: len(factors) // 2]), math.prod(factors[len(factors) // 2 :])]
    if order[0] % 2:
        target = [target[0] * target[1]]
    elif order[1] % 2:
        target = target[::-1]
    originals = [Atom(length) for length in shape]
    result = reshape(originals, target, "view")
    assert [size(axis) for axis in result] == target
    numbers = np.arange(math.prod(shape)).reshape(shape)
    for place, original in enumerate(originals):
        for atom in set(atoms(original)):
            if atom.frozen:
                continue
            gone = ~kept(original, {atom: np.arange(atom.size) != 0})
            moved = np.isin(numbers, np.compress(gone, numbers, axis=place)).reshape(target)
            expected = np.ones(target, bool)
            for at, axis in enumerate(result):
                stays = kept(axis, {atom: np.arange(atom.size) != 0})
                expected &= np.expand_dims(stays, [other for other in range(len(target)) if other != at])
            assert (moved == ~expected).all()


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_tied_sums_lose_the_same_positions(first, second):
    total = max(sum(first), sum(second))
    left = concatenate(*map(Atom, first), *([Atom(total - sum(first))] if sum(first) < total else []))
    right = concatenate(*map(Atom, second), *([Atom(total - sum(second))] if sum(second) < total else []))
    tie(left, right, "add")
    for atom in set(atoms(left)):
        for index in range(atom.size):
            assert removing(left, atom, index) == removing(right, atom, index) != []
        labels = indices(left, atom)
        assert [int((label >= 0).sum()) for label in labels] == [atom.size] * len(labels)

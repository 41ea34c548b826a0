"""Graphs inside a graph, bound: the two sides of an ``If``, and the body of a ``Loop``; they work on the slots around them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch

from lissom.networks.onnx.values import Known, as_tensor

__all__ = ["Branches", "Loop", "Nested", "Step", "run_steps"]


class Nested(Protocol):
    """What a step runs in its function's stead."""

    def run(self, slots: list[Any]) -> tuple[Any, ...]:
        """Run on the slots; what the node gives back."""


class Step(NamedTuple):
    """One call, bound: the function, the slots it reads and writes, and those that no later step reads."""

    function: Callable[..., Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    finished: tuple[int, ...]
    label: str
    nested: Nested | None = None


def run_steps(steps: list[Step], slots: list[Any]) -> None:
    """Run steps on slots."""
    for function, read, written, finished, _, nested in steps:
        result = function(*[slots[slot] for slot in read]) if nested is None else nested.run(slots)
        if len(written) == 1:
            slots[written[0]] = result[0] if isinstance(result, tuple) else result
        else:
            for slot, value in zip(written, result, strict=False):
                slots[slot] = value
            slots[0] = None
        for slot in finished:
            slots[slot] = None


class Branches(NamedTuple):
    """Both sides of an ``If``: the slot of its condition, the steps of each side, and the slots that it answers with."""

    condition: int
    steps: tuple[list[Step], list[Step]]
    outputs: tuple[list[int], list[int]]

    def run(self, slots: list[Any]) -> tuple[Any, ...]:
        """Run the side that the condition takes."""
        side = 0 if _number(slots[self.condition]) else 1
        run_steps(self.steps[side], slots)
        return tuple(slots[slot] for slot in self.outputs[side])


class Loop(NamedTuple):
    """A ``Loop``: its body's steps, and the slots of what comes in, of the body's own inputs, and of what the body answers.

    What comes in is the number of rounds, the first condition, and the values carried from round to round. The body's
    inputs are the round, the condition and those values; it answers with the next condition, the next values, and what
    is collected over all rounds. Where the condition is arithmetic on sizes, tracing the network unrolls the loop.
    """

    steps: list[Step]
    arriving: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def run(self, slots: list[Any]) -> tuple[Any, ...]:
        """Run the body until the condition fails, or the rounds are over."""
        rounds, condition, *carried = (slots[slot] for slot in self.arriving)
        last = math.inf if rounds is None else _number(rounds)
        goes_on, number = condition is None or bool(_number(condition)), 0
        collected: list[list[Any]] = [[] for _ in self.outputs[1 + len(carried) :]]
        while goes_on and number < last:
            own = (Known.of(number), Known.of(True, torch.bool), *carried)
            for slot, value in zip(self.inputs, own, strict=True):
                slots[slot] = value
            run_steps(self.steps, slots)
            following, *answers = (slots[slot] for slot in self.outputs)
            carried, made = answers[: len(carried)], answers[len(carried) :]
            for each, value in zip(collected, made, strict=True):
                each.append(as_tensor(value))
            goes_on, number = bool(_number(following)), number + 1
        return (*carried, *(torch.stack(each) if each else torch.zeros(0) for each in collected))


def _number(value: Any) -> Any:
    """A value of one element as a number; reading it from a tensor is what no trace survives."""
    return value.item()

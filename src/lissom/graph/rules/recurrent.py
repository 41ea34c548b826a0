"""Axis rules of recurrent cells: the hidden axis is one axis through gates, steps, directions and layers."""

from __future__ import annotations

from lissom.graph.axes import Axis, concatenate, size
from lissom.graph.rules.selection import equal_parts
from lissom.graph.rules.table import Axes, Call, operator_name, rule

__all__: list[str] = []

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule(*GATES)
def recurrent(call: Call) -> list[Axes]:
    """``weight_ih [gates * hidden, in]``, ``weight_hh [gates * hidden, hidden]`` and two biases, by layer and direction.

    Every layer and direction of one cell shares the size of its hidden axis, so they lose the same positions.
    """
    name = operator_name(call.node.target)
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    weights = [call.axes_at(node) for node in call["params"]]
    per_cell = 4 if call["has_biases"] else 2
    if len(weights) % per_cell or len(weights) // per_cell != call["num_layers"] * (1 + call["bidirectional"]):
        return _projected(call)
    cells = [weights[start : start + per_cell] for start in range(0, len(weights), per_cell)]
    hidden = cells[0][1][1]
    for cell in cells:
        call.tie(cell[1][1], hidden)
        for axes in cell:
            call.tie(equal_parts(call, axes[0], GATES[name]), hidden)
    directions = 2 if call["bidirectional"] else 1
    sequence = call.axes("input")
    step: Axis = sequence[-1]
    for layer in range(call["num_layers"]):
        for direction in range(directions):
            call.tie(cells[layer * directions + direction][0][1], step)
            for width in (step, hidden):
                call.work.append((*sequence[:-1], cells[layer * directions + direction][0][0], width))
        step = concatenate(*[hidden] * directions)
    for state in states:
        call.tie(call.axes_at(state)[-1], hidden)
    call.states(size(hidden), hidden)
    call.freeze(sequence[:-1], "runs along it")
    last = call.axes_at(states[0])
    return [(*sequence[:-1], step), *([last] * len(states))]


def _projected(call: Call) -> list[Axes]:
    for axes in call.tensors():
        call.freeze(axes, "projects its hidden state, which has no rule")
    return [call.fresh_frozen(lengths, "projects its hidden state") for lengths in call.result_lengths()]

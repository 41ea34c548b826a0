"""Recurrent layers: RNN, GRU and LSTM, in one or both directions.

The common case (plain activations, no lengths, no peepholes) is torch's fused kernel, with the gates put in torch's
order; everything else is one loop over time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lissom.networks.onnx.operators.activation import hard_sigmoid
from lissom.networks.onnx.table import operator

Activation = Callable[[Tensor], Tensor]
Cell = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def _activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    low = name.lower()
    table: dict[str, Activation] = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "softsign": torch.nn.functional.softsign,
        "softplus": torch.nn.functional.softplus,
        "affine": lambda x: x * (1.0 if alpha is None else alpha) + (0.0 if beta is None else beta),
        "leakyrelu": lambda x: torch.nn.functional.leaky_relu(x, 0.01 if alpha is None else alpha),
        "thresholdedrelu": lambda x: torch.nn.functional.threshold(x, 1.0 if alpha is None else alpha, 0.0),
        "scaledtanh": lambda x: (1.0 if alpha is None else alpha) * torch.tanh((1.0 if beta is None else beta) * x),
        "hardsigmoid": lambda x: hard_sigmoid(x, alpha=0.2 if alpha is None else alpha, beta=0.5 if beta is None else beta),
        "elu": lambda x: torch.nn.functional.elu(x, 1.0 if alpha is None else alpha),
    }
    return table[low]


_TAKES_ALPHA = {"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"}
_TAKES_BETA = {"affine", "scaledtanh", "hardsigmoid"}


def _activations(names: list[str], alphas: list[float] | None, betas: list[float] | None) -> list[Activation]:
    """The functions by name; each takes its numbers, in turn, from the lists that all share."""
    alpha, beta = iter(alphas or []), iter(betas or [])
    found = []
    for name in names:
        first = next(alpha, None) if name.lower() in _TAKES_ALPHA else None
        second = next(beta, None) if name.lower() in _TAKES_BETA else None
        found.append(_activation(name, first, second))
    return found


def _gates(x: Tensor, order: list[int]) -> Tensor:
    """Blocks of rows in another order: from ONNX's order of gates to torch's."""
    blocks = x.chunk(len(order), 0)
    return torch.cat([blocks[i] for i in order], 0)


def _unroll(
    x: Tensor, states: tuple[Tensor, ...], cell: Cell, reverse: bool, lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a cell over time [T, N, I]; past a sequence's end its state stays and its output is zero."""
    outputs: list[Tensor] = []
    steps = range(x.shape[0])
    for step in reversed(steps) if reverse else steps:
        fresh = cell(x[step], states)
        if lengths is not None:
            alive = (step < lengths).unsqueeze(1)
            fresh_output = torch.where(alive, fresh[0], torch.zeros_like(fresh[0]))
            states = tuple(torch.where(alive, new, old) for new, old in zip(fresh, states, strict=True))
            outputs.append(fresh_output)
        else:
            states = fresh
            outputs.append(fresh[0])
    return torch.stack(outputs[::-1] if reverse else outputs), states


class _Layer:
    """What the three kinds of layer share: directions, layout, initial states."""

    def __init__(self, x: Tensor, w: Tensor, r: Tensor, layout: int, direction: str, lengths: Tensor | None) -> None:
        self.layout = layout
        self.x = x.transpose(0, 1) if layout else x
        self.directions = w.shape[0]
        self.hidden = r.shape[-1]
        self.reverse = [direction == "reverse", True]
        self.lengths = lengths

    def state(self, given: Tensor | None) -> Tensor:
        """The initial state [directions, N, H]: zero where none is given."""
        if given is None:
            return torch.zeros([self.directions, self.x.shape[1], self.hidden], dtype=self.x.dtype)
        state = given.transpose(0, 1) if self.layout else given
        expected = [self.directions, self.x.shape[1], self.hidden]
        # The fused kernels read the state without looking at its shape: a wrong one would be memory that is not theirs.
        if any(int(a != b) for a, b in zip(state.shape, expected, strict=True)):
            raise ValueError(f"the initial state has shape {list(state.shape)}, and the layer needs {expected}")
        return state

    def run(self, states: tuple[Tensor, ...], cells: list[Cell]) -> tuple[Tensor, ...]:
        """The outputs of the node: all hidden states, then the last of each state."""
        outputs, lasts = [], []
        for direction, cell in enumerate(cells):
            own = tuple(state[direction] for state in states)
            output, last = _unroll(self.x, own, cell, self.reverse[direction], self.lengths)
            outputs.append(output)
            lasts.append(last)
        return self.arranged(torch.stack(outputs, 1), *(torch.stack(kind) for kind in zip(*lasts, strict=True)))

    def fused(self, output: Tensor, *last: Tensor) -> tuple[Tensor, ...]:
        """The fused output [T, N, directions * H] as ONNX's [T, directions, N, H]."""
        time, batch = output.shape[:2]
        return self.arranged(output.reshape([time, batch, self.directions, self.hidden]).transpose(1, 2), *last)

    def arranged(self, output: Tensor, *last: Tensor) -> tuple[Tensor, ...]:
        """Batch first, where the node asks for it."""
        if not self.layout:
            return (output, *last)
        return (output.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last))

    def flipped(self, x: Tensor) -> Tensor:
        """Time reversed, for torch's kernel, which knows only forward and both."""
        return x.flip(0) if self.directions == 1 and self.reverse[0] else x


def _fused_weights(w: Tensor, r: Tensor, b: Tensor | None, order: list[int]) -> list[Tensor]:
    """The list of weights that torch wants, per direction: input, recurrent and both biases."""
    weights = []
    for direction in range(w.shape[0]):
        weights += [_gates(w[direction], order), _gates(r[direction], order)]
        if b is not None:
            first, second = b[direction].chunk(2, 0)
            weights += [_gates(first, order), _gates(second, order)]
    return weights


@operator("LSTM", 7, ignores=("hidden_size", "output_sequence"))
def lstm(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, initial_h: Tensor | None = None,
    initial_c: Tensor | None = None, p: Tensor | None = None, *, direction: str = "forward",
    activations: list[str] | None = None, activation_alpha: list[float] | None = None, activation_beta: list[float] | None = None,
    clip: float | None = None, input_forget: int = 0, layout: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Long short-term memory: x [T, N, I], w [D, 4H, I] in the order input, output, forget, cell."""
    layer = _Layer(x, w, r, layout, direction, lengths)
    h, c = layer.state(initial_h), layer.state(initial_c)
    names = activations or ["Sigmoid", "Tanh", "Tanh"] * layer.directions
    plain = [name.lower() for name in names] == ["sigmoid", "tanh", "tanh"] * layer.directions
    if plain and lengths is None and p is None and clip is None and not input_forget:
        weights = _fused_weights(w, r, b, [0, 2, 3, 1])
        sequence, both = layer.flipped(layer.x), layer.directions == 2
        output, last_h, last_c = torch.lstm(sequence, (h, c), weights, b is not None, 1, 0.0, False, both, False)
        return layer.fused(layer.flipped(output), last_h, last_c)
    functions = _activations(names, activation_alpha, activation_beta)
    cells = []
    for i in range(layer.directions):
        bias = torch.zeros((), dtype=x.dtype) if b is None else sum(b[i].chunk(2, 0))
        peephole = None if p is None else p[i]
        cells.append(_lstm_cell(w[i], r[i], bias, peephole, functions[3 * i : 3 * i + 3], clip, bool(input_forget)))
    return layer.run((h, c), cells)


def _clipped(x: Tensor, clip: float | None) -> Tensor:
    return x if clip is None else x.clamp(-clip, clip)


def _lstm_cell(
    w: Tensor, r: Tensor, bias: Tensor | int, p: Tensor | None, functions: list[Activation], clip: float | None, coupled: bool
) -> Cell:
    gate, candidate, squash = functions

    def cell(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = states
        i, o, f, g = (x @ w.T + h @ r.T + bias).chunk(4, 1)
        peep_i, peep_o, peep_f = (0, 0, 0) if p is None else p.chunk(3, 0)
        i = gate(_clipped(i + peep_i * c, clip))
        f = 1 - i if coupled else gate(_clipped(f + peep_f * c, clip))
        fresh = f * c + i * candidate(_clipped(g, clip))
        o = gate(_clipped(o + peep_o * fresh, clip))
        return o * squash(fresh), fresh

    return cell


@operator("GRU", 7, ignores=("hidden_size", "output_sequence"))
def gru(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, initial_h: Tensor | None = None, *,
    direction: str = "forward", activations: list[str] | None = None,
    activation_alpha: list[float] | None = None, activation_beta: list[float] | None = None, clip: float | None = None,
    layout: int = 0, linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gated recurrent unit: x [T, N, I], w [D, 3H, I] in the order update, reset, hidden."""
    layer = _Layer(x, w, r, layout, direction, lengths)
    h = layer.state(initial_h)
    names = activations or ["Sigmoid", "Tanh"] * layer.directions
    plain = [name.lower() for name in names] == ["sigmoid", "tanh"] * layer.directions
    if plain and lengths is None and clip is None and linear_before_reset:
        weights = _fused_weights(w, r, b, [1, 0, 2])
        sequence, both = layer.flipped(layer.x), layer.directions == 2
        output, last = torch.gru(sequence, h, weights, b is not None, 1, 0.0, False, both, False)
        return layer.fused(layer.flipped(output), last)
    functions = _activations(names, activation_alpha, activation_beta)
    cells = []
    for i in range(layer.directions):
        biases = torch.zeros([2, w.shape[1]], dtype=x.dtype) if b is None else b[i].reshape([2, -1])
        cells.append(_gru_cell(w[i], r[i], biases, functions[2 * i : 2 * i + 2], clip, bool(linear_before_reset)))
    return layer.run((h,), cells)


def _gru_cell(w: Tensor, r: Tensor, biases: Tensor, functions: list[Activation], clip: float | None, linear_first: bool) -> Cell:
    gate, candidate = functions
    recurrent_gates, recurrent_hidden = torch.split(r, [2 * r.shape[1], r.shape[1]], 0)
    bias_gates, bias_hidden = torch.split(biases[1], [2 * r.shape[1], r.shape[1]], 0)

    def cell(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h = states[0]
        from_input = x @ w.T + biases[0]
        gates = from_input[:, : 2 * h.shape[1]] + h @ recurrent_gates.T + bias_gates
        update, reset = gate(_clipped(gates, clip)).chunk(2, 1)
        if linear_first:
            from_state = reset * (h @ recurrent_hidden.T + bias_hidden)
        else:
            from_state = (reset * h) @ recurrent_hidden.T + bias_hidden
        fresh = candidate(_clipped(from_input[:, 2 * h.shape[1] :] + from_state, clip))
        return ((1 - update) * fresh + update * h,)

    return cell


@operator("RNN", 7, ignores=("hidden_size", "output_sequence"))
def rnn(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, initial_h: Tensor | None = None, *,
    direction: str = "forward", activations: list[str] | None = None,
    activation_alpha: list[float] | None = None, activation_beta: list[float] | None = None, clip: float | None = None,
    layout: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Simple recurrent layer: x [T, N, I], w [D, H, I]."""
    layer = _Layer(x, w, r, layout, direction, lengths)
    h = layer.state(initial_h)
    names = activations or ["Tanh"] * layer.directions
    fused = {"tanh": torch.rnn_tanh, "relu": torch.rnn_relu}.get(names[0].lower())
    if fused is not None and len({name.lower() for name in names}) == 1 and lengths is None and clip is None:
        sequence, both = layer.flipped(layer.x), layer.directions == 2
        output, last = fused(sequence, h, _fused_weights(w, r, b, [0]), b is not None, 1, 0.0, False, both, False)
        return layer.fused(layer.flipped(output), last)
    functions = _activations(names, activation_alpha, activation_beta)
    cells = []
    for i in range(layer.directions):
        bias = torch.zeros((), dtype=x.dtype) if b is None else sum(b[i].chunk(2, 0))
        cells.append(_rnn_cell(w[i], r[i], bias, functions[i], clip))
    return layer.run((h,), cells)


def _rnn_cell(w: Tensor, r: Tensor, bias: Tensor | int, function: Activation, clip: float | None) -> Cell:
    def cell(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (function(_clipped(x @ w.T + states[0] @ r.T + bias, clip)),)

    return cell

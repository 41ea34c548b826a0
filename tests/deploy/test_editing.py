"""A graph is opened with its weights where they are, and answers as the file does."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import nn

from lissom.deploy import Deploy, deploy
from lissom.deploy.editing import LARGE
from lissom.deploy.pipeline import plain
from lissom.network import Network
from lissom.runtimes import open_file


class Mixed(nn.Module):
    """Large float and integer constants, and small ones that shapes depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(500, 16)
        self.layer = nn.Linear(64, 33)
        self.register_buffer("places", torch.arange(2000) % 500)

    def forward(self, start: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.table(self.places[start]).reshape(-1, 64)
        result: torch.Tensor = self.layer(rows).relu()
        return result


@pytest.mark.parametrize("optimize", [True, False])
def test_an_opened_graph_answers_as_its_file_and_holds_what_it_needs(optimize: bool) -> None:
    torch.manual_seed(0)
    starts = torch.randint(0, 2000, (7, 4))
    network = Network(Mixed(), (starts[:2],))
    editor = plain(network, Deploy()).editor
    assert {array.dtype.kind for array in editor.constants.values() if array.nbytes >= LARGE} == {"f", "i"}
    hidden = next(node.input[0] for node in editor.nodes if node.op_type == "Relu")
    session = editor.open([hidden, editor.inputs[0], editor.outputs[0]], optimize=optimize)
    assert session.output_names == (*editor.outputs, hidden)
    del editor
    gc.collect()
    np.random.default_rng(0).random((64, 2**12)).sum()  # memory that was free is written over
    answer, before = session(starts.numpy())
    expected = open_file(deploy(network).to_bytes(), optimize=optimize)(starts.numpy())[0]
    np.testing.assert_array_equal(answer, expected)
    np.testing.assert_array_equal(np.maximum(before, 0), answer)


def test_opening_changes_nothing_of_the_graph() -> None:
    editor = plain(Network(nn.Linear(64, 64), (torch.zeros(2, 64),)), Deploy()).editor
    before = editor.copy().close().SerializeToString()
    editor.open()
    assert editor.close().SerializeToString() == before

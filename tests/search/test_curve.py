"""The curve: every point trains on from the last, none twice; the front and the chosen point stand in the result."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import lissom
import lissom.compress
from lissom.data import Data
from lissom.errors import UsageError
from lissom.network import Network
from lissom.search.curve import Curve
from lissom.train.finetune import Finetune


@dataclass
class Short(Curve):
    weights: tuple[float, ...] = (0.02, 1.0)

    @staticmethod
    def epochs_for(data: Data) -> int:
        return 6 if len(data.train) else 0


def test_points_share_their_steps_and_end_after_two_misses() -> None:
    curve = Curve(epochs=3, remove_dead=True, weights=(0.1, 0.2, 0.4, 0.8))
    recipes = []
    for further in (True, False, False):
        candidate = curve.ask()
        assert candidate is not None
        recipes.append(candidate.recipe.steps)
        curve.tell(turn_further=further)
    assert curve.ask() is None
    assert recipes[1][: len(recipes[0])] == recipes[0]
    assert recipes[2][: len(recipes[1])] == recipes[1]


def test_the_whole_curve_trains_once_and_its_front_is_in_the_result(
    classifier: Network, labelled: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # lissom.compress is the function; the module of that name has to be asked for.
    monkeypatch.setattr(sys.modules["lissom.compress"], "Curve", Short)
    epochs = 0
    whole = Finetune.apply

    def counting(self: Finetune, network: Network, job: lissom.Job) -> Network:
        nonlocal epochs
        epochs += not (job.checkpoints / "training.pt").exists()
        return whole(self, network, job)

    monkeypatch.setattr(Finetune, "apply", counting)
    result = lissom.compress(classifier, labelled, out=tmp_path / "out", curve=True, max_drop=0.5)
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    sizes = [trial["bytes"] for trial in record["trials"]]
    assert [trial["name"] for trial in record["trials"]] == ["rate 0.02", "rate 1"]
    assert sizes == sorted(sizes, reverse=True)
    assert epochs == 2  # one training for each point, whatever its recipe repeats
    assert any(trial["front"] for trial in record["trials"])
    kept = next(trial for trial in record["trials"] if trial["kept"])
    assert kept["bytes"] == result.record.bytes.archive
    assert "on the front" in (tmp_path / "out" / "report.html").read_text() or kept["front"]


def test_a_curve_is_for_size_and_has_its_own_recipes() -> None:
    x = np.zeros((20, 3), np.float32)
    for wrong in ({"goal": "latency"}, {"recipe": [lissom.QuantizeWeights(bits=8)]}):
        with pytest.raises(UsageError, match="curve"):
            lissom.compress(nn.Linear(3, 2), x, curve=True, **wrong)

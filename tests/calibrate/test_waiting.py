"""Batches that wait in files come back as they were, and the files go with what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.calibrate.waiting import Waiting

BATCHES = 3
NAMES = "abc"
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool)


def _tensor(seed: int) -> Tensor:
    """Of some dtype and shape, often not contiguous."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(0, 100, (40, 2, 60), generator=generator).to(DTYPES[seed % len(DTYPES)])
    return whole.transpose(0, 2) if seed % 2 else whole[::2]


STEPS = st.tuples(
    st.integers(0, BATCHES - 1), st.sampled_from(["set", "pop", "change", "discard", "look"]), st.sampled_from(NAMES),
    st.integers(0, 50),
)  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(st.lists(STEPS, max_size=30), st.sampled_from([0, 20_000, 10**9]))
def test_it_is_like_a_list_of_dictionaries(steps: list[tuple[int, str, str, int]], room: int) -> None:
    waiting: Waiting[str] = Waiting(({"given": torch.full((3000,), batch)} for batch in range(BATCHES)), room)
    plain: list[dict[str, Tensor]] = [{"given": torch.full((3000,), batch)} for batch in range(BATCHES)]
    for batch, what, name, seed in steps:
        if what == "set":
            waiting[batch][name], plain[batch][name] = _tensor(seed), _tensor(seed)
        elif what == "pop":
            assert (waiting[batch].pop(name, None) is None) == (plain[batch].pop(name, None) is None)
        elif what == "change" and name in plain[batch]:
            waiting[batch][name].zero_()
            plain[batch][name] = torch.zeros_like(plain[batch][name])
        elif what == "discard":
            waiting.discard(name)
            for values in plain:
                values.pop(name, None)
        assert waiting.names() == [set(values) for values in plain]
        assert all(torch.equal(waiting[batch][key], value) for key, value in plain[batch].items())
    for batch, values in enumerate(plain):
        assert all(torch.equal(waiting[batch][key], value) for key, value in values.items())


def test_what_has_no_room_is_written_once_and_written_over_when_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def files() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in tmp_path.glob("lissom-*/*")}

    waiting: Waiting[str] = Waiting([{}, {}], room=0)
    for batch in (0, 1):
        waiting[batch]["x"] = torch.arange(5000.0)
    assert torch.equal(waiting[0]["x"], torch.arange(5000.0))
    first = files()
    assert len(first) == 2
    assert waiting[1]
    assert waiting[0]
    assert files() == first  # looking at it does not write it again
    for number in range(1, 9):
        waiting[number % 2]["x"] = torch.arange(5000.0 - number)
        waiting.discard("y")
        waiting[number % 2]["y"] = torch.full((2000,), number)
    assert waiting[0]["x"][-1] == waiting[1]["x"][-1] - 1 == 4991
    assert waiting[0]["y"].tolist() == [8] * 2000
    assert len(files()) <= 4
    del waiting
    assert not files()


def test_what_has_room_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    waiting: Waiting[str] = Waiting([{} for _ in range(3)], room=45_000)
    for batch in range(3):
        waiting[batch]["x"] = torch.zeros(5000)
    assert waiting[0]["x"].shape == (5000,)
    assert len(list(tmp_path.glob("lissom-*/*"))) == 0  # two wait in memory, one is in use
    waiting[1]["y"] = torch.zeros(9000)
    assert waiting[0]
    assert len(list(tmp_path.glob("lissom-*/*"))) == 2

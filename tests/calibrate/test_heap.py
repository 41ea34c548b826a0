"""Free memory goes back, and nothing that is in use does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from lissom.calibrate.heap import give_back

LINUX = sys.platform == "linux"


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096


@pytest.mark.skipif(not LINUX, reason="other systems have another allocator")
def test_tensors_that_are_gone_are_given_back_and_the_others_stay() -> None:
    kept = [torch.full((2**14,), float(number)) for number in range(1600)]  # 100 MB, in blocks that the heap takes
    gone, kept = kept[::2], kept[1::2]
    gone.clear()
    before = resident()
    assert give_back(2**20)
    assert before - resident() > 30 * 2**20
    assert all(bool((tensor == 2 * number + 1).all()) for number, tensor in enumerate(kept))


def test_little_is_kept() -> None:
    assert not give_back(2**50)

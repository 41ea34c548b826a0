"""The job tries structure: by speed whole channels go, and by size those that training left without a weight."""

from __future__ import annotations

import pytest

from lissom.prune.channels import PruneChannels
from lissom.search.curve import Curve
from lissom.search.limits import Limits
from lissom.search.policy import knob

from .test_channels import built, job_of


@pytest.mark.parametrize("goal", ["latency", "size"])
def test_a_network_with_channels_is_tried_with_fewer(goal):
    network = built()
    tried = knob(goal, network, job_of(network).data, Limits()).ask()
    assert any(isinstance(step, PruneChannels) for step in tried.recipe.steps)


def test_training_against_the_archive_ends_without_dead_channels():
    steps = Curve(epochs=1, remove_dead=True).ask().recipe.steps
    assert steps[-1] == PruneChannels(ratio=0)

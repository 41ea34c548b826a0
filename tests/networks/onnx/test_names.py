"""Names of initialisers become names of parameters, and come back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lissom.networks.onnx.names import original_name, torch_names

NAMES = st.lists(
    st.text("a.b%/:_0", min_size=1, max_size=6) | st.sampled_from(["forward", "a.training", "steps"]), unique=True, max_size=6
)


@given(NAMES)
@settings(deadline=None, derandomize=True)
def test_every_name_is_valid_distinct_and_comes_back(names: list[str]) -> None:
    found = torch_names(names)
    assert [original_name(name) for name in found.values()] == names
    assert len(set(found.values())) == len(names)
    module = nn.Module()
    for name in found.values():
        *path, leaf = name.split(".")
        owner = module
        for piece in path:
            if not hasattr(owner, piece):
                owner.add_module(piece, nn.Module())
            owner = owner.get_submodule(piece)
        owner.register_parameter(leaf, None)


def test_plain_names_stay() -> None:
    assert torch_names(["encoder.layer.0.weight", "/conv/W:0"]) == {
        "encoder.layer.0.weight": "encoder.layer.0.weight",
        "/conv/W:0": "/conv/W:0",
    }

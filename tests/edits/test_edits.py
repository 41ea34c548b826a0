"""Value edits on every kind of module that makes them hard."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lissom import edits
from lissom.codec.tensors import Quantized
from lissom.errors import ModelRefused, UsageError
from lissom.grids import Affine, Codebook, Half, MinMax
from lissom.network import Network


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).mean(1))


def some_mask(tensor: Tensor, seed: int = 0) -> Tensor:
    return torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed)) > 0.5


def test_tied_weights_stay_tied_through_an_edit_a_copy_and_a_bake() -> None:
    network = Network(Tied(), (torch.tensor([[0, 1], [2, 3]]),))
    edited = edits.copy(network)
    module = edited.module
    mask = some_mask(module.head.weight)
    edit = edits.attach(module, "head.weight", mask=mask)
    assert edits.edit_of(module, "embedding.weight") is edit
    assert edits.latent(module, "embedding.weight") is edits.latent(module, "head.weight")
    assert list(edits.edited(module)) == ["embedding.weight"]
    assert [name for name, _ in edits.weights(module)] == ["embedding.weight"]
    assert edits.aliases(module)["head.weight"] == ("embedding.weight", "head.weight")

    duplicate = edits.copy(edited).module
    assert edits.latent(duplicate, "embedding.weight") is edits.latent(duplicate, "head.weight")
    assert edits.edit_of(duplicate, "embedding.weight") is edits.edit_of(duplicate, "head.weight")
    assert edits.edit_of(duplicate, "head.weight") is not edit

    stored = edits.tensors(module)
    assert stored["head.weight"] is stored["embedding.weight"]
    edits.bake(module)
    assert module.head.weight is module.embedding.weight
    assert bool((module.head.weight[~mask] == 0).all())


def test_tied_gradients_add_up_under_an_edit() -> None:
    plain, edited = Tied(), Tied()
    edited.load_state_dict(plain.state_dict())
    edits.attach(edited, "embedding.weight", mask=torch.ones(5, 4, dtype=torch.bool))
    tokens = torch.tensor([[0, 1], [2, 3]])
    for module in (plain, edited):
        with parametrize.cached():
            module(tokens).square().sum().backward()
    assert torch.equal(plain.head.weight.grad, edits.latent(edited, "head.weight").grad)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_cells_are_edited_copied_and_baked_after_a_forward_pass(kind: type[nn.Module]) -> None:
    module = kind(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    network = Network(module, (torch.randn(2, 5, 3),))
    before = network.outputs(*network.example_inputs)[0]
    edited = edits.copy(network)
    for name, parameter in edits.weights(edited.module):
        edits.attach(edited.module, name, mask=some_mask(parameter))
    after = edited.outputs(*edited.example_inputs)[0]
    assert not torch.equal(before, after)

    duplicate = edits.copy(edited)
    assert torch.equal(after, duplicate.outputs(*edited.example_inputs)[0])
    assert torch.equal(after, edited.outputs(*edited.example_inputs)[0])
    with torch.no_grad():
        edits.latent(duplicate.module, "weight_ih_l0").add_(1)
    assert not torch.equal(after, duplicate.outputs(*edited.example_inputs)[0])
    assert torch.equal(after, edited.outputs(*edited.example_inputs)[0])

    baked = edits.bake(edits.copy(edited).module)
    # Other addresses may take other kernels, which sum in another order.
    assert torch.allclose(after, Network(baked, edited.example_inputs).outputs(*edited.example_inputs)[0], rtol=0, atol=1e-6)
    assert sorted(baked.state_dict()) == sorted(module.state_dict())
    assert torch.equal(before, network.outputs(*network.example_inputs)[0])


def test_recurrent_training_moves_the_latent_weights() -> None:
    module = nn.LSTM(3, 4)
    module(torch.randn(5, 2, 3))
    mask = some_mask(module.weight_ih_l0)
    edits.attach(module, "weight_ih_l0", mask=mask)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    before = edits.value(module, "weight_ih_l0").clone()
    module(torch.randn(5, 2, 3))[0].square().sum().backward()
    optimizer.step()
    after = edits.value(module, "weight_ih_l0")
    assert bool((after[~mask] == 0).all())
    assert not torch.equal(before[mask], after[mask])


def test_a_layer_called_twice_gets_both_gradients() -> None:
    module = nn.Linear(3, 3, bias=False)
    x = torch.randn(4, 3)
    module(module(x)).sum().backward()
    expected = module.weight.grad.clone()
    module.zero_grad()
    edits.attach(module, "weight", mask=torch.ones(3, 3, dtype=torch.bool))
    with parametrize.cached():
        module(module(x)).sum().backward()
    assert torch.equal(edits.latent(module, "weight").grad, expected)


def test_state_keeps_the_users_keys_and_values() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(3))
    module(torch.randn(2, 1, 5, 5))
    plain = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    edits.attach(module, "0.weight", grid=Affine.fit(module[0].weight, bits=4), mask=some_mask(module[0].weight))
    edits.attach(module, "3.weight", grid=Codebook(torch.tensor([0.5, -0.5]), torch.zeros(3, 18)))
    state = edits.state_dict(module)
    assert state.keys() == plain.keys()
    for name, tensor in plain.items():
        assert torch.equal(state[name], tensor if name not in ("0.weight", "3.weight") else edits.value(module, name))
    assert edits.bake(module).state_dict().keys() == plain.keys()


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal])
def test_the_users_own_parametrizations_are_left_alone(wrap: object) -> None:
    module = nn.Sequential(wrap(nn.Linear(4, 4)), nn.Linear(4, 2))
    network = Network(module, (torch.randn(2, 4),))
    expected, keys = network.outputs(*network.example_inputs)[0], list(module.state_dict())
    edited = edits.copy(network)
    assert edits.selected(edited.module) == ["1.weight"]
    edits.attach(edited.module, "1.weight", mask=torch.ones(2, 4, dtype=torch.bool))
    assert sorted(edits.state_dict(edited.module)) == sorted(keys)
    assert torch.equal(edits.copy(edited).outputs(*network.example_inputs)[0], expected)
    baked = edits.bake(edits.copy(edited).module)
    assert sorted(baked.state_dict()) == sorted(keys)
    assert torch.equal(Network(baked, network.example_inputs).outputs(*network.example_inputs)[0], expected)
    with pytest.raises(ModelRefused, match="of its own"):
        edits.attach(edited.module, "0.weight", mask=torch.ones(4, 4, dtype=torch.bool))


def test_masked_weights_are_positive_zero_whatever_comes_first() -> None:
    weight = torch.tensor([[-1.5, 2.0, -0.25, 0.75]])
    mask = torch.tensor([[False, True, False, True]])
    for grid in (None, Affine.fit(weight, bits=4), MinMax.fit(weight, bits=2), Half(torch.float16)):
        for mask_first in (True, False):
            module = nn.Linear(4, 1, bias=False)
            module.weight.data = weight.clone()
            edits.attach(module, "weight", **({"mask": mask} if mask_first else {"grid": grid}))
            edits.attach(module, "weight", **({"grid": grid} if mask_first else {"mask": mask}))
            value = edits.value(module, "weight")
            assert value[~mask].view(torch.int32).tolist() == [0, 0]
            stored = edits.tensors(module)["weight"]
            dense = stored.dense() if isinstance(stored, Quantized) else stored
            assert np.array_equal(dense.astype(np.float32).view(np.int32), value.numpy().view(np.int32))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    seed=st.integers(0, 99),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    channels=st.booleans(),
    group=st.sampled_from([None, 1, 2, 3]),
)
def test_levels_are_the_values_bit_for_bit(
    rows: int, columns: int, seed: int, bits: int, symmetric: bool, channels: bool, group: int | None
) -> None:
    generator = torch.Generator().manual_seed(seed)
    module = nn.Linear(columns, rows, bias=False)
    module.weight.data = torch.randn(rows, columns, generator=generator) * 10.0 ** (seed % 7 - 3)
    fitted = Affine.fit(module.weight, bits=bits, symmetric=symmetric, channel_axis=0 if channels else None, group=group)
    edits.attach(module, "weight", grid=fitted, mask=some_mask(module.weight, seed))
    dense = edits.quantized(module, "weight").dense()
    assert dense.tobytes() == edits.value(module, "weight").numpy().tobytes()
    expected = edits.value(module, "weight").clone()
    assert torch.equal(edits.bake(module).weight, expected)


def test_masks_only_grow() -> None:
    module = nn.Linear(4, 4)
    first, second = some_mask(module.weight, 1), some_mask(module.weight, 2)
    edits.attach(module, "weight", mask=first)
    edit = edits.attach(module, "weight", mask=second)
    assert torch.equal(edit.mask, first & second)


def test_a_codebook_shared_by_layers_stays_shared_in_a_copy() -> None:
    network = Network(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), (torch.zeros(2, 3),))
    edited = edits.copy(network)
    table = nn.Parameter(torch.tensor([0.5, -0.5]))
    for name in ("0.weight", "1.weight"):
        edits.attach(edited.module, name, grid=Codebook(table, torch.zeros(3, 3)))
    module = edits.copy(edited).module
    first, second = (edits.edit_of(module, name).grid.table for name in ("0.weight", "1.weight"))
    assert first is second
    assert first is not table


def test_a_copy_trains_alone() -> None:
    network = Network(nn.Sequential(nn.Linear(3, 3)), (torch.randn(2, 3),))
    edited = edits.copy(network)
    edits.attach(edited.module, "0.weight", grid=Codebook(torch.tensor([0.5, -0.5]), torch.eye(3)))
    module = edits.copy(edited).module
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(network.example_inputs[0]).square().sum().backward()
    optimizer.step()
    assert edits.edit_of(edited.module, "0.weight").grid.table.tolist() == [0.5, -0.5]
    assert edits.edit_of(module, "0.weight").grid.table.tolist() != [0.5, -0.5]


def test_training_resumes_from_a_state_dict_of_torch() -> None:
    def edited() -> nn.Module:
        module = nn.Linear(3, 3)
        edits.attach(
            module, "weight", mask=torch.ones(3, 3, dtype=torch.bool), grid=Affine(torch.ones(1, 1), torch.zeros(1, 1), -7, 7)
        )
        return module

    source, target = edited(), edited()
    edits.attach(source, "weight", mask=some_mask(torch.zeros(3, 3)))
    target.load_state_dict(source.state_dict())
    assert torch.equal(edits.value(source, "weight"), edits.value(target, "weight"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    module = nn.Linear(4, 3).to(dtype)
    edits.attach(module, "weight", grid=Affine.fit(module.weight, bits=5), mask=some_mask(module.weight))
    assert module.weight.dtype is dtype
    module(torch.randn(2, 4, dtype=dtype)).sum().backward()
    assert edits.latent(module, "weight").grad.dtype is dtype
    stored = edits.tensors(module)["weight"].dense()
    assert str(stored.dtype) == str(dtype).removeprefix("torch.")
    assert np.array_equal(stored.astype(np.float64), edits.value(module, "weight").double().numpy())


def test_what_cannot_be_edited_is_refused_by_name() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r"0\.weight has shape \[3\]; the tensor has \[2, 2\]"):
        edits.attach(module, "0.weight", mask=torch.ones(3, dtype=torch.bool))
    assert edits.edit_of(module, "0.weight") is None
    with pytest.raises(ModelRefused, match=r"no parameter '0\.wait'"):
        edits.attach(module, "0.wait", mask=torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ModelRefused, match="no module '7'"):
        edits.attach(module, "7.weight")
    edits.attach(module, "0.weight", grid=Half(torch.float16))
    with pytest.raises(UsageError, match="already takes its values from a Half"):
        edits.attach(module, "0.weight", grid=Half(torch.float16))
    with pytest.raises(UsageError, match="no levels"):
        edits.quantized(module, "0.weight")


def test_globs_pick_tensors_by_name_or_module() -> None:
    module = nn.ModuleDict({"conv1": nn.Conv2d(1, 2, 3), "fc": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2)})
    assert edits.selected(module) == ["conv1.weight", "fc.weight"]
    assert edits.selected(module, exclude=("conv*",)) == ["fc.weight"]
    assert (
        edits.selected(module, ("fc",)) == edits.selected(module, ("fc*",)) == edits.selected(module, ("fc.*",)) == ["fc.weight"]
    )
    assert edits.selected(module, ("fc", "fc.b*")) == ["fc.weight", "fc.bias"]
    with pytest.raises(UsageError, match="no matrix and no kernel matches 'norm'"):
        edits.selected(module, ("norm",))
    assert edits.selected(module, ("*.weight",), ("norm",)) == ["conv1.weight", "fc.weight"]
    with pytest.raises(UsageError, match=r"no parameter matches 'conv9\*'"):
        edits.selected(module, ("conv9*",))

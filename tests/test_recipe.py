"""Recipe: equal to its YAML for every step and every deploy value; one line in words; anything else one sentence."""

from __future__ import annotations

import dataclasses

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import lissom
from lissom.errors import LissomError, UsageError
from lissom.job import Named, Step, step, steps_by_name
from lissom.recipe import Recipe, import_steps

import_steps()

SHARES = st.floats(0, 0.99, allow_nan=False)
GLOBS = st.lists(st.sampled_from(["conv*", "*.weight", "fc?", "é*", "a: b", "- x", "#1"]), max_size=3).map(tuple)
DECAYS = st.builds(lissom.PolynomialDecay, initial=st.just(0.0), final=SHARES, begin=st.floats(0, 0.4), end=st.floats(0.5, 1))
PRUNING = st.one_of(
    st.builds(
        lissom.PruneWeights,
        sparsity=st.one_of(SHARES, st.dictionaries(st.sampled_from(["conv*", "fc1", "*"]), SHARES, min_size=1)),
        importance=st.sampled_from(["magnitude", "gradient", "taylor", "fisher", "saliency", "entropy"]),
        include=GLOBS,
        exclude=GLOBS,
    ),
    st.builds(lissom.PruneWeights, schedule=DECAYS, allocation=st.sampled_from(["uniform", "global", "lamp", "own"])),
)
STEPS = st.one_of(
    PRUNING,
    st.builds(lissom.ShareWeights, bits=st.integers(1, 8), include=GLOBS),
    st.builds(lissom.QuantizeWeights, bits=st.integers(2, 8), granularity=st.sampled_from(["tensor", "channel", 16])),
    st.builds(
        lissom.Finetune,
        epochs=st.integers(1, 99),
        learning_rate=st.floats(1e-6, 1),
        optimizer=st.builds(
            lissom.Optimizer, name=st.sampled_from(["Adam", "SGD"]), options=st.just({"weight_decay": 1e-4}), warmup=SHARES
        ),
        distill=st.none() | st.builds(lissom.Distill, temperature=st.floats(0.5, 9), weight=SHARES),
        during=st.none() | st.builds(lissom.PruneWeights, schedule=DECAYS),
        patience=st.none() | st.integers(1, 5),
    ),
    st.builds(lissom.PruneChannels, macs=st.floats(0.1, 0.9), multiple=st.integers(1, 8)),
)
DEPLOYS = st.builds(
    lissom.Deploy,
    target=st.sampled_from(["this-machine", "onnxruntime-cpu", "openvino", "portable"]),
    precision=st.sampled_from(["float32", "int8"]),
    types=st.sampled_from(["auto", "U8S8", "S8S8"]),
    ranges=st.sampled_from(["auto", "minmax", "kl"]),
    keep_float=GLOBS,
)


@given(st.lists(STEPS, max_size=4), DEPLOYS)
def test_a_recipe_equals_its_yaml(steps, deploy):
    recipe = Recipe(tuple(steps), deploy)
    text = recipe.to_yaml()
    assert Recipe.from_yaml(text) == recipe
    assert Recipe.from_yaml(text).to_yaml() == text


@given(st.lists(STEPS, max_size=3), DEPLOYS)
def test_words_are_one_line_of_python_that_makes_the_steps_again(steps, deploy):
    words = Recipe(tuple(steps), deploy).in_words()
    assert "\n" not in words
    if steps or deploy != lissom.Deploy():
        names = {name: getattr(lissom, name) for name in lissom.__all__ if name[0].isupper()}
        made = eval(f"({words},)", names)
        assert made == (*steps, *([] if deploy == lissom.Deploy() else [deploy]))
    else:
        assert words == "as it is"


def test_every_step_is_public_and_known_to_recipes():
    assert set(steps_by_name) - {"Scale"} <= {*lissom.__all__, "L1Regularise"}
    for name in ("PruneWeights", "PruneChannels", "PruneHeads", "PruneLayers", "ShareWeights", "QuantizeWeights", "Finetune"):
        assert name in steps_by_name


def test_fields_at_their_defaults_are_left_out():
    content = yaml.safe_load(Recipe((lissom.Finetune(epochs=2),)).to_yaml())
    assert content == {"version": 1, "steps": [{"Finetune": {"epochs": 2}}], "deploy": {}}


def triple(values):
    return 3 * values


def test_callables_stand_in_yaml_as_module_and_name(monkeypatch, tmp_path):
    (tmp_path / "my_scaling_module.py").write_text("def double(values):\n    return 2 * values\n")
    monkeypatch.chdir(tmp_path)

    try:

        @step
        class Scale(Step):
            by: Named

        recipe = Recipe.from_yaml("steps:\n- Scale: {by: 'my_scaling_module:double'}\n")
        assert recipe.steps[0].by(4) == 8
        assert yaml.safe_load(recipe.to_yaml())["steps"] == [{"Scale": {"by": "my_scaling_module:double"}}]
        assert Recipe.from_yaml(recipe.to_yaml()) == recipe
        assert recipe.in_words() == "Scale(by=my_scaling_module:double)"
        with pytest.raises(LissomError, match="no module 'not_there'"):
            Recipe.from_yaml("steps:\n- Scale: {by: 'not_there:double'}\n")
    finally:
        steps_by_name.pop("Scale", None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("steps: [", "not valid YAML"),
        ("- PruneWeights", "has the keys version, steps and deploy"),
        ("version: 9\nsteps: []", "has version 9; this lissom reads version 1"),
        ("steps:\n- Shrink: {}", r"no step is called 'Shrink'; there are .*Finetune"),
        ("steps:\n- PruneWeights: {sparsity: 1.5}", r"PruneWeights: sparsity.* is 1\.5"),
        ("steps:\n- PruneWeights: {sparsety: 0.5}", "PruneWeights: sparsety"),
        ("steps:\n- {PruneWeights: {}, Finetune: {}}", "is no step"),
        ("deploy: {precision: int5}", "Deploy: precision is 'int5'"),
        ("steps: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("recipe: {}", "has the keys"),
        ("steps: 3", "steps"),
        ("deploy: 3", "deploy"),
        ("steps:\n- PruneWeights: [0.5]", r"PruneWeights: \[0\.5\] are no fields"),
        ("steps:\n- PruneWeights: {3: 0.5}", "are no fields"),
    ],
)
def test_what_is_no_recipe_is_refused(text, told):
    with pytest.raises(UsageError, match=told):
        Recipe.from_yaml(text)


def test_of_takes_recipes_steps_dictionaries_and_files(tmp_path):
    recipe = Recipe((lissom.QuantizeWeights(bits=4),))
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.of(recipe) is recipe
    assert Recipe.of([lissom.QuantizeWeights(bits=4)]) == recipe
    assert Recipe.of([{"QuantizeWeights": {"bits": 4}}]) == recipe
    assert Recipe.of(tmp_path / "recipe.yaml") == Recipe.of(str(tmp_path / "recipe.yaml")) == recipe
    with pytest.raises(UsageError, match="no recipe file"):
        Recipe.of(tmp_path / "none.yaml")
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    for unreadable in (tmp_path, tmp_path / "recipe.yaml"):
        with pytest.raises(UsageError, match="is no recipe that can be read"):
            Recipe.of(unreadable)


def test_steps_run_in_order_each_in_a_folder_of_its_own(classifier, job, tmp_path):
    recipe = Recipe((lissom.PruneWeights(sparsity=0.5), lissom.Finetune(epochs=1), lissom.ShareWeights(bits=2)))
    made = recipe.apply(classifier, dataclasses.replace(job, checkpoints=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    values = made.module[0].weight
    assert float((values == 0).float().mean()) >= 0.5
    assert values.unique().numel() <= 5

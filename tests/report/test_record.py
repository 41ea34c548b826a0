"""The record: it goes to JSON and back exactly, holds nothing that JSON cannot, and its published schema is true of it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lissom.errors import InputRefused
from lissom.report.record import (
    SCHEMA_VERSION,
    Bytes,
    Latency,
    Limit,
    MetricFigures,
    Percentiles,
    Record,
    histograms,
    json_schema,
)

PUBLISHED = Path(__file__).parents[2] / "docs" / "result.schema.json"


def test_records_survive_json_exactly(minimal, full):
    for record in (minimal, full):
        assert Record.from_json(record.to_json()) == record


def test_json_is_valid_by_the_published_schema(minimal, full):
    validator = jsonschema.Draft202012Validator(json.loads(PUBLISHED.read_text(encoding="utf-8")))
    for record in (minimal, full):
        validator.validate(json.loads(record.to_json()))


def test_published_schema_is_the_one_of_the_types():
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == json_schema()


def test_schema_refuses_what_the_types_refuse(full):
    content = json.loads(full.to_json())
    content["bytes"]["source"] = -1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json_schema())
    with pytest.raises(InputRefused, match=r"bytes\.source"):
        Record.from_json(json.dumps(content))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_no_figure_may_be_nan_or_infinite(bad):
    with pytest.raises(ValueError, match="finite"):
        MetricFigures(name="accuracy", unit="share", split="test", n=2, before=bad, after=1.0, drop=0.0)
    with pytest.raises(ValueError, match="finite"):
        Percentiles(p10=bad, p50=1.0)
    with pytest.raises(ValueError, match="finite"):
        Limit(name="max_size", limit=bad, met=False)


def test_nan_deep_in_the_recipe_is_refused_too(full):
    record = type(full)(**(vars(full) | {"recipe": {"steps": [{"Finetune": {"rate": float("nan")}}]}}))
    with pytest.raises(ValueError, match="JSON"):
        record.to_json()


def test_infinite_standard_error_is_unknown():
    figures = MetricFigures(
        name="accuracy", unit="share", split="test", n=1, before=1.0, after=1.0, drop=0.0, standard_error=float("inf")
    )
    assert figures.standard_error is None


def test_numpy_scalars_become_plain_numbers(minimal):
    sizes = Bytes(source=np.int64(12), onnx=np.int32(3))
    record = type(minimal)(**(vars(minimal) | {"bytes": sizes, "seconds": np.float32(0.5)}))
    content = json.loads(record.to_json())
    assert content["bytes"]["source"] == 12
    assert content["seconds"] == 0.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not the JSON"),
        ('{"schema_version": 1, "seconds": NaN}', "NaN is no JSON number"),
        ("[1]", "schema version None"),
        ('{"schema_version": 2}', f"reads version {SCHEMA_VERSION}"),
        ('{"schema_version": 1}', "Field required"),
        (b"\xff\xfe\x00", "is not the JSON"),
    ],
)
def test_what_is_no_result_is_refused_with_the_reason(text, reason):
    with pytest.raises(InputRefused, match=reason):
        Record.from_json(text)


def test_unknown_fields_are_refused(minimal):
    content = json.loads(minimal.to_json()) | {"accuracy": 1}
    with pytest.raises(InputRefused, match="accuracy"):
        Record.from_json(json.dumps(content))


def test_latency_must_be_above_zero():
    with pytest.raises(ValueError, match="greater than 0"):
        Latency(
            runtime="onnxruntime",
            threads=1,
            batch=1,
            before_ms=Percentiles(p10=1.0, p50=1.0),
            after_ms=Percentiles(p10=0.0, p50=1.0),
            ratio=1.0,
            runs=200,
            cpu="",
        )


def test_the_file_that_ships_decides_the_bytes(full):
    shipped = {ship: type(full)(**(vars(full) | {"ship": ship})).shipped_bytes for ship in ("archive", "onnx", "weights")}
    assert shipped == {"archive": 38_911, "onnx": 312_400, "weights": 35_204}


def test_the_chosen_trial_is_the_kept_one(minimal, full):
    assert minimal.chosen is None
    assert full.chosen is not None
    assert full.chosen.kept


values = arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(-1e6, 1e6, width=32))


@settings(deadline=None, derandomize=True)
@given(values, values, st.integers(1, 60))
def test_histograms_count_every_value_once_on_one_range(before, after, bins):
    pair = histograms(before, after, bins)
    for histogram, counted in zip(pair, (before, after), strict=True):
        assert sum(histogram.counts) + histogram.zeros == counted.size
        assert histogram.zeros == (counted == 0).sum()
        assert len(histogram.counts) == bins
    assert (pair[0].low, pair[0].high) == (pair[1].low, pair[1].high)

"""The reader against the ONNX project's own node tests: what passed once passes for good."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("onnx_conformance", Path(__file__).with_name("conformance.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
conformance = importlib.util.module_from_spec(_SPEC)
sys.modules.setdefault("onnx_conformance", conformance)
_SPEC.loader.exec_module(conformance)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    return {name: conformance.passes(name) for name in conformance.counted()}


def test_every_node_test_that_is_not_listed_passes(outcomes: dict[str, str]) -> None:
    failed = {name: why for name, why in outcomes.items() if why and name not in conformance.LISTED["not_passed"]}
    assert not failed


def test_the_list_names_only_tests_that_fail(outcomes: dict[str, str]) -> None:
    listed = conformance.LISTED["not_passed"]
    assert {name for name in listed if not outcomes.get(name)} == set(), "passes now, or is gone: take it off the list"


def test_at_least_99_percent_pass(outcomes: dict[str, str]) -> None:
    assert sum(not why for why in outcomes.values()) / len(outcomes) >= 0.99


def test_what_is_left_out_holds_a_loop_or_is_random() -> None:
    reasons = set(conformance.LISTED["left_out"].values())
    assert reasons <= {"Loop", "Scan", "random"}
    assert set(conformance.LISTED["left_out"]) <= set(conformance.node_tests())

"""Small rules by ATen operator: which axes a call ties, splits, joins or fixes. Adding an operator is one function."""

from lissom.graph.rules import contractions, creation, elementwise, normalisation, recurrent, selection, shapes, spatial
from lissom.graph.rules.table import Axes, Call, Written, operator_name, rule, rules

__all__ = [
    "Axes", "Call", "Written", "contractions", "creation", "elementwise", "normalisation", "operator_name", "recurrent", "rule",
    "rules", "selection", "shapes", "spatial",
]  # fmt: skip

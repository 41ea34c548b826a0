"""Data: samples with or without labels, in four splits, from any of the doors."""

from lissom.data.checks import Fitted
from lissom.data.doors import example_inputs, load_data
from lissom.data.images import Images
from lissom.data.samples import Arrays, Batch, Items, Samples
from lissom.data.splits import Data, Split

__all__ = ["Arrays", "Batch", "Data", "Fitted", "Images", "Items", "Samples", "Split", "example_inputs", "load_data"]

"""The captured graph: axes, coupled groups, slicing, cost."""

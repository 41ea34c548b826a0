"""Pruning: remove what a network does not need, single weights or whole structures."""

"""Quantization: weights on grids of few values."""

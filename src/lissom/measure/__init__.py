"""Measuring: metrics, latency, sizes, and the machine that measured."""

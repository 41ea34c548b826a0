"""Calibration: everything learnt by running data through a network."""

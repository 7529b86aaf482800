"""Calibration of a machine: short measurements from which the duration of any job on it is estimated."""

"""Devices, number formats, memory, processes and threads that the engine computes with."""

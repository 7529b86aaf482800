"""The engine: a library and a program that turns recordings into a voice. It imports nothing of the server.

The modules at the top import no torch; every room may import them, and so may server, worker and client. A room imports
only rooms below it, from top to bottom: cli, pipeline, training, evaluation, conversion, index and voices, data,
content and pitch, checkpoints, models and report, weights and audio, compute, workspace.
"""

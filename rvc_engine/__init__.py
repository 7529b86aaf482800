"""The engine: a library and a program that makes a voice from recordings. It imports nothing of the server.

The modules at the top import no torch; every room, server, worker and client may import them. A room imports only rooms
below it, from top to bottom: cli, pipeline, training, evaluation, conversion, index and voices, data, content and
pitch, checkpoints, models and report, weights and audio, compute, workspace.
"""

"""The worker: claims jobs, runs the engine for each in a child process, and reports to the job store. Without torch.

Rooms import only rooms below them: the loop, a job's run and its supervision at the top, then engine, reporting and
hardware.
"""

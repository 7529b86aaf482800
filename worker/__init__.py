"""The worker: claims jobs, runs the engine in a child process for each, and reports to the job store. No torch here.

Rooms import only rooms below them: the loop and a job's run at the top, then engine, reporting and hardware.
"""

"""`make bench`: all figures, as JSON lines."""

import subprocess
import sys

for module in ("benchmarks.pitch_estimators", "benchmarks.training_step", "benchmarks.service_load"):
    subprocess.run([sys.executable, "-m", module], check=True)  # each in a process of its own: no shared warm-up

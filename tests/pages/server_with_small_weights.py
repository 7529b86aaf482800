"""`python -m server` with a catalogue of small weights: `python server_with_small_weights.py CATALOGUE`."""

import runpy
import sys
from pathlib import Path

from rvc_engine.weights import catalogue

catalogue.PUBLISHED_WEIGHTS = Path(sys.argv.pop(1))
runpy.run_module("server", run_name="__main__", alter_sys=True)

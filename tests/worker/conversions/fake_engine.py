"""Engine of conversions for tests of its supervision: on a GPU it works until ended, on the CPU it copies samples.

Where the file `oom` lies beside the voice, a GPU has too little memory; where `crash` does, the engine ends in each
request, and with `crash once` in the first.
"""

import os
import sys
import time

from rvc_engine.conversion.messages import (
    Convert,
    Converted,
    Converting,
    Failed,
    VoiceReady,
    format_message,
    parse_request,
)

on_gpu = any(word.startswith("--device=cuda") for word in sys.argv)
for line in sys.stdin:
    request = parse_request(line)
    if not isinstance(request, Convert):
        continue

    def say(reply: object) -> None:
        print(format_message(reply), flush=True)  # type: ignore[arg-type]

    say(VoiceReady(id=request.id, was_loaded=False, seconds=0.0))
    say(Converting(id=request.id, share=0.5))
    folder = request.voice.parent
    if (folder / "crash").exists() or (folder / "crash once").exists():
        (folder / "crash once").unlink(missing_ok=True)
        os._exit(7)
    if on_gpu and (folder / "oom").exists():
        say(Failed(id=request.id, code="gpu_out_of_memory", message="no memory"))
        continue
    while on_gpu and (folder / "slow").exists():
        time.sleep(0.05)
    request.target.write_bytes(request.samples.read_bytes())
    say(Converted(id=request.id, seconds=1.0, sample_rate=16_000, pitch_shift=float(request.threads or 0)))

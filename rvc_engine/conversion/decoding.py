"""Decoding of one recording of any format to the samples that conversion takes, in a process of its own. No torch.

    python -m rvc_engine.conversion.decoding RECORDING FOLDER MAX_SECONDS

The recording is a stranger's: the process is confined, and its result is plain numbers, which need no parser. It is no
command of `rvc-engine`, whose imports take longer than the work here.
"""

import sys
from pathlib import Path

import numpy as np

from rvc_engine.audio.reading import AudioStream, UnreadableAudio, read_twice_if_needed
from rvc_engine.conversion.messages import DECODED, SAMPLES, Decoded
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE

SHORTEST_SECONDS = 0.1
"""Shorter ones hold no syllable."""

SILENT_PEAK = 1e-3
"""Largest sample, full scale being 1, of a recording without sound: a muted microphone's noise is below -60 dB."""


class _TooLong(Exception):
    """The recording is longer than allowed."""


def decode_to_folder(source: Path, folder: Path, max_seconds: float) -> None:
    """Write SAMPLES and DECODED; an unusable recording is no error here, DECODED names its fault. Raises OSError."""
    samples = folder / SAMPLES

    def read(stream: AudioStream) -> Decoded:
        num_samples, peak = 0, 0.0
        with samples.open("wb") as file:
            for block in stream.mono(ANALYSIS_SAMPLE_RATE):
                num_samples += len(block)
                if num_samples > max_seconds * ANALYSIS_SAMPLE_RATE:
                    raise _TooLong
                peak = max(peak, float(np.abs(block).max(initial=0)))
                file.write(block.astype("<f4").tobytes())
        seconds = num_samples / ANALYSIS_SAMPLE_RATE
        return Decoded(seconds=seconds, error=_fault(seconds, peak), notes=stream.notes)

    try:
        result = read_twice_if_needed(source, read)
    except UnreadableAudio as error:
        result = Decoded(error=f"the recording cannot be read: {error}")
    except _TooLong:
        result = Decoded(
            error=f"the recording is longer than the {max_seconds / 60:g} minutes that are allowed here; split it"
        )
    (folder / DECODED).write_text(result.model_dump_json(), encoding="utf-8")


def _fault(seconds: float, peak: float) -> str | None:
    if seconds < SHORTEST_SECONDS:
        return f"the recording is only {seconds:.2f} s long; use one of at least {SHORTEST_SECONDS:g} s"
    if peak < SILENT_PEAK:
        return "the recording is silent; check the microphone, and record again"
    return None


if __name__ == "__main__":
    decode_to_folder(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))

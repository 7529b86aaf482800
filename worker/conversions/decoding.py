"""Decoding of strangers' recordings in a confined child process, with the limits of `server.datasets.sandbox`."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from pydantic import ValidationError

from rvc_engine.child_processes import program_environment, python_command
from rvc_engine.conversion.messages import DECODED, SAMPLES, Decoded
from rvc_engine.environment.files import read_plain_file
from rvc_engine.environment.processes import NO_INPUT, ProcessGroup

logger = structlog.get_logger(__name__)

MEMORY_BYTES = 2 * 2**30
MAX_BYTES_PER_SECOND = 16_000 * 4
_SPARE_SECONDS = 60
_POLL_SECONDS = 0.02
MAX_RESULT_BYTES = 64 * 2**20
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_LOG = "decoder.log"
UNREADABLE = "the recording cannot be decoded: it broke the decoder, or took too much time or memory; convert it to WAV"


def decode(source: Path, folder: Path, private: Path, max_seconds: float, tick: Callable[[], None]) -> Decoded:
    """Decode a recording into an empty folder, without access to the rest of the folder `private`. Raises OSError.

    `tick` is called meanwhile, and ends it by an error.
    """
    seconds = int(max_seconds) + _SPARE_SECONDS  # a decoder is many times faster than real time
    limits = map(str, (seconds, MEMORY_BYTES, seconds * MAX_BYTES_PER_SECOND))
    sandbox = python_command("server.datasets.sandbox", *limits, str(private), str(folder))
    program = python_command("rvc_engine.conversion.decoding", str(source), str(folder), str(max_seconds))
    environment = program_environment(os.environ) | _THREADS | {"MALLOC_ARENA_MAX": "2"}
    with (folder / _LOG).open("wb") as log:
        output = log.fileno()
        child = ProcessGroup([*sandbox, *program], environment, stdin=NO_INPUT, stdout=output, stderr=output)
    deadline = time.monotonic() + seconds
    try:
        while child.poll() is None and time.monotonic() < deadline:
            tick()
            time.sleep(_POLL_SECONDS)
    finally:
        child.end_group()
        child.wait()
    try:
        result = Decoded.model_validate_json(read_plain_file(folder / DECODED, MAX_RESULT_BYTES))
        if result.error is None and not stat.S_ISREG((folder / SAMPLES).lstat().st_mode):
            raise OSError(SAMPLES)  # a decoder that was taken over may leave a link
    except (OSError, ValidationError) as error:
        tail = read_plain_file(folder / _LOG, MAX_RESULT_BYTES)[-2000:].decode(errors="replace")
        logger.warning("a recording was not decoded", status=child.returncode, reason=str(error), output=tail)
        return Decoded(error=UNREADABLE)
    return result

"""`rvc-engine serve-conversions`: a process that converts one recording after the other and keeps voices loaded."""

import io
import os
import queue
import sys
import threading
import time
import traceback
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from rvc_engine.compute.accelerators import empty_cache, limit_memory, reserved_bytes
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.conversion.converter import Analysis, ConversionOptions, Converter
from rvc_engine.conversion.formats import check_suffix, write_audio
from rvc_engine.conversion.messages import (
    CANCELLED,
    Cancel,
    Convert,
    Converted,
    Converting,
    Failed,
    Reply,
    VoiceReady,
    format_message,
    parse_request,
)
from rvc_engine.environment.processes import lower_priority
from rvc_engine.errors import EngineError, FailureCode, InvalidDataset, StopRequested
from rvc_engine.machine import Machine

MAX_VOICES = 2
"""Voices that stay loaded: one may be compared with another, or one save with the next."""


class _Cancelled(Exception):
    """The request was cancelled."""


class _Input:
    """Requests from standard input, read by a thread so that a cancellation reaches a running conversion."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[Convert | None] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        self.is_over = False
        """Whether standard input has ended: the worker has ended, or asks for the end of this process."""
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def next(self) -> Convert | None:
        """The next request, waited for; None at the end of standard input."""
        return self._requests.get()

    def check(self, request: Convert) -> None:
        """Raise _Cancelled or StopRequested when the request must end."""
        if self.is_over:
            raise StopRequested
        if request.id in self._cancelled:
            raise _Cancelled

    def _read(self) -> None:
        # Not sys.stdin: a thread blocked in its buffer makes the interpreter abort at exit.
        rest = b""
        with suppress(OSError):
            while block := os.read(0, 65_536):
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    self._take(line.decode(errors="replace"))
        self.is_over = True
        self._requests.put(None)

    def _take(self, line: str) -> None:
        match parse_request(line):
            case Cancel(id=number):
                self._cancelled.add(number)
            case Convert() as request:
                self._requests.put(request)
            case None:
                print(line[:200], file=sys.stderr)  # noqa: T201 - the worker's log has what is not a request


_Key = tuple[tuple[str, int, int] | None, ...]


class LoadedVoices:
    """The voices used last, by the identity of their files."""

    def __init__(self, analysis: Analysis) -> None:
        self.device = analysis.device
        self._analysis = analysis
        self._converters: OrderedDict[_Key, Converter] = OrderedDict()

    def get(self, request: Convert) -> tuple[Converter, bool]:
        """The converter of the requested voice, and whether it was loaded already. Raises as `Converter`."""
        voice, index = request.voice, request.index
        key = (_identity(voice), None if index is None else _identity(index))
        was_loaded = key in self._converters
        if not was_loaded:
            while len(self._converters) >= MAX_VOICES:  # before the next is loaded, so that both need no room
                self._converters.popitem(last=False)
            self._converters[key] = Converter(voice, index, self._analysis, request.sample_rate, request.content)
        self._converters.move_to_end(key)
        return self._converters[key], was_loaded

    def clear(self) -> None:
        """Drop all voices and return the device's memory."""
        self._converters.clear()
        empty_cache()


def _identity(path: Path) -> tuple[str, int, int] | None:
    """Path, time of change and size of a file; None when it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path), status.st_mtime_ns, status.st_size


def serve(machine: Machine, device: torch.device, memory_bytes: int | None = None) -> None:
    """Serve requests until standard input ends. `memory_bytes`: the most memory of a GPU that is taken."""
    lower_priority()
    if isinstance(sys.stdout, io.TextIOWrapper):  # JSON is UTF-8, whatever a pipe's encoding on this system
        sys.stdout.reconfigure(encoding="utf-8")
    if memory_bytes is not None:
        limit_memory(device, memory_bytes)
    requests, voices = _Input(), LoadedVoices(Analysis(machine, device))
    num_threads = torch.get_num_threads()
    with suppress(StopRequested, OSError):  # of a closed output: the worker has ended
        while (request := requests.next()) is not None:
            torch.set_num_threads(request.threads or num_threads)
            _send(_serve_one(request, requests, voices))


def _serve_one(request: Convert, requests: _Input, voices: LoadedVoices) -> Reply:
    """Serve a request; returns its last event. Raises StopRequested."""
    try:
        return _convert(request, requests, voices)
    except _Cancelled:
        return Failed(id=request.id, code=CANCELLED, message="cancelled")
    except EngineError as error:
        return Failed(id=request.id, code=error.code, message=str(error))
    except Exception as error:  # noqa: BLE001 (the next request may be served)
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            voices.clear()
            message = "the device has too little memory left for this conversion"
            return Failed(id=request.id, code=FailureCode.GPU_OUT_OF_MEMORY, message=message)
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        message = f"an unexpected error occurred ({reason}); the log has the details; please report it"
        return Failed(id=request.id, code=FailureCode.INTERNAL, message=message)


def _convert(request: Convert, requests: _Input, voices: LoadedVoices) -> Converted:
    requests.check(request)
    check_suffix(request.target)
    started = time.monotonic()
    converter, was_loaded = voices.get(request)
    _send(VoiceReady(id=request.id, was_loaded=was_loaded, seconds=time.monotonic() - started))
    options = ConversionOptions(
        None if request.pitch_shift == "auto" else request.pitch_shift,
        request.index_rate,
        request.protect,
        request.rms_mix_rate,
        request.pitch,
        converter.find_speaker(request.speaker),
        request.seed,
    )

    def progress(share: float) -> None:
        requests.check(request)
        _send(Converting(id=request.id, share=share))

    try:
        wave = np.fromfile(request.samples, "<f4")
    except OSError as error:
        raise InvalidDataset(f"the decoded recording cannot be read: {error.strerror}") from error
    output = converter.convert(wave.astype(np.float32, copy=False), options, progress)
    requests.check(request)
    write_audio(request.target, output.samples, converter.sample_rate)
    empty_cache()
    return Converted(
        id=request.id,
        seconds=len(output.samples) / converter.sample_rate,
        sample_rate=converter.sample_rate,
        pitch_shift=output.key_shift,
        held_bytes=reserved_bytes(voices.device),
    )


def _send(reply: Reply) -> None:
    sys.stdout.write(format_message(reply) + "\n")
    sys.stdout.flush()

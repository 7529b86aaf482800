"""Recordings that are damaged, or lie: the report's child refuses or reads each, within its memory and its time.

Many files go to one child, as they do in a dataset: one that crashed it would take the others with it.
"""

import io
import json
import math
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import psutil
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from rvc_engine.audio.reading import LOUDEST, MAX_CHANNELS, MAX_SAMPLE_RATE, MAX_SECONDS
from tests.systems import peak_bytes

MIB = 2**20
RATE = 16_000
MAX_RESIDENT_BYTES = 400 * MIB
"""Address space of the child, of which its libraries take about 130 MB."""


def tone(seconds: float = 1.0) -> Any:
    """A quiet note."""
    return (0.3 * np.sin(np.arange(int(seconds * RATE)) * 0.1)).astype(np.float32)


def good_files() -> dict[str, bytes]:
    """The same note in every container that people send."""
    made = {}
    for name, container, subtype in (
        ("wav", "WAV", "PCM_16"),
        ("float wav", "WAV", "FLOAT"),
        ("adpcm wav", "WAV", "MS_ADPCM"),
        ("flac", "FLAC", "PCM_16"),
        ("ogg", "OGG", "VORBIS"),
        ("opus", "OGG", "OPUS"),
        ("mp3", "MP3", "MPEG_LAYER_III"),
        ("aiff", "AIFF", "PCM_16"),
        ("caf", "CAF", "PCM_16"),
        ("w64", "W64", "PCM_16"),
        ("au", "AU", "PCM_16"),
    ):
        buffer = io.BytesIO()
        soundfile.write(buffer, tone(), RATE, format=container, subtype=subtype)
        made[name] = buffer.getvalue()
    for name, container, codec in (("m4a", "mp4", "aac"), ("mka", "matroska", "aac"), ("aac", "adts", "aac")):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container) as target:
            stream = target.add_stream(codec, rate=RATE)
            stream.layout = "mono"
            samples = (tone() * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            target.mux(stream.encode(frame))
            target.mux(stream.encode(None))
        made[name] = buffer.getvalue()
    return made


GOOD = good_files()
_numbers = st.sampled_from([0, 1, 2, 3, 7, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1])
_MAGICS = (
    b"RIFF",
    b"fLaC",
    b"OggS",
    b"ID3\x04\x00",
    b"\xff\xfb",
    b"FORM",
    b"caff",
    b"\x1aE\xdf\xa3",
    b"\0\0\0\x20ftypM4A ",
)


@st.composite
def hostile_recordings(draw: st.DrawFn) -> bytes:
    """A good file that is cut, flipped, made to lie, doubled or mixed with another; or noise that begins like one."""
    kind = draw(st.sampled_from(["cut", "flipped", "lying", "lying", "lying", "mixed", "noise"]))
    if kind == "noise":
        return draw(st.sampled_from(_MAGICS)) + draw(st.binary(max_size=300))
    content = bytearray(GOOD[draw(st.sampled_from(sorted(GOOD)))])
    if kind == "cut":
        return bytes(content[: draw(st.integers(0, len(content)))])
    if kind == "mixed":
        other, middle = GOOD[draw(st.sampled_from(sorted(GOOD)))], draw(st.integers(0, len(content)))
        return bytes(content[:middle]) + other + bytes(content[middle:])
    # Headers are at the start of most formats; MP4 may have its own at the end.
    places = st.integers(0, min(len(content), 700) - 5) | st.integers(max(len(content) - 900, 0), len(content) - 5)
    for place in draw(st.lists(places, min_size=1, max_size=4)):
        if kind == "flipped":
            content[place] ^= draw(st.integers(1, 255))
        else:
            form = draw(st.sampled_from(["<I", ">I", "<H", ">H"]))
            packed = struct.pack(form, draw(_numbers) % 2 ** (8 * struct.calcsize(form)))
            content[place : place + len(packed)] = packed
    return bytes(content)


@dataclass(frozen=True)
class Looked:
    """Output of the report's child, and its memory."""

    report: dict[str, Any]
    seconds: float
    resident_bytes: int


def look_at(folder: Path, contents: list[bytes]) -> Looked:
    """Run the report program on files of these contents, limited as the server limits it."""
    recordings = folder / "recordings"
    recordings.mkdir(parents=True)
    rows = [{"path": f"{number:06d}.audio", "name": f"{number}"} for number in range(len(contents))]
    for row, content in zip(rows, contents, strict=True):
        (recordings / row["path"]).write_bytes(content)
    (recordings / "recordings.json").write_text(json.dumps({"files": rows}))
    output = folder / "report" / "report.json"
    output.parent.mkdir()
    limits = [str(each) for each in (60, 4096 * MIB, 64 * MIB, folder, output.parent)]
    command = [sys.executable, "-m", "server.datasets.sandbox", *limits, sys.executable, "-m", "rvc_engine", "report"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    begin, resident = time.monotonic(), 0
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [*command, str(recordings), "--output", str(output)], stdout=log, stderr=log, env=environment
        )
        while child.poll() is None:
            resident = max(resident, highest_resident_bytes(child.pid))
            time.sleep(0.005)
    words = (folder / "log").read_text(errors="replace")[-3000:]
    assert child.returncode == 0, f"exit code {child.returncode}: {words}"
    return Looked(json.loads(output.read_text()), time.monotonic() - begin, resident)


def highest_resident_bytes(pid: int) -> int:
    """The most that a process has had in memory since it became the program it is."""
    try:
        return peak_bytes(pid)
    except (FileNotFoundError, ProcessLookupError, StopIteration, psutil.Error):
        return 0


def check_said(looked: Looked, contents: list[bytes]) -> None:
    """It reports every file, in finite numbers, or in a sentence on why it could not be read."""
    assert len(looked.report["files"]) == len(contents)
    for file in looked.report["files"]:
        if file["error"] is not None:
            assert file["error"].isprintable()
            assert len(file["error"]) > 5
            continue
        assert 0 < file["seconds"] <= MAX_SECONDS
        assert 1 <= file["channels"] <= MAX_CHANNELS
        assert 0 < file["sample_rate"] <= MAX_SAMPLE_RATE
        assert 0 <= file["peak"] <= LOUDEST
        assert 0 <= file["clipped_share"] <= 1
        assert all(math.isfinite(value) for value in file.values() if isinstance(value, float))
    assert looked.resident_bytes < MAX_RESIDENT_BYTES, f"{looked.resident_bytes / MIB:.0f} MiB"


@settings(max_examples=2, deadline=None, derandomize=True)
@given(contents=st.lists(hostile_recordings(), min_size=60, max_size=60))
def test_hostile_recordings_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]
) -> None:
    looked = look_at(tmp_path_factory.mktemp("hostile"), contents)
    check_said(looked, contents)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(max_examples=200, deadline=None)
@given(contents=st.lists(hostile_recordings(), min_size=60, max_size=60))
def test_thousands_of_hostile_recordings_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]
) -> None:
    check_said(look_at(tmp_path_factory.mktemp("hostile"), contents), contents)


def wav(
    *, rate: int = RATE, channels: int = 1, bits: int = 16, declared: int = 0, data: bytes = b"", form: int = 1
) -> bytes:
    """A WAV file with an arbitrary header. `declared`: bytes of sound according to it."""
    frame = max(channels * bits // 8, 1) & 0xFFFF
    body = struct.pack("<4sIHHIIHH", b"fmt ", 16, form, channels, rate, (rate * frame) & 0xFFFFFFFF, frame, bits)
    body += struct.pack("<4sI", b"data", declared) + data
    return struct.pack("<4sI4s", b"RIFF", (len(body) + 4) & 0xFFFFFFFF, b"WAVE") + body


def liars() -> dict[str, bytes]:
    """Small files whose headers promise, or whose compression yields, far too much."""
    noise = np.random.default_rng(0).integers(-3000, 3000, RATE, dtype=np.int16).tobytes()
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((20 * 60 * 1000, 4), np.int16), 1000, format="FLAC")
    silence = buffer.getvalue()
    many_samples = bytearray(GOOD["flac"])
    many_samples[21:26] = b"\x0f\xff\xff\xff\xff"
    m4a = bytearray(GOOD["m4a"])
    for atom in (b"stsz", b"stts", b"stsc", b"stco"):
        at = m4a.find(atom)
        m4a[at + 8 : at + 16] = b"\0\0\0\x01\x7f\xff\xff\xff"
    return {
        "4 GB of sound declared": wav(declared=0xFFFFFFFF, data=noise),
        "no sound declared": wav(declared=0, data=noise),
        "rate 0": wav(rate=0, declared=len(noise), data=noise),
        "rate 4 GHz": wav(rate=0xFFFFFFFF, declared=len(noise), data=noise),
        "65535 channels": wav(channels=0xFFFF, declared=len(noise), data=noise),
        "no channels": wav(channels=0, declared=len(noise), data=noise),
        "65535 bits": wav(bits=0xFFFF, declared=len(noise), data=noise),
        "an unknown format": wav(form=0x4242, declared=len(noise), data=noise),
        "20 minutes of silence in 4 channels": silence,
        "64 thousand million samples, it says": bytes(many_samples),
        "tables of two thousand million entries": bytes(m4a),
        "nothing but ID3": b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + bytes(1000),
        "a million empty pages": GOOD["ogg"] + (b"OggS\0\0" + bytes(21)) * 40_000,
        "a playlist": b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
        "a list of files": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "a page": b"<html><audio src='http://127.0.0.1/'></html>",
        "a program": b"\x7fELF" + bytes(500),
    }


def test_headers_that_promise_too_much_cost_no_memory_and_little_time(tmp_path: Path) -> None:
    made = liars()
    looked = look_at(tmp_path, list(made.values()))
    check_said(looked, list(made.values()))
    reported = dict(zip(made, looked.report["files"], strict=True))
    assert reported["20 minutes of silence in 4 channels"]["seconds"] == pytest.approx(1200)
    assert reported["4 GB of sound declared"]["seconds"] == pytest.approx(1, abs=0.01)
    for what in ("rate 0", "rate 4 GHz", "65535 channels", "no channels", "a playlist", "a list of files", "a picture"):
        assert reported[what]["error"] is not None, what
    assert looked.seconds < 30
    print(f"the child's peak was {looked.resident_bytes / MIB:.0f} MiB, and it took {looked.seconds:.1f} s")


def test_a_dataset_of_liars_is_examined_by_a_real_server_which_stays_small(
    started: Callable[..., Any],
    zipped: Callable[..., bytes],
    tmp_path: Path,
    eventually: Callable[..., None],
    authorized: dict[str, str],
) -> None:
    child, url = started(is_measured=True)
    members = {f"{number}.wav": content for number, content in enumerate([*list(liars().values())[:8], *GOOD.values()])}
    with httpx.Client(base_url=url, timeout=60, headers=authorized) as client:
        dataset = client.put("/v1/datasets/liars/content", content=zipped(members)).json()
        eventually(lambda: client.get(f"/v1/datasets/{dataset['id']}").json()["status"] in {"ready", "invalid"}, 60)
        found = client.get(f"/v1/datasets/{dataset['id']}").json()
        assert (found["status"], found["num_usable"]) == ("ready", found["num_usable"])
        assert found["num_usable"] >= len(GOOD)
        assert len(client.get(f"/v1/datasets/{dataset['id']}/report").json()["files"]) == len(members)
    assert highest_resident_bytes(child.pid) < 200 * MIB
    assert not list((tmp_path / "data" / "incoming").iterdir())

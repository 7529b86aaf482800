"""Zips as strangers with bad intentions, or broken programs, make them: each is refused or cleanly read.

The server takes them over HTTP; nothing may appear outside its storage, nothing stay behind of what it refused, and its
memory and its child's stay bounded. Recordings are tried in `test_hostile_recordings.py`.
"""

import io
import json
import re
import stat
import struct
import threading
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MIB = 2**20

_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_KINDS = (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK)

_CENTRAL_FIELDS = {"flags": 8, "method": 10, "crc": 16, "packed": 20, "size": 24, "name length": 28, "extra": 30}
_CENTRAL_FIELDS |= {"comment": 32, "disk": 34, "attributes": 38, "offset": 42}
_LOCAL_FIELDS = {"flags": 6, "method": 8, "crc": 14, "packed": 18, "size": 22, "name length": 26, "extra": 28}
_END_FIELDS = {"disk": 4, "count here": 8, "count": 10, "size": 12, "offset": 16, "comment": 20}
_RECORDS = {_LOCAL: _LOCAL_FIELDS, _CENTRAL: _CENTRAL_FIELDS, _END: _END_FIELDS}


@dataclass(frozen=True)
class Entry:
    """A member of a zip to be made."""

    name: str
    content: bytes
    kind: int = 0
    method: int = zipfile.ZIP_DEFLATED
    extra: bytes = b""


@dataclass(frozen=True)
class HostileZip:
    """Description of the file, for the messages of a failing test."""

    entries: list[Entry]
    lies: list[tuple[bytes, str, int]] = field(default_factory=list)
    before: bytes = b""
    after: bytes = b""
    kept: float = 1.0
    flipped: list[int] = field(default_factory=list)

    def content(self) -> bytes:
        """The zip's bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a duplicate name is intended here
            for entry in self.entries:
                archive.writestr(_info(entry), entry.content, entry.method)
        whole = bytearray(buffer.getvalue())
        for magic, name, value in self.lies:
            at = whole.find(magic) + _RECORDS[magic][name]
            if at < len(whole) - 4:
                wide = name in {"crc", "packed", "size", "attributes", "offset"}
                whole[at : at + (4 if wide else 2)] = struct.pack(
                    "<I" if wide else "<H", value % 2 ** (32 if wide else 16)
                )
        for place in self.flipped:
            whole[place % len(whole)] ^= 0x41
        return self.before + bytes(whole[: int(len(whole) * self.kept)]) + self.after


def _info(entry: Entry) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename = entry.name  # not by the constructor, which cuts at a null character
    info.external_attr = (entry.kind | 0o644) << 16
    info.extra = entry.extra
    info.compress_type = entry.method
    return info


def _nested() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.wav", b"RIFF")
    return buffer.getvalue()


_words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
_harm = st.sampled_from(
    [
        *(
            "../up.wav",
            "a/../../up.wav",
            "..\\up.wav",
            "/etc/up.wav",
            "\\\\host\\share\\up.wav",
            "C:/up.wav",
            "C:up.wav",
        ),
        *("~/up.wav", "./a.wav", "a//b.wav", "a/./b.wav", "..", ".", "/", "a/", "CON.wav", "aux", "a.wav/"),
        *("a.wav/b.wav", "recordings.json", "000001.wav", "a\n.wav", "a\r\x1b[2J.wav", "a\u202egnp.wav", "\ufeff.wav"),
        *(
            "x" * 5000 + ".wav",
            "inner.zip",
            "a.tar.gz",
            "a.wav.zip",
            ".hidden.wav",
            "__MACOSX/a.wav",
            "a.WAV",
            "a.wav.",
        ),
        *("a.wav ", "a;b|c&d.wav", "语音.wav", "声\u0301.mp3", "العربية.flac", "नमस्ते.ogg", "🎤.m4a"),
    ]
)
_names = st.one_of(
    _harm, st.builds(lambda word, end: f"{word}{end}", _words, st.sampled_from([".wav", ".mp3", "", ".txt"]))
)
_contents = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([_nested(), b"/etc/passwd", bytes(200_000), b"RIFF" + bytes(60), b""]),
)
_entries = st.builds(
    Entry,
    name=_names,
    content=_contents,
    kind=st.sampled_from([0, 0, 0, *_KINDS]),
    method=st.sampled_from([zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, 14]),
    extra=st.sampled_from([b"", b"", b"\x01\x00\x10\x00" + b"\xff" * 16, b"\x75\x70\x05\x00\x01abcd", b"\x01"]),
)
_numbers = st.one_of(
    st.sampled_from([0, 1, 2, 8, 12, 14, 99, 0x800, 0x801, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**30]),
    st.integers(0, 2**32 - 1),
)
_lies = st.sampled_from([(magic, name) for magic, fields in _RECORDS.items() for name in fields])


@st.composite
def hostile_zips(draw: st.DrawFn) -> HostileZip:
    """A zip of up to five odd members; often one thing more is wrong with it, seldom several."""
    entries = draw(st.lists(_entries, min_size=1, max_size=5))
    wrong = draw(st.sets(st.sampled_from(["lies", "cut", "flipped", "before", "after"]), max_size=2))
    lies = draw(st.lists(st.tuples(_lies, _numbers), min_size=1, max_size=3)) if "lies" in wrong else []
    return HostileZip(
        entries=entries,
        lies=[(magic, name, number) for (magic, name), number in lies],
        before=draw(st.binary(max_size=40)) if "before" in wrong else b"",
        after=draw(st.binary(max_size=40)) if "after" in wrong else b"",
        kept=draw(st.floats(0, 1)) if "cut" in wrong else 1.0,
        flipped=draw(st.lists(st.integers(0, 2**20), max_size=4)) if "flipped" in wrong else [],
    )


# What the server does with them


@dataclass(frozen=True)
class Place:
    """A server, and the folder around its data folder."""

    client: httpx.Client
    home: Path

    @property
    def data(self) -> Path:
        """Folders that the server may write to."""
        return self.home / "data"

    def outside(self) -> dict[str, int]:
        """Every file around the data folder, with the time of its last change."""
        found = (path for path in self.home.rglob("*") if not path.is_relative_to(self.data))
        return {str(path): path.lstat().st_mtime_ns for path in found}

    def datasets(self) -> set[str]:
        """Folders of datasets."""
        return {path.name for path in (self.data / "datasets").glob("*")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, serve_for_module: Any) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("home")
    (home / "up.wav").write_bytes(b"not to be touched")
    limits = {"max_files": 20, "max_file_bytes": MIB, "max_unpacked_bytes": 2 * MIB}
    with serve_for_module(home / "data", **limits) as server, server.client() as client:
        server.context.dataset_validator.stop()  # it works in the folder that must be empty after each upload
        yield Place(client, home)


def check_taken(place: Place, dataset: dict[str, Any]) -> None:
    """Every unpacked file has a generated name and is listed in the manifest."""
    folder = place.data / "datasets" / dataset["id"] / "recordings"
    rows = json.loads((folder / "recordings.json").read_bytes())["files"]
    stored = {path.name for path in folder.iterdir()}
    assert stored == {row["path"] for row in rows} | {"recordings.json"}
    assert all(path.is_file() and not path.is_symlink() and path.stat().st_size <= MIB for path in folder.iterdir())
    for number, name in enumerate(sorted(stored - {"recordings.json"}), start=1):
        assert re.fullmatch(rf"{number:06d}([.][a-z0-9]{{1,5}})?", name)
    assert len(rows) == dataset["num_files"] <= 20


@settings(max_examples=150, deadline=None, derandomize=True)
@given(made=hostile_zips())
def test_a_hostile_zip_is_refused_or_read_and_touches_nothing_else(place: Place, made: HostileZip) -> None:
    send_and_check(place, made)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=hostile_zips())
def test_ten_thousand_hostile_zips_are_refused_or_read(place: Place, made: HostileZip) -> None:
    send_and_check(place, made)


def send_and_check(place: Place, made: HostileZip) -> None:
    outside, before = place.outside(), place.datasets()
    answer = place.client.put("/v1/datasets/anna/content", content=made.content())
    new = place.datasets() - before
    if answer.is_success:
        assert answer.status_code in {200, 201}
        assert new <= {answer.json()["id"]}
        check_taken(place, answer.json())
        place.client.delete(f"/v1/datasets/{answer.json()['id']}")
    else:
        assert answer.status_code in {413, 422}, answer.text
        assert answer.json()["detail"].isprintable(), answer.json()["detail"]
        assert not new
    assert place.outside() == outside
    assert not list((place.data / "uploads").iterdir())


# Memory


def deflated(size: int) -> bytes:
    """Zeros as a raw deflate stream, made in small pieces."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = bytes(MIB)
    return b"".join([*(packer.compress(piece) for _ in range(size // MIB)), packer.flush()])


def zip_of_one(packed: bytes, told_size: int, name: bytes = b"a.wav", copies: int = 1) -> bytes:
    """A zip whose directory declares any size of a member; `copies` entries point to the same bytes."""
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 0, 0, len(packed), told_size, len(name), 0) + name
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, 0, len(packed), told_size, len(name), 0, 0, 0, 0, 0, 0
    )
    directory = (entry + name) * copies
    count = min(copies, 0xFFFF)
    start = len(local) + len(packed)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0)
    return local + packed + directory + end


def bombs() -> dict[str, bytes]:
    """Small files that would be large."""
    half_gib = deflated(512 * MIB)
    return {
        "it says 512 MiB and is": zip_of_one(half_gib, 512 * MIB),
        "it says 1000 bytes and is 512 MiB": zip_of_one(half_gib, 1000),
        "it says 60 MiB and is 512": zip_of_one(half_gib, 60 * MIB),
        "it says 4 GiB": zip_of_one(half_gib, 0xFFFFFFFE),
        "half a million entries for the same bytes": zip_of_one(half_gib[:1000], 1000, copies=500_000),
        "a directory of one entry's 60 kB name, 900 times": zip_of_one(b"", 0, b"n" * 60_000, copies=900),
        "64 MB of what is no zip": b"PK\x03\x04" + bytes(64 * 10**6),
        "64 MB of ends of directories": b"PK\x03\x04" + b"PK\x05\x06" * (16 * 10**6),
    }


class Watch:
    """The highest memory of a process while it is looked at."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.peak = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._is_over.wait(0.005):
            self.peak = max(self.peak, self._process.memory_info().rss)


def test_bombs_are_refused_quickly_and_cost_the_server_no_memory(
    started: Callable[..., Any], tmp_path: Path, authorized: dict[str, str]
) -> None:
    child, url = started(is_measured=True)
    with Watch(child.pid) as watch, httpx.Client(base_url=url, timeout=60, headers=authorized) as client:
        assert client.get("/v1/datasets").status_code == 200
        for what, content in bombs().items():
            begin = time.monotonic()
            answer = client.put("/v1/datasets/bomb/content", content=content)
            assert answer.status_code in {413, 422}, (what, answer.text)
            assert time.monotonic() - begin < 20, what
            assert not list((tmp_path / "data" / "uploads").iterdir()), what
    assert watch.peak < 200 * MIB, f"{watch.peak / MIB:.0f} MiB"
    print(f"the server's peak was {watch.peak / MIB:.0f} MiB")

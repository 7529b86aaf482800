"""Limits of the program that reads untrusted recordings."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rvc_engine.environment.files import read_plain_file
from server.datasets import landlock
from server.datasets.sandbox import _except
from tests.systems import IS_WINDOWS, links

CALL = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 3).close(); print('reached')"


def limited(
    *program: str, folder: Path | None = None, cpu: int = 5, memory: int = 2**31, size: int = 10**6, code: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run Python in the sandbox. `folder`: the data folder. `code`: Python that runs in its process before."""
    data = folder or Path("/nonexistent")
    limits = [str(each) for each in (cpu, memory, size, data, data / "incoming" / "here")]
    start = ["-c", f"{code}\nimport sys; from server.datasets.sandbox import main; main(sys.argv[1:])"]
    command = [sys.executable, *start, *limits, sys.executable, *program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """A data folder with a database, two datasets, and a folder for the report on the first."""
    data = tmp_path / "data"
    for folder in ("datasets/mine", "datasets/theirs", "incoming/here"):
        (data / folder).mkdir(parents=True)
    for file in ("rvc-train.db", "datasets/mine/a.wav", "datasets/theirs/a.wav"):
        (data / file).write_text("content")
    return data


USE = """
import os, pathlib, sys
data = pathlib.Path(sys.argv[1]).parents[1]
def can(use):
    try: use()
    except OSError: return 0
    return 1
mine, theirs, database = (data / name for name in ("datasets/mine/a.wav", "datasets/theirs/a.wav", "rvc-train.db"))
print(*map(can, (
    mine.read_text, (data / "incoming/here/report").touch, lambda: __import__("wave"),
    database.read_text, theirs.read_text, lambda: theirs.write_text(""), lambda: mine.write_text(""), theirs.unlink,
    (data / "new").touch, lambda: os.link(mine, data / "incoming/here/link"), lambda: open("/etc/hosts"),
    lambda: open(f"/proc/{os.getppid()}/environ"), lambda: os.symlink(database, data / "incoming/here/link"),
    lambda: os.mkfifo(data / "incoming/here/pipe"),
)))
"""
"""What a decoder that was taken over tries; its argument is its dataset."""


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_it_reads_its_dataset_and_writes_its_report_and_gets_at_nothing_else_of_the_data_folder(
    data_folder: Path,
) -> None:
    done = limited("-c", USE, str(data_folder / "datasets" / "mine"), folder=data_folder)
    assert done.stdout == "1 1 1 0 0 0 0 0 0 0 0 0 0 0\n", done.stderr


@pytest.mark.skipif(IS_WINDOWS, reason="Landlock is of Linux")
def test_on_a_system_without_landlock_it_runs_without(data_folder: Path) -> None:
    without = "import server.datasets.landlock as landlock; landlock.version = lambda: 0"
    done = limited("-c", USE, str(data_folder / "datasets" / "mine"), folder=data_folder, code=without)
    assert done.stdout.startswith("1 1 1 1 1 1"), done.stderr


@pytest.mark.skipif(landlock.version() < 4, reason="this kernel's Landlock does not restrict TCP")
def test_without_namespaces_it_still_connects_to_nobody(data_folder: Path) -> None:
    without = f"{NO_NAMESPACE}; sandbox.seccomp.restrict = lambda: False"
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = limited("-c", CALL, str(server.getsockname()[1]), folder=data_folder, code=without)
    assert "PermissionError" in done.stderr


NO_NAMESPACE = "import server.datasets.sandbox as sandbox; sandbox.leave_the_network = lambda: False"
REFUSED = """
import os, pathlib, resource, socket, sys, threading
data, parent = pathlib.Path(sys.argv[1]).parents[1], os.getppid()
theirs, shared = data / "datasets/theirs/a.wav", socket.SOCK_DGRAM
def can(use):
    try: use()
    except PermissionError: return 0
    return 1
print(*map(can, (
    lambda: resource.getrlimit(resource.RLIMIT_NOFILE), socket.socketpair, threading.Thread(target=int).start,
    lambda: socket.socket(socket.AF_INET, shared).sendto(b"x", ("127.0.0.1", 9)),
    lambda: socket.socket(socket.AF_UNIX).connect(str(data / "socket")), lambda: socket.socket(socket.AF_NETLINK, 3),
    lambda: theirs.chmod(0o777), lambda: os.chown(theirs, os.getuid(), -1), lambda: os.utime(theirs, (0, 0)),
    lambda: os.setxattr(theirs, "user.name", b""), lambda: os.truncate(theirs, 0), lambda: os.kill(parent, 0),
    lambda: os.setpriority(os.PRIO_PROCESS, parent, 19), lambda: os.sched_setaffinity(parent, {0}),
    lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE, (3, 3)),
)))
"""
"""What the other means leave open: three things that any program does, then what only one that was taken over tries."""


@pytest.fixture
def has_filter() -> None:
    code = "import sys; from server.datasets import seccomp; sys.exit(not seccomp.restrict())"
    if subprocess.run([sys.executable, "-c", code], check=False).returncode:
        pytest.skip("this system has no seccomp")


@pytest.mark.usefixtures("has_filter")
def test_without_namespaces_it_sends_nothing_to_anyone_and_changes_no_mode_of_a_file_or_limit_of_a_process(
    data_folder: Path,
) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(data_folder / "socket"))
        listening.listen()
        done = limited("-c", REFUSED, str(data_folder / "datasets" / "mine"), folder=data_folder, code=NO_NAMESPACE)
    assert done.stdout == "1 1 1" + " 0" * 12 + "\n", done.stderr
    assert (data_folder / "datasets/theirs/a.wav").stat().st_mode & 0o777 != 0o777


@pytest.mark.usefixtures("has_filter")
def test_calls_of_another_architecture_are_refused_too() -> None:
    """`int 0x80` of a 64-bit program is a 32-bit call, with other numbers: 20 there is `getpid`."""
    if os.uname().machine != "x86_64":
        pytest.skip("there is no such call here")
    code = (
        "import ctypes, mmap, sys; from server.datasets import seccomp\n"
        "memory = mmap.mmap(-1, 4096, prot=7); memory.write(bytes.fromhex('53b814000000cd805bc3'))\n"
        "call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))\n"
        "before = call(); seccomp.restrict(); print(before > 0, call())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == -11:
        pytest.skip("this kernel has no 32-bit calls")
    assert done.stdout.split()[1:] == ["-1"], done


@links
def test_a_report_is_read_from_a_plain_file_and_neither_through_a_link_nor_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "report")
    os.mkfifo(tmp_path / "pipe")
    assert read_plain_file(tmp_path / "report", 100) == b"{}"
    for name in ("link", "pipe", "nothing"):
        with pytest.raises(OSError, match=name):
            read_plain_file(tmp_path / name, 100)


def test_a_data_folder_beside_the_libraries_is_not_among_them(tmp_path: Path) -> None:
    for folder in ("lib/python", "srv/data/jobs", "srv/weights"):
        (tmp_path / folder).mkdir(parents=True)
    rules = dict(_except(str(tmp_path), str(tmp_path / "srv" / "data")))
    assert {Path(path).relative_to(tmp_path).as_posix(): rights for path, rights in rules.items()} == {
        ".": landlock.LIST,
        "lib": landlock.READ,
        "srv": landlock.LIST,
        "srv/data": landlock.LIST,
        "srv/weights": landlock.READ,
    }


@pytest.mark.sqlite  # whose file is tried
@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_the_report_on_an_uploaded_dataset_is_made_under_these_limits(
    serve: Any, tmp_path: Path, zipped: Any, eventually: Any
) -> None:
    program = tmp_path / "report.py"
    program.write_text(
        "import json, pathlib, sys\n"
        "data = pathlib.Path(sys.argv[1]).parents[2]\n"
        "assert list(pathlib.Path(sys.argv[1]).glob('*.json'))\n"
        "try: (data / 'rvc-train.db').read_bytes(); reason = 'read it'\n"
        "except PermissionError: reason = 'could not read it'\n"
        "pathlib.Path(sys.argv[3]).write_text(json.dumps({'usable': False, 'reason': reason}))\n"
    )
    with serve(tmp_path / "data", report_command=[sys.executable, str(program)]) as server, server.client() as http:
        content = zipped({"a.wav": b"RIFF" + bytes(1000)})
        made = http.put("/v1/datasets/a/content", content=content).json()
        eventually(lambda: http.get(f"/v1/datasets/{made['id']}").json()["status"] == "invalid")
        assert http.get(f"/v1/datasets/{made['id']}").json()["reason"] == "could not read it"


def namespaces_are_allowed() -> bool:
    """Asked of a child, as the answer changes who asks."""
    code = "import sys; from server.datasets.sandbox import leave_the_network; sys.exit(not leave_the_network())"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_can_call_nobody_where_the_system_allows_that() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert (
            subprocess.run([sys.executable, "-c", CALL, port], capture_output=True, check=False).stdout == b"reached\n"
        )
        code = "import server.datasets.sandbox as sandbox; sandbox.seccomp.restrict = lambda: False"
        is_reached = "reached" in limited("-c", CALL, port, code=code).stdout
        assert is_reached is not (namespaces_are_allowed() or landlock.version() >= 4)


def test_it_still_reads_and_writes_files_of_its_user(tmp_path: Path) -> None:
    output = tmp_path / "incoming" / "here"
    output.mkdir(parents=True)
    (tmp_path / "in").write_text("words")
    code = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(pathlib.Path(sys.argv[2]).read_text())"
    done = limited("-c", code, str(output / "out"), str(tmp_path / "in"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (output / "out").read_text() == "words"
    assert IS_WINDOWS or (output / "out").stat().st_uid == os.getuid()


@pytest.mark.skipif(IS_WINDOWS, reason="limits of POSIX; the tests of job objects are those of processes")
@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("while True: pass", ""),
        ("x = bytearray(2**33)", "MemoryError"),
        ("import tempfile; f = tempfile.TemporaryFile(); f.write(bytes(2 * 10**6)); f.flush()", "File too large"),
    ],
)
def test_it_may_take_so_much_time_memory_and_disk_and_no_more(data_folder: Path, code: str, error: str) -> None:
    done = limited("-c", code, cpu=1, folder=data_folder)
    assert done.returncode != 0
    assert error in done.stderr

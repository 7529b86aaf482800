"""Limits of the program that reads untrusted recordings."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

CALL = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 3).close(); print('reached')"


def limited(*program: str, cpu: int = 5, memory: int = 2**31, size: int = 10**6) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "server.datasets.sandbox",
        str(cpu),
        str(memory),
        str(size),
        sys.executable,
        *program,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


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
        is_reached = "reached" in limited("-c", CALL, port).stdout
        assert is_reached is not namespaces_are_allowed()


def test_it_still_reads_and_writes_files_of_its_user(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("words")
    code = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); (p / 'out').write_text((p / 'in').read_text())"
    done = limited("-c", code, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_text() == "words"
    assert (tmp_path / "out").stat().st_uid == os.getuid()


@pytest.mark.parametrize(
    "code", ["while True: pass", "x = bytearray(2**33)", "open('/dev/shm/big', 'wb').write(bytes(2 * 10**6))"]
)
def test_it_may_take_so_much_time_memory_and_disk_and_no_more(code: str) -> None:
    assert limited("-c", code, cpu=1).returncode != 0
    Path("/dev/shm/big").unlink(missing_ok=True)

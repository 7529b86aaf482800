"""All tests of the server once more, on PostgreSQL; except those of SQLite's own ways."""

import os
import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_all_tests_of_the_server_pass_on_postgresql(postgres: Any) -> None:
    environment = os.environ | {"RVC_TRAIN_TEST_POSTGRES": postgres.new_database()}
    done = run(
        [sys.executable, "-m", "pytest", "-q", "tests/server"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()[-10_000:]

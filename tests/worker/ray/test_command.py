"""`rvc-train ray`: what it says without Ray, and of wrong labels."""

import os
from importlib.util import find_spec

import pytest

from tests.programs import run_program

SERVER = ("--server", "http://127.0.0.1:9")


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_it_says_what_to_install() -> None:
    done = run_program("rvc_train.cli.main", "ray", *SERVER, environment=dict(os.environ))
    assert done.returncode == 2
    assert "the dispatcher is not installed here; install it with: pip install" in done.stderr
    assert "[ray]" in done.stderr


def test_a_label_without_a_value_is_refused() -> None:
    done = run_program("rvc_train.cli.main", "ray", *SERVER, "--label", "large", environment=dict(os.environ))
    assert done.returncode == 2
    assert "KEY=VALUE" in done.stderr

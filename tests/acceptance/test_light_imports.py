"""What importing the light packages may not bring along."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "scipy", "faiss", "transformers", "av", "soundfile", "onnxruntime")


@pytest.mark.parametrize(
    "modules",
    [
        "worker.__main__, worker.loop, worker.job_run",
        "rvc_train.cli.main, rvc_train.client, rvc_train.cli.commands.demo, rvc_train.cli.services",
    ],
)
def test_importing_worker_and_client_leaves_torch_and_numpy_out(modules):
    code = f"import sys; import {modules}; print(*sorted(sys.modules.keys() & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_importing_the_client_leaves_database_and_server_libraries_out():
    libraries = {"sqlalchemy", "sqlmodel", "fastapi"}
    code = f"import sys; import rvc_train.cli.main; print(*sorted(sys.modules.keys() & {libraries}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_importing_the_worker_without_its_local_gateway_leaves_the_database_out():
    libraries = {"sqlalchemy", "sqlmodel", "psycopg", "alembic", "fastapi", "server.database"}
    code = f"""
import importlib, pkgutil, sys, worker
for module in pkgutil.walk_packages(worker.__path__, "worker."):
    if module.name not in {{"worker.gateway.local", "worker.ray.cluster"}}:  # the latter needs Ray
        importlib.import_module(module.name)
print("worker.loop" in sys.modules, *sorted(sys.modules.keys() & {libraries}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"

"""The server's memory is small because it leaves the heavy libraries alone."""

import subprocess
import sys

FORBIDDEN = ("torch", "numpy", "scipy", "av", "soundfile", "soxr", "faiss", "transformers", "alembic")


def test_importing_the_whole_server_leaves_heavy_libraries_out():
    code = f"import sys, server.__main__; print([name for name in {FORBIDDEN!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"


def test_wire_shapes_need_neither_the_web_framework_nor_the_database():
    code = (
        "import sys, rvc_train.schemas; print([n for n in ('fastapi', 'sqlalchemy', 'sqlmodel') if n in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"

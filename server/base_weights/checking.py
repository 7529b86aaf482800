"""Check of weights in a confined child process: the files are of strangers, and PyTorch reads them.

The child has no network, reads the two files and writes its result; see `server.datasets.sandbox`.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
from pydantic import ValidationError

from rvc_engine.child_processes import program_environment, python_command
from rvc_engine.environment.files import read_plain_file
from rvc_engine.environment.processes import NO_INPUT, PIPE, ProcessGroup
from rvc_engine.weights.own import BaseRole, WeightsCheck, WeightsKind
from server.datasets.validator import MAX_REPORT_BYTES
from server.errors import Refused
from server.settings import ServerSettings

logger = structlog.get_logger(__name__)

CHECK_SECONDS = 120.0
MAX_RESULT_BYTES = 2**20
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def check_files(
    files: Mapping[BaseRole, Path], folder: Path, data_folder: Path, settings: ServerSettings
) -> dict[BaseRole, WeightsKind]:
    """The kind of each file. `folder`: an empty one for the result. Raises Refused with the reason of a bad file."""
    names = [word for role, path in files.items() for word in (f"--{role}", str(path))]
    checked, printed = run_confined(["weights", "check", *names], folder, data_folder, settings)
    try:
        result = WeightsCheck.model_validate_json(checked)
    except ValidationError as error:
        raise _not_examined(printed) from error
    if result.error is not None or set(result.kinds) != set(files):
        raise Refused(result.error or "the files could not be examined")
    return result.kinds


def run_confined(
    arguments: Sequence[str], folder: Path, data_folder: Path, settings: ServerSettings
) -> tuple[bytes, bytes]:
    """The result that `rvc-engine ARGUMENTS --output FILE` writes, and what it prints. `folder`: an empty one.

    Raises Refused when there is no result.
    """
    output = folder / "check.json"
    limits = map(str, (settings.report_cpu_seconds, settings.report_memory_bytes, MAX_RESULT_BYTES))
    sandbox = python_command("server.datasets.sandbox", *limits, str(data_folder), str(folder))
    command = [*sandbox, *python_command("rvc_engine", *arguments), "--output", str(output)]
    environment = program_environment(os.environ) | _THREADS | {"MALLOC_ARENA_MAX": "2"}
    child = ProcessGroup(command, environment, stdin=NO_INPUT, stdout=PIPE, stderr=subprocess.STDOUT)
    try:
        printed, _ = child.communicate(timeout=CHECK_SECONDS)
    except subprocess.TimeoutExpired:
        child.end_group()
        printed, _ = child.communicate()
    try:
        return read_plain_file(output, MAX_REPORT_BYTES), printed
    except OSError as error:
        raise _not_examined(printed, child.returncode) from error


def _not_examined(printed: bytes, status: int | None = None) -> Refused:
    logger.warning("the check of files failed", status=status, output=printed[-4000:].decode(errors="replace"))
    return Refused(
        "the files could not be examined: the check took too much time or memory, or broke off; get a new copy of "
        "them, or ask the server's administrator, whose log has the details"
    )

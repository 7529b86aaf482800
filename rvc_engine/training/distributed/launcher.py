"""The train stage in several processes: starts them, relays their events, stops them, and raises their errors.

torchrun starts one process a rank and ends the others as soon as one fails. It reports failures on standard error only,
so a rank's own `failed` event takes precedence; a rank that ended without one is found in torchrun's table.
"""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import torch

from rvc_engine.child_processes import inherited_environment, python_command
from rvc_engine.compute.accelerators import num_sharing
from rvc_engine.config import TrainingConfig
from rvc_engine.environment.processes import PIPE, ProcessGroup
from rvc_engine.errors import EngineError, GraphsFailed, RankFailure, StopRequested, error_from_code
from rvc_engine.events import Failed, Stopped, Succeeded, parse_event
from rvc_engine.reporting import StageReport
from rvc_engine.training.distributed.request import EXIT_ORPHANED, EXIT_PEER_FAILED, STOP, RankRequest
from rvc_engine.training.trainer import BaseWeights
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.layout import Workspace

SHUTDOWN_SECONDS = 10
"""Time for the ranks to end by themselves before they are killed."""
_TABLE_ROW = re.compile(r"rank\s*:\s*(\d+) .*?exitcode\s*:\s*(-?\d+)", re.DOTALL)
"""A failed rank in torchrun's final report."""


def run(
    workspace: Workspace,
    config: TrainingConfig,
    devices: Sequence[torch.device],
    base: BaseWeights,
    features_identity: str,
    report: StageReport,
) -> None:
    """Run `trainer.run` in one process for each of `devices`.

    Raises the errors of the ranks, StopRequested after a checkpoint, and RankFailure when a rank died without an error.
    """
    request = RankRequest(
        root=workspace.root.absolute(),
        voice=workspace.voice,
        version=workspace.version,
        config=config,
        devices=[str(device) for device in devices],
        num_threads=max(1, torch.get_num_threads() // len(devices)),
        jobs_per_device=num_sharing(),
        base_generator=base.generator and base.generator.absolute(),
        base_discriminators=base.discriminators and base.discriminators.absolute(),
        base_identity=base.identity,
        features_identity=features_identity,
    )
    path = workspace.root / "ranks.json"
    write_atomically(path, request.model_dump_json(indent=1).encode())
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # memory that earlier stages cached is needed by the ranks
    group = _RankGroup(path, request, report)
    try:
        group.follow()
    finally:
        group.shut_down()
        path.unlink(missing_ok=True)
    group.raise_for_exit()


class _RankGroup:
    """torchrun and its ranks."""

    def __init__(self, path: Path, request: RankRequest, report: StageReport) -> None:
        self._devices, self._report = request.devices, report
        self._lines: queue.SimpleQueue[tuple[bool, str]] = queue.SimpleQueue()
        """Lines of output; True for those on standard output."""
        self._stderr_lines: deque[str] = deque(maxlen=400)
        self._failed: Failed | None = None
        self._stopped = self._succeeded = self._is_stop_sent = False
        # fmt: off
        command = [
            *python_command("torch.distributed.run"), "--standalone", "--nnodes", "1",
            "--nproc-per-node", str(len(request.devices)), "--max-restarts", "0", "--local-addr", "127.0.0.1",
            "--shutdown-timeout", str(SHUTDOWN_SECONDS),
            "--no-python", *python_command("rvc_engine.training.distributed.worker", str(path.absolute())),
        ]
        # fmt: on
        # Ctrl-C goes to the engine alone, which then stops the ranks in order.
        self._process = ProcessGroup(command, _environment(request.num_threads), stdin=PIPE, stdout=PIPE, stderr=PIPE)
        assert self._process.stdin is not None
        self._input: IO[bytes] = self._process.stdin
        self._readers = [self._reader(self._process.stdout, True), self._reader(self._process.stderr, False)]

    def _reader(self, stream: IO[bytes] | None, is_output: bool) -> threading.Thread:
        assert stream is not None

        def read() -> None:
            with stream:
                for line in stream:
                    self._lines.put((is_output, line.decode(errors="replace").rstrip()))

        thread = threading.Thread(target=read, name="ranks", daemon=True)
        thread.start()
        return thread

    def follow(self) -> None:
        """Relay the ranks' events, and a stop request to them, until torchrun has ended."""
        while self._process.poll() is None:
            if self._report.is_stopping and not self._is_stop_sent:
                self._is_stop_sent = True
                with suppress(OSError):
                    self._input.write(STOP)
                    self._input.flush()
            self._drain_output(timeout=0.2)

    def _drain_output(self, timeout: float) -> None:
        with suppress(queue.Empty):
            while True:
                self._handle_line(*self._lines.get(timeout=timeout))
                timeout = 0

    def _handle_line(self, is_output: bool, line: str) -> None:
        if not is_output:
            self._stderr_lines.append(line)
            self._report.log(line, "debug")
            return
        match parse_event(line):
            case Failed() as failed:
                self._failed = self._failed or failed
            case Stopped():
                self._stopped = True
            case Succeeded():
                self._succeeded = True
            case event:
                self._report.relay(event)

    def shut_down(self) -> None:
        """End all processes: the ranks end with their input, torchrun ends after them; what remains is killed."""
        with suppress(OSError):
            self._input.close()
        try:
            self._process.wait(SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.end_group()
            self._process.wait()
        for reader in self._readers:
            reader.join(SHUTDOWN_SECONDS)
        self._drain_output(timeout=0)

    def raise_for_exit(self) -> None:
        """Return after a complete training; raise for any other exit."""
        if self._failed is not None and self._failed.code == GraphsFailed.code:
            raise GraphsFailed(self._failed.message)  # no other error of a rank has this code
        if self._failed is not None:
            raise error_from_code(self._failed.code, self._failed.message)
        if self._process.returncode == 0 and self._stopped:
            raise StopRequested
        if self._process.returncode != 0 or not self._succeeded:
            raise self._rank_failure()

    def _rank_failure(self) -> EngineError:
        """The rank that died, from torchrun's table, without those that torchrun itself ended by SIGTERM."""
        exit_codes = {int(rank): int(code) for rank, code in _TABLE_ROW.findall("\n".join(self._stderr_lines))}
        secondary_codes = {EXIT_PEER_FAILED, EXIT_ORPHANED, -signal.SIGTERM}
        rank = next((rank for rank, code in exit_codes.items() if code not in secondary_codes), None)
        if rank is None:
            failure = f"one of the {len(self._devices)} training processes died"
        else:
            failure = f"training process {rank + 1} of {len(self._devices)}, on {self._devices[rank]}, died"
            code = exit_codes[rank]
            failure += f" ({signal.Signals(-code).name})" if code < 0 else f" (exit code {code})"
        return RankFailure(
            f"{failure}; the others were stopped. Start the run again to resume from its last checkpoint"
        )


def _environment(num_threads: int) -> dict[str, str]:
    """The ranks' environment: threads sleep while they wait, and communication stays on this machine."""
    environment = {
        "OMP_WAIT_POLICY": "PASSIVE",
        **inherited_environment(os.environ),
        "OMP_NUM_THREADS": str(num_threads),
    }
    if sys.platform == "linux":
        environment = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", **environment}
    return environment

"""One process of a data-parallel training: `torchrun ... -m rvc_engine.training.distributed.worker FILE`.

Rank 0 writes events as lines on standard output; every rank reports its own failure. When its input ends, the engine is
gone and the rank ends at once: the next engine repeats the steps since the last checkpoint.
"""

import os
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch

from rvc_engine.compute.accelerators import share_memory
from rvc_engine.compute.process_group import DistributedContext, PeerFailure, local_rank
from rvc_engine.errors import EngineError, FailureCode, StopRequested
from rvc_engine.events import EXIT_FAILED, Event, Failed, Log, Stopped, Succeeded, format_event
from rvc_engine.reporting import StageReport
from rvc_engine.training import trainer
from rvc_engine.training.distributed.request import EXIT_ORPHANED, EXIT_PEER_FAILED, RankRequest
from rvc_engine.training.trainer import BaseWeights
from rvc_engine.workspace.layout import Workspace


class _RankReport(StageReport):
    """The report of a rank that trains with others: all ranks decide together whether to stop."""

    def check_stop(self) -> None:
        """Do nothing: a rank that stopped alone would leave the others waiting."""


def main() -> None:
    """Train as one rank, and exit with a code that names the outcome."""
    request = RankRequest.model_validate_json(Path(sys.argv[1]).read_bytes())
    stop = _watch_input()
    torch.set_num_threads(request.num_threads)
    name, device = f"process {local_rank() + 1} of {len(request.devices)}", torch.device(request.devices[local_rank()])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if request.jobs_per_device > 1:
        share_memory(device, request.jobs_per_device)
    try:
        context = DistributedContext.init(device)
        _emit(Log(level="debug", message=f"{name} trains on {device} as pid {os.getpid()}"))
        report = _RankReport("train", _emit if context.is_main else _discard, stop.is_set)
        _train(request, device, report, context)
        with suppress(PeerFailure):  # this rank is done; the exit code of a dead rank identifies it
            context.all_reduce_any(False)  # wait until rank 0 has saved
        _exit(0)
    except PeerFailure as error:
        print(f"lost the other processes: {error}", file=sys.stderr)  # noqa: T201 - the engine's debug log
        _exit(EXIT_PEER_FAILED)
    except EngineError as error:
        _emit(Failed(code=error.code, message=str(error)))
        _exit(EXIT_FAILED)
    except Exception as error:  # noqa: BLE001 - the outermost guard: the engine must receive a reason
        traceback.print_exception(error)
        message = f"{name} failed with an unexpected error ({type(error).__name__}: {error})"
        _emit(Failed(code=FailureCode.INTERNAL, message=message))
        _exit(EXIT_FAILED)


def _train(request: RankRequest, device: torch.device, report: StageReport, context: DistributedContext) -> None:
    """Run the stage. A requested stop counts as success: torchrun kills the other ranks for any other exit code."""
    base = BaseWeights(request.base_generator, request.base_discriminators, request.base_identity)
    workspace = Workspace(request.root, request.voice, request.version)
    try:
        trainer.run(workspace, request.config, device, base, request.features_identity, report, context)
        report.event(Succeeded(message="trained"))
    except StopRequested:
        report.event(Stopped(message="stopped on request"))


def _watch_input() -> threading.Event:
    """An event that is set when the engine asks to stop. The end of the input ends this process at once."""
    stop = threading.Event()

    def watch() -> None:
        with suppress(OSError):
            while os.read(sys.stdin.fileno(), 4096):
                stop.set()
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, name="stdin", daemon=True).start()
    return stop


def _emit(event: Event) -> None:
    """Write an event as one line, in one write: the ranks share the pipe."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), f"{format_event(event)}\n".encode())


def _discard(_event: Event) -> None:
    """Drop an event: rank 0 reports for all ranks."""


def _exit(code: int) -> NoReturn:
    """Exit without the teardown of NCCL and gloo: it can hang or abort once a peer is gone, and fail the training."""
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()

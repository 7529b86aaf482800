"""One claimed conversion: decode each recording, convert it, publish the results; then report the outcome."""

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from rvc_engine.conversion.messages import (
    SAMPLES,
    Cancel,
    Convert,
    Converted,
    Converting,
    Failed,
)
from rvc_engine.conversion.voice_files import VoiceFiles, find_save
from rvc_engine.environment.files import sync_file, sync_folder
from rvc_engine.errors import FailureCode
from rvc_engine.workspace.disk import is_disk_full
from rvc_train.schemas.voices.conversions import ConversionFailure
from worker.conversions.decoding import decode
from worker.conversions.engine import ConversionEngine, EngineEnded
from worker.conversions.engines import ConversionEngines
from worker.conversions.placement import Placement
from worker.engine.workspaces import Workspaces
from worker.gateway.errors import LeaseLost, first_line, is_transient
from worker.gateway.interface import ConversionLease
from worker.gateway.types import ConversionResult, LocalFile, Recording
from worker.reporting.retry import retry_until_available
from worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)

TICK_SECONDS = 0.1
DECODED_SHARE = 0.05
"""Share of a recording's progress that its decoding is."""
CANCEL_SECONDS = 10
"""Time for the engine to end a request between two pieces; it is ended after that."""
_CODES: dict[str, ConversionFailure] = {
    FailureCode.INVALID_CONFIG: ConversionFailure.INVALID_OPTIONS,
    FailureCode.INCOMPATIBLE_CHECKPOINT: ConversionFailure.VOICE_MISSING,
    FailureCode.MISSING_WEIGHTS: ConversionFailure.MISSING_WEIGHTS,
    FailureCode.DISK_FULL: ConversionFailure.DISK_FULL,
    FailureCode.GPU_OUT_OF_MEMORY: ConversionFailure.OUT_OF_MEMORY,
}
_CRASHED = "the recording could not be converted: the engine ended twice while it did"


class _Stopped(Exception):
    """The conversion was cancelled or deleted."""


class _Released(Exception):
    """The worker stops."""


class _Failure(Exception):
    """The whole conversion fails."""

    def __init__(self, code: ConversionFailure, message: str) -> None:
        super().__init__(message)
        self.code = code


class ConversionRun:
    """One conversion under its lease."""

    def __init__(
        self,
        settings: WorkerSettings,
        workspaces: Workspaces,
        engines: ConversionEngines,
        lease: ConversionLease,
        must_stop: Callable[[], bool],
    ) -> None:
        self._settings, self._workspaces = settings, workspaces
        self._engines, self._lease, self._must_stop = engines, lease, must_stop
        self._progress = 0.0
        self._next_beat = 0.0
        self._cpu_reason: str | None = None
        self._placement: Placement | None = None
        self._scratch = lease.folder / "decoded"

    def run(self) -> None:
        """Convert and report. After the loss of the lease, or a cancellation, nothing more is written."""
        lease = self._lease
        try:
            self._report(self._convert_all())
        except _Stopped:
            logger.info("conversion cancelled", conversion_id=lease.conversion_id)
        except _Released:
            retry_until_available(lease.release, give_up=lambda: True)
        except _Failure as error:
            code, message = error.code, str(error)
            logger.warning("conversion failed", conversion_id=lease.conversion_id, code=str(code), reason=message)
            retry_until_available(lambda: lease.fail(code, message), give_up=self._must_stop)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _convert_all(self) -> list[ConversionResult]:
        files = self._voice_files()
        results = []
        for number, source in enumerate(self._lease.recordings):
            try:
                results.append(self._convert(number, source, files))
            except OSError as error:
                if is_disk_full(error):
                    message = "the server's disk is full; its administrator must free some space"
                    raise _Failure(ConversionFailure.DISK_FULL, message) from error
                if not self._lease.folder.is_dir():
                    raise _Stopped from error  # deleted meanwhile
                raise
        return results

    def _report(self, results: list[ConversionResult]) -> None:
        place = self._placement
        device, reason = ("none", "no recording could be decoded") if place is None else (place.device, place.reason)
        status = retry_until_available(lambda: self._lease.finish(results, device, reason), give_up=self._must_stop)
        logger.info("conversion ended", conversion_id=self._lease.conversion_id, status=str(status), device=device)

    def _voice_files(self) -> VoiceFiles:
        """The voice's files: in the data folder, or of a save in this worker's own scratch folder."""
        lease, found = self._lease, self._lease.files
        if found.is_missing and lease.save is not None:
            workspace = self._workspaces.job_folder(lease.job_id) / "workspace"
            found = VoiceFiles(checkpoint=find_save(workspace, lease.save), index=found.index)
        if not found.is_missing:
            return found
        message = "the files of this voice are not there: the job has made none yet, or they were deleted"
        if lease.save is not None:
            message = (
                f"the save {lease.save} of this voice is not there: not made yet, deleted, or on another worker's "
                "disk; choose another save, or wait for the end of the training"
            )
        raise _Failure(ConversionFailure.VOICE_MISSING, message)

    def _convert(self, number: int, source: Recording, files: VoiceFiles) -> ConversionResult:
        """Convert one recording. Raises _Failure for what concerns all of them; OSError."""
        folder = self._scratch / str(number)
        shutil.rmtree(self._scratch, ignore_errors=True)
        folder.mkdir(parents=True)
        self._tick(number, 0)
        decoded = decode(
            source.path, folder, self._workspaces.private, self._lease.max_seconds, lambda: self._tick(number, 0)
        )
        if decoded.error is not None:
            return ConversionResult(source.output, error=decoded.error)
        target = self._lease.folder / f"{number:03d}.{self._lease.options.format}"
        num_crashes = 0
        while True:
            request = self._request(f"{number}.{num_crashes}", folder / SAMPLES, target, files)
            engine, self._placement = self._engines.obtain(self._cpu_reason)
            try:
                reply = self._ask(engine, request.model_copy(update={"threads": self._placement.threads}), number)
            except EngineEnded as error:
                if engine.was_ended_for_room:
                    self._cpu_reason = "a training needs the GPU's memory"
                    continue
                logger.warning("the conversion engine ended", reason=str(error))
                num_crashes += 1
                if num_crashes < 2:
                    continue
                if len(self._lease.recordings) == 1:
                    raise _Failure(ConversionFailure.ENGINE_CRASHED, f"{_CRASHED}; {error}") from error
                return ConversionResult(source.output, error=_CRASHED)
            if isinstance(reply, Converted):
                return self._result(source, target, reply)
            if reply.code == FailureCode.GPU_OUT_OF_MEMORY and self._placement.gpu is not None:
                self._cpu_reason = "the GPU's memory did not suffice for this recording"
                continue
            if reply.code == FailureCode.INVALID_DATASET:
                return ConversionResult(source.output, error=reply.message)
            raise _Failure(_CODES.get(reply.code, ConversionFailure.INTERNAL), reply.message)

    def _request(self, number: str, samples: Path, target: Path, files: VoiceFiles) -> Convert:
        lease = self._lease
        options, config = lease.options, lease.job_config
        return Convert(
            id=f"{lease.conversion_id}.{lease.token}.{number}",
            samples=samples,
            target=target,
            voice=files.voice or files.checkpoint or Path(),
            index=files.index,
            pitch_shift=options.pitch_shift,
            pitch=options.pitch,
            index_rate=options.index_rate,
            protect=options.protect,
            rms_mix_rate=options.rms_mix_rate,
            sample_rate=config.get("sample_rate"),
            content=config.get("content"),
            speaker=options.speaker,
        )

    def _ask(self, engine: ConversionEngine, request: Convert, number: int) -> Converted | Failed:
        """Send a request and wait for its last event. Raises EngineEnded, _Failure and what `_tick` raises."""
        engine.send(request)
        last_reply_at = time.monotonic()
        share = DECODED_SHARE
        while True:
            reply = engine.reply(TICK_SECONDS)
            if reply is not None and reply.id == request.id:
                last_reply_at = time.monotonic()
                if isinstance(reply, Converted | Failed):
                    return reply
                if isinstance(reply, Converting):
                    share = DECODED_SHARE + (1 - DECODED_SHARE) * reply.share
            self._engines.keep_room()
            if time.monotonic() - last_reply_at > self._settings.silence_seconds:
                self._engines.close()
                message = f"the engine was silent for {self._settings.silence_seconds:.0f} s and was ended"
                raise _Failure(ConversionFailure.TIMED_OUT, message)
            try:
                self._tick(number, share)
            except Exception:
                self._end_request(engine, request)
                raise

    def _end_request(self, engine: ConversionEngine, request: Convert) -> None:
        """End a request in the engine, which keeps its voices unless that takes long."""
        deadline = time.monotonic() + (0 if self._must_stop() else CANCEL_SECONDS)
        try:
            engine.send(Cancel(id=request.id))
            while time.monotonic() < deadline:
                reply = engine.reply(TICK_SECONDS)
                if isinstance(reply, Converted | Failed) and reply.id == request.id:
                    return
        except EngineEnded:
            pass
        self._engines.close()

    def _tick(self, number: int, share: float) -> None:
        """Renew the lease when that is due. Raises _Stopped, _Released, LeaseLost."""
        if self._must_stop():
            raise _Released
        self._progress = max(self._progress, (number + share) / len(self._lease.recordings))
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + min(self._settings.wish_seconds, self._settings.heartbeat_seconds)
        try:
            is_cancelled = self._lease.beat(self._progress)
        except LeaseLost:
            raise
        except Exception as error:
            if not is_transient(error):
                raise
            logger.warning("no heartbeat of a conversion: the server is unavailable", reason=first_line(error))
            return
        if is_cancelled:
            raise _Stopped

    def _result(self, source: Recording, target: Path, reply: Converted) -> ConversionResult:
        with target.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sync_file(target)
        sync_folder(target.parent)
        stored = LocalFile(target, target.stat().st_size, digest)
        return ConversionResult(source.output, stored, reply.seconds, reply.pitch_shift)

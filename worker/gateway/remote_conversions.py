"""A lease on a conversion of a server on another machine.

<folder>/conversions/<conversion id>/<token>/    recordings and results, deleted at the end
<folder>/voices/<sha256>                         files of voices, for later conversions with them
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rvc_engine.conversion.voice_files import VoiceFiles
from rvc_train.schemas.voices.conversions import ConversionFailure, ConversionStatus
from rvc_train.schemas.work.leases import (
    MAX_MESSAGE,
    ConversionBeat,
    ConversionBeatAnswer,
    ConversionEnded,
    ConversionFailed,
    ConversionResults,
    ConvertedRecording,
)
from rvc_train.schemas.work.protocol import LEASE_KEY_HEADER
from rvc_train.schemas.work.workers import LeasedConversion
from worker.gateway.connection import Connection
from worker.gateway.errors import LeaseLost, Unavailable
from worker.gateway.interface import ConversionLease
from worker.gateway.types import ConversionResult, Recording

BEAT_SECONDS = 5.0
VOICE_SECONDS = 24 * 3600.0
"""Time without a conversion after which files of a voice are deleted here."""


@dataclass(kw_only=True, eq=False)
class HttpConversionLease(ConversionLease):
    """A lease whose files were brought to this machine."""

    lease_id: str
    key: str
    connection: Connection

    def __post_init__(self) -> None:
        self._path, self._headers = f"/conversions/{self.lease_id}", {LEASE_KEY_HEADER: self.key}
        self._next_beat = 0.0

    @classmethod
    def fetch(cls, leased: LeasedConversion, root: Path, connection: Connection) -> "HttpConversionLease | None":
        """The lease with its files; None when the conversion was cancelled meanwhile. OSError, Unavailable."""
        lease = cls(
            conversion_id=leased.conversion_id,
            token=leased.token,
            voice=leased.voice,
            job_id=leased.job_id,
            save=leased.save,
            job_config=leased.job_config,
            files=VoiceFiles(),
            recordings=[],
            options=leased.options,
            max_seconds=leased.max_seconds,
            folder=root / "conversions" / leased.conversion_id / f"{leased.token:06d}",
            lease_id=leased.lease_id,
            key=leased.key,
            connection=connection,
        )
        try:
            lease.folder.mkdir(parents=True, exist_ok=True)
            lease.recordings = lease._fetch_recordings(leased)
            lease.files = lease._fetch_voice(leased, root / "voices")
        except _Over:
            lease._clear()
            return None
        except (OSError, Unavailable):
            with contextlib.suppress(LeaseLost, Unavailable, OSError):
                lease.release()
            raise
        return lease

    def _fetch_recordings(self, leased: LeasedConversion) -> list[Recording]:
        found = []
        for number, each in enumerate(leased.recordings):
            target = self.folder / "recordings" / f"{number:06d}"
            path = f"{self._path}/recordings/{number}"
            self.connection.download(path, self._headers, each.file, target, self._beat_at_times)
            found.append(Recording(each.output, target))
        return found

    def _fetch_voice(self, leased: LeasedConversion, folder: Path) -> VoiceFiles:
        _delete_old(folder)
        found: dict[str, Path] = {}
        for file in leased.voice_files:
            target = folder / file.sha256
            if not (target.is_file() and target.stat().st_size == file.size_bytes):
                path = f"{self._path}/voice/{file.name}"
                self.connection.download(path, self._headers, file, target, self._beat_at_times)
            os.utime(target)
            found[file.name] = target
        return VoiceFiles(found.get("voice"), found.get("checkpoint"), found.get("index"))

    def _beat_at_times(self) -> None:
        """Renew the lease while files are on their way. Raises _Over."""
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + BEAT_SECONDS
            if self.beat(0.0):
                raise _Over

    def beat(self, progress: float) -> bool:
        body, path = ConversionBeat(progress=min(1.0, max(0.0, progress))), f"{self._path}/heartbeat"
        return self.connection.ask(ConversionBeatAnswer, "POST", path, self._headers, body).is_over

    def finish(self, results: Sequence[ConversionResult], device: str, device_reason: str) -> ConversionStatus:
        rows = []
        for each in results:
            if each.file is not None:
                self.connection.upload(
                    self._path, self._headers, each.file.path, each.file.size, each.file.sha256, self._beat_at_times
                )
            rows.append(
                ConvertedRecording(
                    name=each.name,
                    sha256=None if each.file is None else each.file.sha256,
                    seconds=each.seconds,
                    pitch_shift=each.pitch_shift,
                    error=None if each.error is None else each.error[:MAX_MESSAGE],
                )
            )
        body = ConversionResults(results=rows, device=device, device_reason=device_reason[:MAX_MESSAGE])
        status = self.connection.ask(ConversionEnded, "POST", f"{self._path}/finish", self._headers, body).status
        self._clear()
        return status

    def fail(self, code: ConversionFailure, message: str) -> None:
        body = ConversionFailed(code=code, message=message[:MAX_MESSAGE])
        self._end(lambda: self.connection.send("POST", f"{self._path}/fail", self._headers, body))

    def release(self) -> None:
        self._end(lambda: self.connection.send("POST", f"{self._path}/release", self._headers))

    def _end(self, send: Callable[[], object]) -> None:
        send()
        self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self.folder.parent, ignore_errors=True)


class _Over(Exception):
    """The conversion was cancelled or deleted while its files were on their way."""


def _delete_old(folder: Path) -> None:
    """Delete files of voices that were not used for a while."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > VOICE_SECONDS:
                path.unlink()

"""Leases on conversions of workers on other machines."""

from dataclasses import dataclass
from pathlib import Path

from rvc_train.schemas.voices.conversions import ConversionFailure, ConversionStatus
from rvc_train.schemas.work.leases import ConversionResults, ConvertedRecording
from rvc_train.schemas.work.workers import LeasedConversion, LeasedRecording, WorkFile
from server.blobs.copies import link_or_copy
from server.conversions.queue import ConversionLease, ConversionQueue, ResultFile
from server.errors import LeaseLost, NotFound, Refused
from server.remote_workers.files import FileHashes, IncomingFiles, plain_file
from server.remote_workers.keys import WorkerKeys
from server.storage.local import Storage, StoredFile

_ENDED = "the conversion has ended, was deleted, or was given to another worker"


@dataclass(frozen=True)
class HeldConversion:
    """A lease whose key was shown."""

    lease: ConversionLease | None
    """None for a conversion that was deleted."""
    is_valid: bool

    def require_valid(self) -> ConversionLease:
        """The lease. LeaseLost for one that holds no longer."""
        if self.lease is None or not self.is_valid:
            raise LeaseLost(_ENDED)
        return self.lease


class RemoteConversions:
    """Requests of workers on other machines under leases on conversions."""

    def __init__(self, queue: ConversionQueue, storage: Storage, keys: WorkerKeys, hashes: FileHashes) -> None:
        self._queue, self._storage, self._keys, self._hashes = queue, storage, keys, hashes

    def claim(self, worker_id: str) -> LeasedConversion | None:
        """Claim the next conversion. SchemaChanged, OSError."""
        lease = self._queue.claim(worker_id)
        if lease is None:
            return None
        lease_id = f"{lease.conversion_id}.{lease.token}"
        return LeasedConversion(
            lease_id=lease_id,
            key=self._keys.key_of(lease_id),
            conversion_id=lease.conversion_id,
            token=lease.token,
            voice=lease.voice,
            job_id=lease.job_id,
            save=lease.save,
            job_config=lease.job_config,
            voice_files=[self._hashes.describe(path, kind) for kind, path in _voice_files(lease).items()],
            recordings=[
                LeasedRecording(output=each.output, file=self._hashes.describe(each.path, str(number)))
                for number, each in enumerate(lease.inputs)
            ],
            options=lease.options,
            max_seconds=lease.max_seconds,
        )

    def find(self, lease_id: str, key: str) -> HeldConversion:
        """The lease of an id. NotFound for a wrong key."""
        self._keys.check(lease_id, key)
        conversion_id, _, token = lease_id.rpartition(".")
        return HeldConversion(*self._queue.find(conversion_id, int(token)))

    def voice_file(self, held: HeldConversion, kind: str) -> tuple[Path, WorkFile]:
        """A file of the voice. NotFound."""
        path = _voice_files(held.require_valid()).get(kind)
        if path is None:
            raise NotFound(f"the voice has no {kind}")
        return path, self._hashes.describe(path, kind)

    def recording(self, held: HeldConversion, number: int) -> tuple[Path, WorkFile]:
        """A recording to convert. NotFound."""
        inputs = held.require_valid().inputs
        if not 0 <= number < len(inputs):
            raise NotFound(f"there is no recording {number}")
        path = inputs[number].path
        plain_file(path.parent, path.name)
        return path, self._hashes.describe(path, str(number))

    def incoming(self, held: HeldConversion) -> IncomingFiles:
        """The files that are sent under this lease."""
        return IncomingFiles(held.require_valid().output_folder)

    def beat(self, held: HeldConversion, progress: float) -> bool:
        """Renew the lease; whether the conversion was cancelled or deleted. LeaseLost."""
        return held.lease is None or self._queue.beat(held.lease, progress)

    def finish(self, held: HeldConversion, report: ConversionResults) -> ConversionStatus:
        """Store the results. LeaseLost, Refused, Conflict for a file that was not sent."""
        lease = held.require_valid()
        if [each.name for each in report.results] != [each.output for each in lease.inputs]:
            raise Refused("give one result for each recording, in their order and by their names", "/results")
        incoming = IncomingFiles(lease.output_folder)
        results = [self._stored(lease, incoming, number, each) for number, each in enumerate(report.results)]
        status = self._queue.finish(lease, results, report.device, report.device_reason)
        incoming.delete()
        return status

    def _stored(
        self, lease: ConversionLease, incoming: IncomingFiles, number: int, result: ConvertedRecording
    ) -> ResultFile:
        stored = None
        if result.sha256 is not None:
            target = lease.output_folder / f"{number:03d}.{lease.options.format}"
            if incoming.is_complete(result.sha256) or not target.is_file():  # else it was linked by a request before
                target.unlink(missing_ok=True)
                link_or_copy(incoming.complete(result.sha256), target)
            path = target.relative_to(self._storage.root).as_posix()
            stored = StoredFile(path, target.stat().st_size, result.sha256)
        elif result.error is None:
            raise Refused("a result is a file that was sent, or an error", f"/results/{number}")
        return ResultFile(result.name, stored, result.seconds, result.pitch_shift, result.error)

    def fail(self, held: HeldConversion, code: ConversionFailure, message: str) -> None:
        """End the conversion as failed. LeaseLost."""
        self._queue.fail(held.require_valid(), code, message)

    def release(self, held: HeldConversion) -> None:
        """Give the conversion back. LeaseLost."""
        self._queue.release(held.require_valid())


def _voice_files(lease: ConversionLease) -> dict[str, Path]:
    files = {"voice": lease.files.voice, "checkpoint": lease.files.checkpoint, "index": lease.files.index}
    return {kind: path for kind, path in files.items() if path is not None}

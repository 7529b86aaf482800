"""Errors of the server, as one tree. `server.http.problem_details` maps them to HTTP.

ServerError
├── SettingsRefused            the server cannot start with these settings
├── NotFound                   no such resource, or not the caller's
├── Gone                       the resource's file was deleted
├── Conflict                   not possible in the current state
│   ├── OffsetMismatch         a chunk that does not start at the upload's offset
│   ├── StillRunning           a request with the same idempotency key is in progress
│   └── AlreadyDone            a request with the same idempotency key was carried out; its answer cannot be repeated
├── PreconditionFailed         the resource changed since the caller read it
├── Unauthorized               no token
│   └── InvalidToken           a token that is unknown, revoked or expired
├── Forbidden                  a host name or an origin that is not allowed
│   └── ScopeMissing           the token lacks a scope
├── TooManyRequests            rate limit exceeded
│   └── QuotaExceeded          an owner's quota of jobs or GPU hours is used up
├── Refused                    invalid content of a request
│   ├── ConsentRequired        a dataset without the consent of its speaker, on a server that asks for it
│   ├── UploadTooLarge         more bytes or files than the limits allow
│   ├── UploadRefused          an archive or a file that is not accepted
│   ├── ChecksumMismatch       a chunk of an upload was damaged on its way
│   ├── UnsupportedChecksum    an unknown algorithm of an upload's checksum
│   └── UnsupportedTusExtension  a part of the upload protocol that this server does not have
├── UnsupportedMedia           a body of an unsupported media type
├── UnsupportedTus             an unsupported version of the upload protocol
├── TooSlow                    an upload that received no data for too long
├── NoSpace                    the disk is full, or its reserve would be used
│   ├── SpaceReserved          the free space is reserved for uploads under way
│   └── StorageQuotaExceeded   an owner's quota of bytes is used up
├── RangeNotSatisfiable        a range beyond the end of the file
├── LeaseLost                  a worker's lease was replaced, or its job ended: write nothing more
├── WorkerVersionRefused       a worker that exchanges in a version which does not go with the server's
├── DataAway                   the data folder is not the one of the database for now
├── StorageAway                the object storage does not answer for now
├── CheckpointsDamaged         the stored checkpoints of a job cannot be read
├── SchemaChanged              the database's schema is another than the worker's: it gets no job
└── NothingPublished           a worker reported success without a published voice
"""

import errno


class ServerError(Exception):
    """Base of the tree; the message is shown to the caller."""

    code = "internal"


class SettingsRefused(ServerError):
    """The server cannot start with these settings; the message names what to change."""

    code = "settings_refused"


class NotFound(ServerError):
    """The resource does not exist, or belongs to another owner."""

    code = "not_found"


class Gone(ServerError):
    """The resource existed, but its file was deleted."""

    code = "gone"


class Conflict(ServerError):
    """Not possible in the current state, which the message names."""

    code = "conflict"


class OffsetMismatch(Conflict):
    """A chunk of an upload does not start at the upload's offset."""

    code = "offset_mismatch"

    def __init__(self, message: str, offset: int) -> None:
        """`offset`: bytes received so far, where the next chunk must start."""
        super().__init__(message)
        self.offset = offset


class StillRunning(Conflict):
    """A request with the same idempotency key is still in progress."""

    code = "still_running"


class AlreadyDone(Conflict):
    """A request with the same idempotency key was carried out, or interrupted; its answer cannot be repeated."""

    code = "already_done"

    def __init__(self, message: str, location: str | None = None) -> None:
        """`location`: address of what the first request made, where known."""
        super().__init__(message)
        self.location = location


class PreconditionFailed(ServerError):
    """The resource changed since the caller read it (`If-Match`)."""

    code = "precondition_failed"


class Unauthorized(ServerError):
    """The request has no token, or an invalid one."""

    code = "unauthorized"


class InvalidToken(Unauthorized):
    """The request's token is unknown, revoked or expired."""


class Forbidden(ServerError):
    """The request's host name or origin is not allowed."""

    code = "forbidden"


class ScopeMissing(Forbidden):
    """The token lacks the scope for this request."""

    code = "scope_missing"


class TooManyRequests(ServerError):
    """The caller exceeded a rate limit."""

    code = "too_many_requests"

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        """`retry_after_seconds`: time until the next attempt may succeed, where known."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class QuotaExceeded(TooManyRequests):
    """An owner reached their limit of unfinished jobs, or used up their GPU hours."""

    code = "quota_exceeded"


class Refused(ServerError):
    """The content of the request is invalid."""

    code = "refused"

    def __init__(
        self, message: str, pointer: str = "", *, parameter: str | None = None, header: str | None = None
    ) -> None:
        """Place of the fault, if any: the JSON pointer of a field, or the name of a parameter or a header."""
        super().__init__(message)
        self.pointer, self.parameter, self.header = pointer, parameter, header


class ConsentRequired(Refused):
    """The dataset has no consent of its speaker, and the server takes no job without."""

    code = "consent_required"


class UploadTooLarge(Refused):
    """More bytes, or more files, than the server's limits allow."""

    code = "upload_too_large"


class UploadRefused(Refused):
    """An archive or a file that is not accepted."""

    code = "upload_refused"


class ChecksumMismatch(Refused):
    """A chunk of an upload does not match its checksum."""

    code = "checksum_mismatch"


class UnsupportedChecksum(Refused):
    """The algorithm of `Upload-Checksum` is not supported."""

    code = "unsupported_checksum"


class UnsupportedTusExtension(Refused):
    """A header of an extension of tus that this server does not have."""

    code = "unsupported_tus_extension"


class UnsupportedMedia(ServerError):
    """The body's media type is not supported at this path."""

    code = "unsupported_media_type"


class UnsupportedTus(ServerError):
    """The `Tus-Resumable` header is missing or names an unsupported version."""

    code = "unsupported_tus_version"


class TooSlow(ServerError):
    """An upload received no data for too long."""

    code = "too_slow"


class NoSpace(ServerError):
    """The disk is full, or the upload would use its reserve."""

    code = "no_space"


class SpaceReserved(NoSpace):
    """The free space is reserved for uploads under way."""


class StorageQuotaExceeded(NoSpace):
    """An owner's quota of stored bytes is used up."""

    code = "quota_exceeded"


class RangeNotSatisfiable(ServerError):
    """A range beyond the end of the file."""

    code = "range_not_satisfiable"

    def __init__(self, message: str, size: int) -> None:
        """`size`: actual length of the file in bytes."""
        super().__init__(message)
        self.size = size


class LeaseLost(ServerError):
    """The worker no longer holds the job's lease: it must stop its engine and write nothing more."""

    code = "claim_lost"


class NothingPublished(ServerError):
    """A worker reported success before it published a voice: an internal error."""

    code = "nothing_published"


class SchemaChanged(ServerError):
    """The database's schema is another than this worker's, which therefore gets no job."""

    code = "schema_changed"


class WorkerVersionRefused(ServerError):
    """The worker's version of the exchange does not go with the server's; the message names the versions."""

    code = "worker_version"


class CheckpointsDamaged(ServerError):
    """The record of a job's stored checkpoints cannot be read."""

    code = "checkpoints_damaged"


class DataAway(ServerError):
    """The data folder is not the one of the database for now, as when its disk is not mounted."""

    code = "unavailable"


class StorageAway(ServerError, OSError):
    """The object storage does not answer for now. Also an OSError: what waits for a disk that fails waits for it."""

    code = "unavailable"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.EIO

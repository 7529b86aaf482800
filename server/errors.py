"""Errors of the server, as one tree. Their HTTP form is made in `server.http.problem_details`.

ServerError
├── SettingsRefused            the server cannot start like this
├── NotFound                   no such thing (or not yours)
├── Conflict                   not possible in the present state
│   ├── OffsetMismatch         a piece of an upload that does not begin where the last ended
│   └── StillRunning           the same request is being served at this moment
├── PreconditionFailed         it is no longer as the caller last saw it
├── Unauthorized               no token, or a wrong one
├── Forbidden                  a host or an origin that is not served
│   └── ScopeMissing           the token allows too little
├── TooManyRequests            asked too often
│   └── QuotaExceeded          an owner has, or has used, as much as they may
├── Refused                    the content of a request cannot be accepted
│   ├── UploadTooLarge         more bytes than the server takes
│   ├── UploadRefused          an archive or a file that is not admitted
│   └── ChecksumMismatch       a piece of an upload came damaged
├── UnsupportedMedia           a body of another type
├── UnsupportedTus             a version of the upload protocol that is not spoken here
├── TooSlow                    an upload of which nothing came for too long
├── NoSpace                    the disk is full, or nearly
│   └── StorageQuotaExceeded   an owner has as many bytes as they may
├── RangeNotSatisfiable        a range that the file does not have
├── LeaseLost                  a worker's lease was replaced, or its job was ended: write nothing more
└── NothingPublished           a worker called success without having published a voice
"""


class ServerError(Exception):
    """Base of the tree; the message is for the person who asked."""

    code = "internal"


class SettingsRefused(ServerError):
    """The server cannot start with these settings; the message says what to change."""

    code = "settings_refused"


class NotFound(ServerError):
    """There is no such thing."""

    code = "not_found"


class Gone(ServerError):
    """It was here, and its file is not any more."""

    code = "gone"


class Conflict(ServerError):
    """Not possible in the present state; the message says which one it is."""

    code = "conflict"


class OffsetMismatch(Conflict):
    """A piece of an upload does not begin where the last one ended."""

    code = "offset_mismatch"

    def __init__(self, message: str, offset: int) -> None:
        """`offset` is where it does: bytes that are here."""
        super().__init__(message)
        self.offset = offset


class StillRunning(Conflict):
    """A request with the same idempotency key is being served at this moment."""

    code = "still_running"


class PreconditionFailed(ServerError):
    """The thing is no longer as the caller last saw it (`If-Match`)."""

    code = "precondition_failed"


class Unauthorized(ServerError):
    """The request has no token, or a wrong one."""

    code = "unauthorized"


class Forbidden(ServerError):
    """The request comes by a host name, or from an origin, that is not served."""

    code = "forbidden"


class ScopeMissing(Forbidden):
    """The token allows too little for this."""

    code = "scope_missing"


class TooManyRequests(ServerError):
    """The caller asked too often."""

    code = "too_many_requests"

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        """`retry_after_seconds`: when to ask again, where that is known."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class QuotaExceeded(TooManyRequests):
    """An owner has as many jobs as they may, or has used their GPU hours."""

    code = "quota_exceeded"


class Refused(ServerError):
    """The request's content cannot be accepted."""

    code = "refused"

    def __init__(self, message: str, pointer: str = "") -> None:
        """`pointer` is the JSON pointer of the field at fault, where there is one."""
        super().__init__(message)
        self.pointer = pointer


class UploadTooLarge(Refused):
    """More bytes, or more files, than the server takes."""

    code = "upload_too_large"


class UploadRefused(Refused):
    """An archive or a file that is not admitted."""

    code = "upload_refused"


class ChecksumMismatch(Refused):
    """A piece of an upload is not what its checksum says."""

    code = "checksum_mismatch"


class UnsupportedMedia(ServerError):
    """The body has another media type than this address takes."""

    code = "unsupported_media_type"


class UnsupportedTus(ServerError):
    """The request does not say that it speaks the version of tus that this server speaks."""

    code = "unsupported_tus_version"


class TooSlow(ServerError):
    """Nothing of an upload came for too long."""

    code = "too_slow"


class NoSpace(ServerError):
    """The disk is full, or the upload would fill it."""

    code = "no_space"


class StorageQuotaExceeded(NoSpace):
    """An owner has as many bytes stored as they may."""

    code = "quota_exceeded"


class RangeNotSatisfiable(ServerError):
    """A range beyond the end of the file."""

    code = "range_not_satisfiable"

    def __init__(self, message: str, size: int) -> None:
        """`size` is the file's true length in bytes."""
        super().__init__(message)
        self.size = size


class LeaseLost(ServerError):
    """The worker no longer holds the job: it stops its engine and writes nothing more."""

    code = "claim_lost"


class NothingPublished(ServerError):
    """A worker called success before it had published a voice: a mistake of ours."""

    code = "nothing_published"

"""What schemathesis cannot know by itself of our interface; loaded by `schemathesis.toml`."""

import schemathesis
from schemathesis import Case, HookContext, Response, SerializationContext
from schemathesis.core.failures import AcceptedNegativeData, Failure


@schemathesis.serializer("application/offset+octet-stream")
def piece_of_an_upload(ctx: SerializationContext, value: object) -> bytes:
    """Bytes as they are."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """A header that nobody asked for is no fault: every proxy adds some."""
    return not (
        isinstance(failure, AcceptedNegativeData) and "in header - object with unexpected properties" in failure.message
    )

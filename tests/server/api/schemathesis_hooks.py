"""What schemathesis cannot know by itself of our interface; loaded by `schemathesis.toml`."""

import schemathesis
from schemathesis import Case, HookContext, Response, SerializationContext
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.openapi.checks import RejectedPositiveData


@schemathesis.serializer("application/offset+octet-stream")
def piece_of_an_upload(ctx: SerializationContext, value: object) -> bytes:
    """Bytes as they are."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """Keep what is a fault.

    A header that nobody asked for is none: every proxy adds some. Nor is refusing `1.0` where a whole number is wanted:
    for JSON Schema it is one, for our strict shapes it is not.
    """
    if isinstance(failure, AcceptedNegativeData):
        return "in header - object with unexpected properties" not in failure.message
    if isinstance(failure, RejectedPositiveData):
        return "Input should be a valid integer" not in response.text
    return True

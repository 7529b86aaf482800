"""Lists: one shape for all of them, in pages, with opaque cursors.

A cursor holds the sort key of the last row of a page, so the next page is right when that row is gone meanwhile.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query, Request, Response
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from rvc_train.schemas.base import Page
from server.errors import Refused
from server.http.prefix import prefix_of

MAX_LIMIT = 100
MAX_LONG_LIMIT = 1000
"""For events, and for lists within one job or one machine, which mostly fit into one page."""

Number = Annotated[int, Field(ge=0, le=2**62)]
"""Sort key that the database's integers can hold."""
Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of the previous page.")]
Limit = Annotated[
    int,
    Query(ge=1, description=f"Maximum number of items; above {MAX_LIMIT} is taken as {MAX_LIMIT}."),
    AfterValidator(lambda limit: min(limit, MAX_LIMIT)),
]
LongLimit = Annotated[
    int,
    Query(ge=1, description=f"Maximum number of items; above {MAX_LONG_LIMIT} is taken as {MAX_LONG_LIMIT}."),
    AfterValidator(lambda limit: min(limit, MAX_LONG_LIMIT)),
]
K = TypeVar("K")
T = TypeVar("T")


class Cursors(Generic[K]):
    """Cursors of one list; as a dependency, the sort key in the query's `after`, or None."""

    def __init__(self, name: str, key: Any = Number) -> None:
        """`name`: the list, so that no other list takes its cursors. `key`: type of the sort key."""
        self._name = name
        self._adapter: TypeAdapter[tuple[str, K]] = TypeAdapter(tuple[str, key])

    async def __call__(self, after: Cursor = None) -> K | None:  # a coroutine, which needs no thread
        """The sort key of a cursor. Refused."""
        if after is None:
            return None
        try:
            name, key = self._adapter.validate_json(urlsafe_b64decode(after + "=" * (-len(after) % 4)), strict=True)
        except (ValueError, ValidationError):
            name = ""
        if name != self._name:
            raise Refused(
                "`after` is not a cursor of this list; leave it out to begin, then send the `next_cursor` of each page",
                parameter="after",
            )
        return key

    def encode(self, key: K) -> str:
        """The cursor of a sort key."""
        return urlsafe_b64encode(self._adapter.dump_json((self._name, key))).decode().rstrip("=")

    def page(self, request: Request, response: Response, data: list[T], last: K | None) -> Page[T]:
        """A page, and the `Link` header to the next one. `last`: key of its last row if more follow, else None."""
        cursor = None if last is None else self.encode(last)
        if cursor is not None:
            url = request.url.include_query_params(after=cursor)
            response.headers["Link"] = f'<{url.replace(path=prefix_of(request.scope) + url.path)}>; rel="next"'
        return Page(data=data, has_more=cursor is not None, next_cursor=cursor)

    def page_of_all(
        self,
        request: Request,
        response: Response,
        rows: Sequence[T],
        key: Callable[[T], K],
        after: K | None,
        limit: int,
    ) -> Page[T]:
        """A page of a short list in ascending order of `key`, given whole."""
        found = [row for row in rows if after is None or key(row) > after]  # type: ignore[operator] # keys have an order
        data = found[:limit]
        return self.page(request, response, data, key(data[-1]) if len(found) > limit else None)

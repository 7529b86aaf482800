"""Work that would block the event loop (hashing, packing, writing to disk), in threads.

A thread cannot be interrupted: a task that is cancelled meanwhile ends once its thread has, so that nothing goes on
behind its caller and no file is left over.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function in a thread and return its result."""
    call = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        if not call.cancelled():
            call.exception()  # marks it as seen
        raise


@asynccontextmanager
async def entered_in_thread(manager: AbstractContextManager[R]) -> AsyncIterator[R]:
    """A context manager that is entered and left in threads; errors of the body are not given to it."""
    stack = ExitStack()
    try:
        yield await in_thread(stack.enter_context, manager)
    finally:
        await in_thread(stack.close)

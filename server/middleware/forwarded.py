"""Headers of trusted proxies (`FORWARDED_ALLOW_IPS`): the client's address and scheme, and the host that it called."""

from typing import Any

from starlette.datastructures import Headers
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from server.auth.authentication import FORWARDED_HOST


class ForwardedHeaders(ProxyHeadersMiddleware):
    """uvicorn's middleware, which also keeps `X-Forwarded-Host` of a trusted proxy in the request's state.

    It has to see the address of the proxy itself, so it encloses the whole application.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on."""
        client = scope.get("client")
        if scope["type"] == "http" and client is not None and client[0] in self.trusted_hosts:
            host = Headers(scope=scope).get("x-forwarded-host", "").partition(",")[0].strip()
            if host:
                scope.setdefault("state", {})[FORWARDED_HOST] = host
        await super().__call__(scope, receive, send)

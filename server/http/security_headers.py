"""Headers that every answer carries, unless the route has set its own."""

from starlette.datastructures import MutableHeaders

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
USUAL_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""Answers are data; what a browser takes for a page may load nothing."""
ONE_YEAR_SECONDS = 365 * 86_400


def add_security_headers(headers: MutableHeaders, path: str, scheme: str) -> None:
    """Complete an answer's headers. Answers of the interface are someone's own: no cache keeps them."""
    for name, value in ALWAYS.items():
        headers[name] = value
    headers.setdefault("Content-Security-Policy", USUAL_POLICY)
    if path.startswith("/v1/"):
        headers.setdefault("Cache-Control", "no-store")
    if scheme == "https":
        headers["Strict-Transport-Security"] = f"max-age={ONE_YEAR_SECONDS}"

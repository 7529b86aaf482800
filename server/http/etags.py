"""Conditional requests (RFC 9110, 13): what `If-Match` and `If-None-Match` name, and whether it is what is here."""


def named_tags(header: str) -> set[str]:
    """The entity tags of a header, each with its quotes; `*` for anything."""
    return {tag.strip() for tag in header.split(",")} - {""}


def matches_weakly(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names the tag. Weak and strong ones count alike."""
    if header is None:
        return False
    tags = {tag.removeprefix("W/") for tag in named_tags(header)}
    return "*" in tags or etag in tags

"""Entity tags of conditional requests (RFC 9110, 13): `If-Match` and `If-None-Match`."""


def named_tags(header: str) -> set[str]:
    """The entity tags of a header, each with its quotes; `*` matches any."""
    return {tag.strip() for tag in header.split(",")} - {""}


def matches_weakly(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` contains the tag. Weak and strong tags compare equal."""
    if header is None:
        return False
    tags = {tag.removeprefix("W/") for tag in named_tags(header)}
    return "*" in tags or etag in tags


def matches_strongly(header: str | None, etag: str) -> bool:
    """Whether `If-Match` contains the strong tag, or is `*`, or missing. Weak tags match nothing."""
    return header is None or not {"*", etag}.isdisjoint(named_tags(header))


def named_tag_halves(header: str | None) -> set[str] | None:
    """The strong tags in an `If-Match` header, each up to its dash; None without a header, or for `*`.

    Tags of what changes all the time consist of a half for what people edit, and one for the rest.
    """
    if header is None:
        return None
    tags = named_tags(header)
    return None if "*" in tags else {tag.strip('"').partition("-")[0] for tag in tags if not tag.startswith("W/")}

"""Routes of voices, of links to them, and of what such a link shows."""

from starlette.convertors import PathConvertor, register_url_convertor


class _VoiceName(PathConvertor):
    """A voice's name as the end of a path; it may have slashes, but none that stands for a part of the voice."""

    regex = r"(?!.*/(?:links(?:/[^/]*)?|versions|bundle\.zip|conversions(?:/content)?)$).*"


register_url_convertor("voice", _VoiceName())

"""Names of base weights of one's own, which a configuration's `pretrained` may have in place of auto and none."""

import re

PRETRAINED_WORDS = ("auto", "none")
MAX_LENGTH = 64
_NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{MAX_LENGTH - 1}}}")


def check_base_weights(name: str) -> str:
    """A value of `pretrained`: auto, none or a name. Raises ValueError."""
    if name in PRETRAINED_WORDS or _NAME.fullmatch(name):
        return name
    raise ValueError(
        "set auto, none, or the name of base weights of your own: 1 to 64 lower-case letters, digits, dots, dashes and "
        "underscores, of which the first is a letter or digit"
    )


def check_base_weights_name(name: str) -> str:
    """A name for base weights of one's own. Raises ValueError."""
    if name in PRETRAINED_WORDS:
        raise ValueError(f"{name} has a meaning of its own; choose another name")
    return check_base_weights(name)

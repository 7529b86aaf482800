"""Fields of the configuration in messages, replaced by the options of the pipeline command.

The engine's messages name fields (`pretrained=none`, a lower `learning_rate`), since a job over HTTP sets them by name.
A command with options of its own shows `--pretrained none` and `--set learning_rate`.
"""

import re
from collections.abc import Mapping

from rvc_engine.config import TrainingConfig
from rvc_engine.events import Event

_VALUE = r"=(?P<value>[\w+-]+(?:\.\d+)?(?:=\d+(?:,[^\s=,]+=\d+)*)?)"
_SWITCHES = {"true": "1", "false": "0"}


class OptionWords:
    """Translation of messages to the options of one command."""

    def __init__(self, options: Mapping[str, list[str]]) -> None:
        """`options`: the names of the option of each field that has one, such as `["-v", "--version"]`."""
        self._options = {name: names for name, names in options.items() if name in TrainingConfig.model_fields}
        fields = "|".join(sorted(TrainingConfig.model_fields, key=len, reverse=True))
        self._assignment = re.compile(rf"(?<![A-Za-z0-9_/.=\"-])(?<!--set )(?P<field>{fields}){_VALUE}")
        self._name = re.compile(rf"(?<![A-Za-z0-9_/.=\"-])(?<!--set )(?P<field>{fields})(?![A-Za-z0-9_/=])")

    def __call__(self, event: Event) -> Event:
        """The event, with its message in the words of the command; lines for the log alone stay."""
        message = getattr(event, "message", None)
        is_shown = message is not None and getattr(event, "level", None) != "debug"
        return event.model_copy(update={"message": self.translate(str(message))}) if is_shown else event

    def translate(self, text: str) -> str:
        """Replace `field=value` by the option with its value, and a lone field of several words by the option."""
        text = self._assignment.sub(lambda found: self._assigned(found["field"], found["value"]), text)
        text = self._name.sub(lambda found: self._named(found["field"]), text)
        return re.sub(r"\bset (?=-)", "use ", text)

    def _assigned(self, field: str, value: str) -> str:
        names = self._options.get(field)
        if names is None:
            return f"--set {field}={value}"
        return f"{names[0]} {_SWITCHES.get(value.lower(), value)}"

    def _named(self, field: str) -> str:
        if "_" not in field:  # a word of the language: version, pitch, content
            return field
        names = self._options.get(field)
        return f"--set {field}" if names is None else "/".join(names)

"""A stand-in for pydantic, for Pythons that have PyTorch and little else: models take values, and check none.

It has what `rvc_engine.config` and the sizes of HuBERT use, and is on the path only where pydantic is missing.
"""

from collections.abc import Callable
from inspect import get_annotations
from typing import Any

PositiveInt, PositiveFloat = int, float


class _FieldInfo:
    def __init__(self, default: Any = ..., **options: Any) -> None:
        self.default, self.factory = default, options.get("default_factory")

    def value(self) -> Any:
        return self.factory() if self.factory is not None else self.default


class BaseModel:
    """A model without validation."""

    def __init_subclass__(cls, **_: Any) -> None:
        super().__init_subclass__()

    def __init__(self, **given: Any) -> None:
        for kind in reversed(type(self).__mro__):
            for name in get_annotations(kind):
                default = getattr(type(self), name, ...)
                default = default.value() if isinstance(default, _FieldInfo) else default
                self.__dict__[name] = given.get(name, default)

    @classmethod
    def model_validate(cls, values: dict[str, Any]) -> Any:
        """A model with these values."""
        return cls(**values)


def _as_it_is(*_: Any, **__: Any) -> Callable[[Any], Any]:
    return lambda function: function


def _marker(*_: Any, **__: Any) -> None:
    return None


Field = _FieldInfo
ConfigDict = dict
AfterValidator = BeforeValidator = _marker
model_validator = field_validator = _as_it_is

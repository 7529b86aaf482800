"""Base of the tables: names of constraints, UTC times, and SQL of their checks."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

import sqlalchemy as sa
import uuid6
from sqlmodel import Field, SQLModel

NAMING: dict[str, str] = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

LOCAL_OWNER = "local"
"""Owner of all resources on a server without tokens, and of `RVC_TRAIN_TOKEN`."""


class Table(SQLModel):
    """Base of all rows. Every constraint has a name, which migrations need to change it."""

    metadata: ClassVar[sa.MetaData] = sa.MetaData(naming_convention=NAMING)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A time with its zone, always UTC; SQLite stores it without the zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Convert to the database's form."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Convert from the database's form."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def in_sql(column: str, values: frozenset[Any] | type[StrEnum]) -> str:
    """SQL for a column that has one of these values, for constraints."""
    return f"{column} IN ({', '.join(sorted(repr(str(value)) for value in values))})"


def nullable_json() -> sa.Column[Any]:
    """A JSON column that stores None as NULL, not as JSON null."""
    return sa.Column(sa.JSON(none_as_null=True), nullable=True)


def new_id(prefix: str) -> str:
    """A UUIDv7 with a prefix: ids sort by creation time."""
    return f"{prefix}_{uuid6.uuid7().hex}"


def owner_column(*, index: bool = True) -> Any:
    """The column of a row's owner."""
    return Field(default=LOCAL_OWNER, index=index, sa_column_kwargs={"server_default": LOCAL_OWNER})

"""Transactions, on SQLite and on PostgreSQL."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.database.engine import create_engine, read_session


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_all_statements_of_a_read_see_the_database_at_one_moment(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    postgres: Any = request.getfixturevalue("postgres") if kind == "postgresql" else None
    engine = create_engine(postgres.new_database() if postgres else f"sqlite:///{tmp_path / 'one.db'}")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE jobs (number INTEGER)"))
    with read_session(engine) as session:
        assert session.execute(sa.text("SELECT count(*) FROM jobs")).scalar() == 0
        with engine.begin() as writing:
            writing.execute(sa.text("INSERT INTO jobs VALUES (1)"))
        assert session.execute(sa.text("SELECT count(*) FROM jobs")).scalar() == 0
    with read_session(engine) as session:
        assert session.execute(sa.text("SELECT count(*) FROM jobs")).scalar() == 1
    with engine.begin() as writing:  # a connection that was read with writes again
        writing.execute(sa.text("INSERT INTO jobs VALUES (2)"))
    engine.dispose()

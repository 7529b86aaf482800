"""The administrator's guide has the settings, failure codes and metrics of the programs."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from rvc_engine.errors import FailureCode
from server.app import NUM_CONNECTIONS
from server.database.engine import NUM_CONNECTIONS as NUM_WORKER_CONNECTIONS
from server.database.engine import create_engine, migrate
from server.job_store.liveness import WorkerLiveness
from server.metrics import Metrics
from server.settings import GIB, MIB, ServerSettings
from server.storage.local import Storage
from worker.settings import WorkerSettings

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "operations.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The cells of the rows below a table's first words."""
    rows = GUIDE.split(f"\n| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.replace(r"\|", "\0").strip("|").split("|")] for row in rows]


def shown(field: FieldInfo) -> str | None:
    """A default as the guide writes it; None for those that are made when the program starts."""
    value: Any = field.default
    if field.default_factory is not None:
        return None
    if value in {None, ()}:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and value >= MIB:
        return f"{value // GIB} GiB" if value % GIB == 0 else f"{value // MIB} MiB"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


@pytest.mark.parametrize(("heading", "kind"), [("server", ServerSettings), ("worker", WorkerSettings)])
def test_the_guide_has_every_setting_with_its_default(
    heading: str, kind: type[ServerSettings | WorkerSettings]
) -> None:
    documented = {name.strip("`"): default for name, default, _ in table(heading)}
    fields = {f"RVC_TRAIN_{name.upper()}": field for name, field in kind.model_fields.items()}
    assert list(documented) == list(fields)
    for name, field in fields.items():
        assert documented[name] == (shown(field) or documented[name]), name


def test_the_guide_has_every_failure_code_and_says_whether_it_is_retried() -> None:
    documented = {code.strip("`"): retried for code, retried, _, _ in table("code")}
    assert documented == {code.value: "yes" if code.retryable else "no" for code in FailureCode}


def test_the_guide_alerts_on_numbers_that_the_server_tells_of(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'book.db'}")
    migrate(engine)
    metrics = Metrics(engine, Storage(tmp_path), WorkerLiveness(60))
    metrics.request("GET", "/livez", 200, 0.01)
    text = metrics.text().decode()
    engine.dispose()
    documented = set(re.findall(r"\brvc_train_[a-z_]+", GUIDE)) - {"rvc_train"}
    assert documented
    assert {name for name in documented if name not in text} == set()


def test_the_guide_says_how_many_connections_a_database_must_allow() -> None:
    text = " ".join(GUIDE.split())
    assert f"allow {NUM_CONNECTIONS} connections for the server" in text
    assert f"and {NUM_WORKER_CONNECTIONS} for each worker" in text

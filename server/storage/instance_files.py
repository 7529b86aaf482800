"""The file with the id of an installation, in the data folder and in scratch folders of workers. No database."""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from rvc_engine.workspace.atomic_files import write_atomically
from server.errors import SettingsRefused

INSTANCE_FILE = "instance.json"


class InstanceMark(BaseModel):
    """Content of `instance.json`."""

    id: str
    created_at: datetime
    storage: str | None = None
    """Address of the store behind the data folder; None: the folder has all files."""


def read_instance_id(path: Path) -> str | None:
    """Instance id in a file; None if it does not exist. Raises SettingsRefused if it cannot be read."""
    mark = read_mark(path)
    return None if mark is None else mark.id


def read_mark(path: Path) -> InstanceMark | None:
    """Content of a file, as `read_instance_id`."""
    try:
        return InstanceMark.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsRefused(f"{path} cannot be read ({error.strerror}); check the folder and its owner") from error
    except ValidationError as error:
        raise SettingsRefused(
            f"{path} is damaged: it should contain the instance id; restore it from a backup, or delete it and "
            "run `rvc-train admin adopt`"
        ) from error


def write_instance_id(path: Path, an_id: str, storage: str | None = None) -> None:
    """Write the id atomically, safe against a power cut."""
    mark = InstanceMark(id=an_id, created_at=datetime.now(UTC), storage=storage)
    write_atomically(path, mark.model_dump_json(indent=1, exclude_none=True).encode() + b"\n")

"""Start of a run: base weights of the user's own, or its choice where published ones were missing. No torch."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from rvc_engine.errors import InvalidConfig
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.layout import Workspace


class BaseWeightsChoice(BaseModel):
    """Contents of `base_weights.json` in a run's folder; a later start does the same."""

    model_config = ConfigDict(frozen=True)

    pretrained: Literal["auto", "none"]
    """auto: the published ones are fetched. none: the run trains from scratch."""
    reason: str = ""
    """Cause of none, as a clause."""
    origin: str | None = None
    """Base weights of the user's own that the run began with, by name, or the save of an earlier voice."""

    @classmethod
    def read(cls, workspace: Workspace) -> Self | None:
        """The kept choice; None where none was made. Raises InvalidConfig for a broken file."""
        path = workspace.base_weights_choice
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InvalidConfig(
                f"{path} cannot be read; delete it, or set pretrained=none or pretrained=auto"
            ) from error

    def write(self, workspace: Workspace) -> None:
        """Keep the choice for later starts."""
        write_atomically(workspace.base_weights_choice, self.model_dump_json(indent=1).encode())

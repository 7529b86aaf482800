"""Which server to talk to, and with which token: flags first, then the environment, then the user's config file."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from rvc_train.errors import UsageError

DEFAULT_SERVER = "http://127.0.0.1:8000"
SERVER_VARIABLE = "RVC_TRAIN_SERVER"
TOKEN_VARIABLE = "RVC_TRAIN_TOKEN"  # noqa: S105 - the variable's name


@dataclass(frozen=True)
class Connection:
    """Where the server is and how to be let in."""

    server: str
    token: str | None


def config_file() -> Path:
    """The user's config file: `server = "..."` and `token = "..."`, both optional."""
    return Path(platformdirs.user_config_dir("rvc-train")) / "config.toml"


def resolve(
    server: str | None, token: str | None, environment: Mapping[str, str] | None = None, file: Path | None = None
) -> Connection:
    """What the flags say, or else the environment, or else the config file, or else the default.

    Raises UsageError for a config file that cannot be read or holds something else.
    """
    environment = os.environ if environment is None else environment
    written = _read(config_file() if file is None else file)
    return Connection(
        server=server or environment.get(SERVER_VARIABLE) or written.get("server") or DEFAULT_SERVER,
        token=token or environment.get(TOKEN_VARIABLE) or written.get("token"),
    )


def _read(file: Path) -> dict[str, str]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"the config file {file} cannot be read ({error}); mend it or take it away") from error
    unknown = sorted(set(content) - {"server", "token"})
    wrong = sorted(key for key, value in content.items() if not isinstance(value, str))
    if unknown or wrong:
        raise UsageError(
            f"the config file {file} may hold the words server and token only; see {(unknown + wrong)[0]!r}"
        )
    return {key: value for key, value in content.items() if isinstance(value, str)}

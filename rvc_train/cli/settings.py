"""Address and token of the server: from options, then the environment, then the user's config file."""

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
    """Address and token of the server."""

    server: str
    token: str | None


def config_file() -> Path:
    """The user's config file: `server = "..."` and `token = "..."`, both optional."""
    return Path(platformdirs.user_config_dir("rvc-train")) / "config.toml"


def resolve(
    server: str | None, token: str | None, environment: Mapping[str, str] | None = None, file: Path | None = None
) -> Connection:
    """Resolve each value from its option, the environment, the config file or the default, in this order.

    Raises UsageError for a config file that cannot be read or has other keys.
    """
    environment = os.environ if environment is None else environment
    configured = _read(config_file() if file is None else file)
    return Connection(
        server=server or environment.get(SERVER_VARIABLE) or configured.get("server") or DEFAULT_SERVER,
        token=token or environment.get(TOKEN_VARIABLE) or configured.get("token"),
    )


def _read(file: Path) -> dict[str, str]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"the config file {file} cannot be read ({error}); fix it or delete it") from error
    unknown = sorted(set(content) - {"server", "token"})
    wrong = sorted(key for key, value in content.items() if not isinstance(value, str))
    if unknown or wrong:
        raise UsageError(
            f"the config file {file} may only have the texts server and token; remove or fix {(unknown + wrong)[0]!r}"
        )
    return {key: value for key, value in content.items() if isinstance(value, str)}

"""Address and token of the server: from options, then the environment, then the user's config file.

Before the token of the config file, which may be another server's, comes the local token of a server on this machine.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rvc_engine.environment.text_files import read_text
from rvc_train.errors import UsageError
from rvc_train.http.authorization import local_token, local_token_source
from rvc_train.local_servers import config_folder

DEFAULT_SERVER = "http://127.0.0.1:8000"
SERVER_VARIABLE = "RVC_TRAIN_SERVER"
TOKEN_VARIABLE = "RVC_TRAIN_TOKEN"  # noqa: S105 - the variable's name


@dataclass(frozen=True)
class Connection:
    """Address and token of the server."""

    server: str
    token: str | None
    token_source: str = ""
    """Source of the token, for the message of a refused one."""


def config_file() -> Path | None:
    """The user's config file: `server = "..."` and `token = "..."`, both optional. None without a home folder."""
    folder = config_folder()
    return None if folder is None else folder / "config.toml"


def resolve(
    server: str | None, token: str | None, environment: Mapping[str, str] | None = None, file: Path | None = None
) -> Connection:
    """Resolve each value from its option, the environment, the config file or the default, in this order.

    Raises UsageError for a config file that cannot be read or has other keys.
    """
    environment = os.environ if environment is None else environment
    file = config_file() if file is None else file
    configured = {} if file is None else _read(file)
    address = server or environment.get(SERVER_VARIABLE) or configured.get("server") or DEFAULT_SERVER
    sources = (
        (token, "--token"),
        (environment.get(TOKEN_VARIABLE), TOKEN_VARIABLE),
        (local_token(address), local_token_source()),
        (configured.get("token"), str(file)),
    )
    return Connection(address, *next((each for each in sources if each[0]), (None, "")))


def _read(file: Path) -> dict[str, str]:
    try:
        content = tomllib.loads(read_text(file))
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

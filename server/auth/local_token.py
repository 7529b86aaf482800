"""The local token of a server without `RVC_TRAIN_TOKEN`: made once for each data folder, kept over restarts.

The database has its hash, as of any token; the secret is in the file `local-servers.json` of the user who runs the
server (`rvc_train.local_servers`), where the same user's client finds it. A user without a file to write gets the
secret printed, once.
"""

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import structlog

from rvc_engine.workspace.atomic_files import keep_aside, write_atomically
from rvc_train.local_servers import DamagedFile, LocalServers, local_servers_file, read_local_servers
from server.auth.tokens import TokenService, new_secret

logger = structlog.get_logger(__name__)

LOCK_SECONDS = 10


def provide_local_token(tokens: TokenService, address: str) -> Iterator[str]:
    """Record the local token for the clients of this address, making it if there is none.

    Yields sentences for the terminal of the user, which may contain the secret.
    """
    path = local_servers_file()
    with contextlib.suppress(OSError, DamagedFile):
        servers = read_local_servers(path)
        known = servers.root.get(tokens.instance_id)
        if known is not None and servers.token_of(address) == known.token and tokens.has_local_token(known.token):
            return  # also with a file that cannot be written
    try:
        with _locked(path) as (servers, write):
            known = servers.root.get(tokens.instance_id)
            is_valid = known is not None and tokens.has_local_token(known.token)
            secret = known.token if known is not None and is_valid else new_secret()
            write(servers.updated(tokens.instance_id, secret, address))
            if not is_valid:
                tokens.set_local_token(secret)
    except OSError as error:
        place = path or "a config folder"
        fault = f"the local token cannot be recorded in {place} ({error.strerror or error})"
        if tokens.has_local_token():
            yield (
                f"{fault}; the present one stays valid, and `rvc-train admin token create NAME --scope admin` makes "
                "another"
            )
        else:
            tokens.set_local_token(secret := new_secret())
            yield f"{fault}; it is shown this once, for --token or RVC_TRAIN_TOKEN: {secret}"


def release_address(address: str) -> None:
    """Record that none of the servers in the file listens on this address any more: another one does."""
    path = local_servers_file()
    try:
        if read_local_servers(path).token_of(address) is not None:
            with _locked(path) as (servers, write):
                write(servers.without(address))
    except (OSError, DamagedFile) as error:
        logger.warning("the list of local servers cannot be changed", file=str(path), reason=str(error))


@contextlib.contextmanager
def _locked(path: Path | None) -> Iterator[tuple[LocalServers, Callable[[LocalServers], None]]]:
    """Hold the file's lock; gives the content, and a function that replaces it. Raises OSError.

    A damaged file is kept aside. The server's umask makes the file readable by its user only.
    """
    if path is None:
        raise OSError(errno.ENOENT, "this user has no home folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS):
        try:
            servers = read_local_servers(path)
        except DamagedFile as error:
            logger.warning("the list of local servers is damaged", file=str(keep_aside(path)), reason=str(error))
            servers = LocalServers()
        yield servers, lambda new: write_atomically(path, new.model_dump_json(indent=1).encode() + b"\n")

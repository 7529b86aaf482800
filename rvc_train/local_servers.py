"""The local tokens of this user's servers: `local-servers.json` in the user's config folder, readable by the user only.

A server that runs without `RVC_TRAIN_TOKEN` writes its local token there under the id of its instance, with the
addresses that it listens on. The client reads the file, and sends a token to a loopback address of that server only.
"""

import ipaddress
from pathlib import Path

import platformdirs
from pydantic import BaseModel, Field, RootModel, ValidationError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of one address: a server on one of them is found by each."""
_ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound


class LocalServer(BaseModel):
    """The local token of one instance, and the addresses (`host:port`) that it listened on last."""

    token: str = Field(pattern="^[!-~]{16,200}$")
    addresses: list[str] = []


class LocalServers(RootModel[dict[str, LocalServer]]):
    """Content of the file: servers by instance id."""

    root: dict[str, LocalServer] = {}

    def token_of(self, address: str) -> str | None:
        """Local token of the server at an address; None without one."""
        return next((each.token for each in self.root.values() if address in each.addresses), None)

    def without(self, address: str) -> "LocalServers":
        """The same without this address: another server listens there now."""
        return LocalServers(
            {
                instance_id: LocalServer(token=each.token, addresses=[a for a in each.addresses if a != address])
                for instance_id, each in self.root.items()
            }
        )

    def updated(self, instance_id: str, token: str, address: str) -> "LocalServers":
        """The same with an instance that listens on this address, and no other instance there."""
        others = self.without(address).root
        present = others.get(instance_id)
        addresses = [*(present.addresses if present is not None else []), address]
        return LocalServers(others | {instance_id: LocalServer(token=token, addresses=addresses)})


class DamagedFile(Exception):
    """The file is not of this form; the message is a sentence."""


def config_folder() -> Path | None:
    """The user's config folder of this program; None for a user without a home folder."""
    try:
        folder = Path(platformdirs.user_config_dir("rvc-train"))
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # older versions of platformdirs leave the `~` in place


def local_servers_file() -> Path | None:
    """Path of the file; None for a user without a home folder."""
    folder = config_folder()
    return None if folder is None else folder / "local-servers.json"


def read_local_servers(path: Path | None) -> LocalServers:
    """Read the file; empty when it does not exist. Raises OSError and DamagedFile."""
    if path is None or not path.exists():
        return LocalServers()
    if not path.is_file():  # reading a pipe would block
        raise DamagedFile(f"{path} is not a file; move it away")
    try:
        return LocalServers.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DamagedFile(f"{path} is damaged and is ignored; start the server again to write a new one") from error


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's loopback interface, which no other machine reaches."""
    if host.lower() in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_key(host: str, port: int) -> str:
    """`host:port`, the same for all names of the loopback address, and for a server that listens on all addresses."""
    host = host.lower().strip("[]")
    return f"{'127.0.0.1' if host in LOOPBACK_NAMES | _ANY_ADDRESS else host}:{port}"

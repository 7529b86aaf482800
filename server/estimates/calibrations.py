"""Calibrations of devices: a small file each, written by a worker on such a device and read for estimates.

Kept beside the database, like other measurements of workers: each can be made again.
"""

import hashlib
import time
from collections.abc import Iterable

from pydantic import BaseModel, ValidationError

from rvc_engine.calibration.results import FORMAT, Calibration
from rvc_engine.workspace.atomic_files import write_atomically
from server.storage.local import Storage

CACHE_SECONDS = 20.0


class StoredCalibration(BaseModel):
    """Content of a calibration's file."""

    device_name: str
    """Model of the device and number of threads or devices, as in the worker's row."""
    calibration: Calibration


class Calibrations:
    """The calibrations in a data folder: the newest of each kind of device."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._found: dict[str, Calibration] = {}
        self._read_at = float("-inf")

    def of_device(self, device_name: str) -> Calibration | None:
        """The device's calibration; None without one that this version can read."""
        try:
            stored = StoredCalibration.model_validate_json(
                self._storage.calibration_file(_key(device_name)).read_bytes()
            )
        except (OSError, ValidationError):
            return None
        is_usable = stored.calibration.format == FORMAT and stored.device_name == device_name
        return stored.calibration if is_usable else None

    def of_devices(self, device_names: Iterable[str | None]) -> dict[str, Calibration]:
        """Calibrations by the names of devices that have one; files are read again after some seconds."""
        if time.monotonic() - self._read_at > CACHE_SECONDS:
            self._found, self._read_at = {}, time.monotonic()
        names = {name for name in device_names if name is not None}
        for name in names - self._found.keys():
            if (calibration := self.of_device(name)) is not None:
                self._found[name] = calibration
        return {name: self._found[name] for name in names & self._found.keys()}

    def write(self, device_name: str, calibration: Calibration) -> None:
        """Replace the device's calibration. OSError when the storage cannot be written."""
        content = StoredCalibration(device_name=device_name, calibration=calibration).model_dump_json(indent=1)
        write_atomically(self._storage.calibration_file(_key(device_name)), content.encode())

    def is_missing(self, device_name: str, version: str, torch: str | None, num_threads: int) -> bool:
        """Whether a device has no calibration with these versions of this program and of PyTorch (None: any)."""
        found = self.of_device(device_name)
        if found is None or (found.version, found.num_threads) != (version, num_threads):
            return True
        return torch not in {None, found.torch.partition("+")[0]}


def _key(device_name: str) -> str:
    return hashlib.sha256(device_name.encode()).hexdigest()[:32]

"""Base weights of one's own, by name, and what they fit. No torch.

    <weights folder>/own/<name>/generator.pth, discriminator.pth    either or both
    <weights folder>/own/<name>/base_weights.json                   what they fit, as found when they were added

`rvc_engine.checkpoints.base_weights` reads the files. A server has base weights of its users elsewhere, and uses only
the schemas.
"""

import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rvc_engine.config import SampleRate, TrainingConfig, Version
from rvc_engine.environment.files import rename, sync_file, sync_folder
from rvc_engine.errors import InvalidConfig
from rvc_engine.hyperparameters import PUBLISHED_WIDTH
from rvc_engine.machine import Machine
from rvc_engine.names.base_weights import check_base_weights_name
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.checksum import sha256_of
from rvc_engine.workspace.disk import translating_disk_full

BaseRole = Literal["generator", "discriminator"]
BASE_ROLES: tuple[BaseRole, ...] = ("generator", "discriminator")
_DESCRIPTION = "base_weights.json"


class WeightsKind(BaseModel):
    """Kind of voice that a generator or discriminators are for."""

    model_config = ConfigDict(frozen=True)

    version: Version
    sample_rate: SampleRate | None = None
    """None for discriminators, which are the same for every rate."""
    f0: bool | None = None
    """Whether the voice follows pitch; None for discriminators."""
    width: int = PUBLISHED_WIDTH

    def __str__(self) -> str:
        if self.sample_rate is None:
            return discriminators_text(self.version, self.width)
        return generator_text(self.version, self.sample_rate, bool(self.f0), self.width)

    def fits(self, config: TrainingConfig) -> bool:
        """Whether weights of this kind fit a job."""
        wanted = {"version": config.version, "width": config.width, "sample_rate": config.sample_rate, "f0": config.f0}
        return all(value in {None, wanted[name]} for name, value in self.model_dump().items())


def generator_text(version: str, rates: str, f0: bool, width: int) -> str:
    """A kind of generator in words."""
    size = _size_text(width)
    return f"{version} {rates} weights {'with' if f0 else 'without'} pitch{size}"


def discriminators_text(version: str, width: int) -> str:
    """A kind of discriminators in words."""
    size = _size_text(width)
    return f"{version} discriminators{size}"


def _size_text(width: int) -> str:
    return "" if width == PUBLISHED_WIDTH else f" of width {width}"


def misfit(name: str, kinds: Mapping[BaseRole, WeightsKind], config: TrainingConfig) -> str | None:
    """Why base weights do not fit a job, with both kinds, as a sentence; None where they fit."""
    found = " and ".join(str(kind) for kind in kinds.values() if not kind.fits(config))
    if not found:
        return None
    wanted = generator_text(config.version, config.sample_rate, config.f0, config.width)
    return (
        f"{name} does not fit: these are {found}; the job asks for {wanted}; change version, sample_rate, f0 or width "
        "of the job, or choose another start"
    )


class WeightsCheck(BaseModel):
    """Result of a check of base weights in a process of its own."""

    kinds: dict[BaseRole, WeightsKind] = {}
    error: str | None = None


class OwnFile(BaseModel):
    """A file of base weights."""

    size: int
    """Bytes."""
    sha256: str
    kind: WeightsKind


class OwnBaseWeights(BaseModel):
    """Base weights under a name: what is in `base_weights.json`."""

    name: str
    generator: OwnFile | None = None
    discriminator: OwnFile | None = None
    added_at: datetime

    @property
    def files(self) -> dict[BaseRole, OwnFile]:
        """The files that are there, the generator first."""
        return {role: file for role in BASE_ROLES if (file := getattr(self, role)) is not None}


class OwnWeightsFolder:
    """Base weights of one's own in a weights folder."""

    def __init__(self, weights_folder: Path) -> None:
        self._folder = weights_folder / "own"

    def all(self) -> list[OwnBaseWeights]:
        """All base weights, by name; those without a readable description are left out."""
        names = sorted(path.parent.name for path in self._folder.glob(f"*/{_DESCRIPTION}"))
        return [found for name in names if (found := self.find(name)) is not None]

    def find(self, name: str) -> OwnBaseWeights | None:
        """Base weights with a name; None where there are none."""
        try:
            return OwnBaseWeights.model_validate_json((self._folder / name / _DESCRIPTION).read_bytes())
        except (OSError, ValueError):
            return None

    def path_of(self, name: str, role: BaseRole) -> Path:
        """Path of a file, present or not."""
        return self._folder / name / f"{role}.pth"

    def add(self, name: str, files: Mapping[BaseRole, tuple[Path, WeightsKind]]) -> OwnBaseWeights:
        """Copy files whose kind was checked. Raises InvalidConfig for a bad or taken name, DiskFull."""
        try:
            check_base_weights_name(name)
        except ValueError as error:
            raise InvalidConfig(f"{name!r} cannot be the name of base weights: {error}") from error
        target = self._folder / name
        if target.exists():
            raise InvalidConfig(
                f"there are base weights named {name} in {self._folder}; choose another name, or remove them with "
                f"`rvc-engine weights remove {name}`"
            )
        temporary = self._folder / f".{name}.{os.getpid()}.tmp"
        with translating_disk_full(self._folder):
            temporary.mkdir(parents=True)
            try:
                described = {}
                for role, (source, kind) in files.items():
                    copy = temporary / f"{role}.pth"
                    shutil.copyfile(source, copy)  # no link: other programs write their G_ files again in place
                    sync_file(copy)
                    described[role] = OwnFile(size=copy.stat().st_size, sha256=sha256_of(copy), kind=kind)
                found = OwnBaseWeights(name=name, added_at=datetime.now(UTC), **described)
                write_atomically(temporary / _DESCRIPTION, found.model_dump_json(indent=1).encode())
                rename(temporary, target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            sync_folder(self._folder)
        return found

    def remove(self, name: str) -> None:
        """Delete base weights. Raises InvalidConfig when there are none with the name."""
        if not name or self.find(name) is None:
            known = ", ".join(found.name for found in self.all()) or "none"
            raise InvalidConfig(f"there are no base weights of your own named {name!r}; there are: {known}")
        shutil.rmtree(self._folder / name)


def own_base_paths(config: TrainingConfig, machine: Machine) -> tuple[Path | None, Path | None]:
    """The user's own files to start from, generator first: those of the machine, or else those of the config's name."""
    given = (machine.pretrained_g, machine.pretrained_d)
    name = config.own_base_weights
    if name is None or any(given):
        return given
    folder = OwnWeightsFolder(machine.weights_folder)
    found = folder.find(name)
    if found is None:
        return None, None
    generator, discriminator = (folder.path_of(name, role) if role in found.files else None for role in BASE_ROLES)
    return generator, discriminator

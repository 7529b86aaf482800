"""RVC's `configs/<version>/<rate>.json`: hyperparameters that its page copies into a new run's folder. No torch."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from rvc_engine.config import SampleRate, TrainingConfig, Version
from rvc_engine.errors import InvalidConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.layout import Workspace

TEMPLATES = tuple(itertools.product(get_args(Version), get_args(SampleRate)))
"""Version and rate of each template."""


def template_text(version: Version, rate: SampleRate) -> str:
    """Contents of a template, with `fp16_run`, which RVC's trainer reads up to 2024."""
    config = TrainingConfig(version=version, sample_rate=rate)
    tree = json.loads(Hyperparameters.from_config(config).workspace_config(config, 4))
    tree["train"]["fp16_run"] = True
    return json.dumps({part: tree[part] for part in ("train", "data", "model")}, indent=2) + "\n"


def write_templates(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Write all templates; yields each path, and False where a file is there, which is never replaced.

    Raises OSError.
    """
    for version, rate in TEMPLATES:
        path = folder / version / f"{rate}.json"
        if path.exists():
            yield path, False
            continue
        write_atomically(path, template_text(version, rate).encode())
        yield path, True


def find_template(folder: Path, version: Version, rate: SampleRate) -> Path | None:
    """The user's own template for a new run, as RVC looks for it; None where there is none.

    RVC uses v1's at 40 kHz for both versions. In 2023 it has them without a folder of the version, and in 2024 its
    page reads copies in `inuse`.
    """
    names = [f"inuse/{version}/{rate}.json", f"{version}/{rate}.json"]
    names += [f"inuse/v1/{rate}.json", f"v1/{rate}.json"] if rate == "40k" else []
    names += [f"{rate}.json"] if version == "v1" else []
    return next((path for name in names if (path := folder / name).is_file()), None)


def copy_template(folder: Path, workspace: Workspace, config: TrainingConfig) -> Path | None:
    """Copy the user's own template to a new run's `config.json`, as RVC's page does; returns its path.

    None, and no copy, where the run has a `config.json` or the user no template that differs from RVC's. Raises
    InvalidConfig for one that cannot be read.
    """
    version, rate, target = config.version, config.sample_rate, workspace.hyperparameters
    template = None if target.exists() else find_template(folder, version, rate)
    if template is None:
        return None
    try:
        data = template.read_bytes()
        is_edited = not _is_published(json.loads(data), version, rate)
    except (OSError, ValueError) as error:
        raise InvalidConfig(
            f"{template} cannot be read ({error}); correct it, or move it away to train with the published values"
        ) from error
    if not is_edited:
        return None
    write_atomically(target, data)
    return template


def _is_published(tree: object, version: Version, rate: SampleRate) -> bool:
    """Whether the values are RVC's own of any year, which differ in `fp16_run` alone."""
    published = json.loads(template_text(version, rate))
    if isinstance(tree, dict) and isinstance(tree.get("train"), dict):
        tree = tree | {"train": tree["train"] | {"fp16_run": True}}
    return bool(tree == published)

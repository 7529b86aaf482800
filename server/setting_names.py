"""Check of the environment's `RVC_TRAIN_` variables: a misspelt name would silently leave a default in force.

Server and worker often share one environment (a compose file, `.env`, a unit's EnvironmentFile), so a setting of the
other program never prevents a start; it is only logged which program reads it.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping

from server.errors import SettingsRefused

PREFIX = "RVC_TRAIN_"
WORKER_ONLY = frozenset(
    {
        "worker_name",
        "worker_server",
        "worker_labels",
        "worker_job",
        "worker_max_jobs",
        "exit_when_idle_seconds",
        "device",
        "jobs_per_device",
        "engines_per_machine",
        "engine_command",
        "engine_environment",
        "scratch_folder",
        "weights_folder",
        "content_folder",
        "calibrate",
        "calibration_idle_seconds",
        "conversions",
        "conversion_command",
        "conversion_idle_minutes",
        "conversion_memory_bytes",
        "conversion_spare_bytes",
        "poll_seconds",
        "claim_wait_seconds",
        "heartbeat_seconds",
        "heartbeat_file",
        "max_turn_seconds",
        "wish_seconds",
        "record_seconds",
        "stop_seconds",
        "silence_seconds",
        "retry_delay_seconds",
        "disk_wait_seconds",
        "lock_wait_seconds",
    }
)
"""Fields of the worker's settings that are not the server's as well: the server does not import the worker."""
OTHERS = frozenset({"server", "devices", "tag", "torch_index", "worker_memory", "webhook_allow_private"})
"""Names that the client, `rvc-train up`, the compose file and the image read; and one with a refusal of its own."""
_MIN_SIMILARITY = 0.84


def check_setting_names(
    environment: Mapping[str, str], own: Collection[str], program: str, others: Collection[str], other_program: str
) -> Iterator[str]:
    """Yield a sentence for each kind of settings in the environment that `program` does not read.

    `own`: names of the fields that it reads; `others`: of those that `other_program` reads. Raises SettingsRefused for
    a name that no program reads and that resembles one: a misspelling.
    """
    given = [
        name.removeprefix(PREFIX).lower() for name, value in environment.items() if name.startswith(PREFIX) and value
    ]
    unknown = [name for name in given if name not in {*own, *others, *OTHERS}]
    for name in unknown:
        for near in difflib.get_close_matches(name, [*own, *others, *OTHERS], 1, _MIN_SIMILARITY):
            name, near = _variables([name]), _variables([near])  # noqa: PLW2901
            raise SettingsRefused(f"there is no setting {name}; rename it to {near}, or remove it")
    if foreign := [name for name in given if name in others and name not in own]:
        names = _variables(foreign)
        yield f"not read by the {program}, but by the {other_program}: {names}"
    if unknown:
        names = _variables(unknown)
        yield f"not read by any program: {names}; remove what is not needed"


def _variables(names: Collection[str]) -> str:
    return ", ".join(PREFIX + name.upper() for name in sorted(names))

"""Checks of the machine and the data folder, each with a sentence on its result."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlmodel import col

from rvc_engine.child_processes import engine_environment, program_environment, python_command, variable_names
from rvc_engine.environment.disks import (
    ALLOW_LONG_PATHS,
    INNER_PATH_LENGTH,
    LONGEST_PATH,
    has_long_paths,
    synchronised_text,
    synchronising_program,
)
from rvc_engine.errors import EngineError
from rvc_engine.installation import install_command
from rvc_engine.weights.catalogue import Weights
from rvc_train.local_servers import is_loopback
from server.admin.readiness import sqlite_warning
from server.blobs.address import open_blobs
from server.database.clock import utc_now
from server.database.engine import (
    SCHEMA_VERSION,
    check_schema,
    check_write,
    create_engine,
    present_version,
    read_session,
)
from server.database.tables import Event
from server.datasets import landlock
from server.datasets.sandbox import SHOW_CONFINEMENT
from server.errors import SettingsRefused
from server.settings import GIB, ServerSettings
from server.storage.instance_files import INSTANCE_FILE, read_instance_id
from server.storage.instances import check_store, inspect_pairing
from server.storage.local import Storage
from server.storage.orphans import Orphans
from server.storage.sizes import size_of
from server.storage.trash import NAME as TRASH
from server.storage.trash import Trash

State = Literal["ok", "note", "fault"]
MIN_SHARE_BYTES = 2 * GIB
"""Least memory of a GPU for one of several jobs; as in `worker.places`."""
ENGINE_SECONDS = 120
NEEDED_FREE_BYTES = 8 * GIB
"""Free space below which a note is given: a full-size checkpoint has 1.3 GB, a run keeps two, and saves add to that."""


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    what: str
    state: State
    text: str
    """Description of the result; of a problem, also what to do."""


def run_checks(settings: ServerSettings) -> Iterator[Finding]:
    """Run all checks one after another. They change nothing."""
    checks: tuple[Callable[[ServerSettings], Iterator[Finding]], ...] = (
        _engine,
        _weights,
        _disk,
        _database,
        _instance,
        _storage,
        _clock,
        _exposure,
        _sandbox,
    )
    for check in checks:
        try:
            yield from check(settings)
        except (OSError, ValueError, sa.exc.SQLAlchemyError, EngineError, SettingsRefused) as error:
            yield Finding(check.__name__.strip("_"), "fault", str(error).splitlines()[0])


def _engine(_settings: ServerSettings) -> Iterator[Finding]:
    """Check the engine in a child process with a worker engine's environment, because this one never imports torch."""
    command = python_command("rvc_engine", "machine")
    environment = engine_environment(os.environ, variable_names(os.environ.get("RVC_TRAIN_ENGINE_ENVIRONMENT", "")))
    try:
        ran = subprocess.run(command, env=environment, capture_output=True, timeout=ENGINE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        yield Finding("engine", "fault", f"the engine did not respond for {ENGINE_SECONDS} s; check the GPU's driver")
        return
    if ran.returncode != 0:
        lines = ran.stderr.decode(errors="replace").strip().splitlines()
        yield Finding(
            "engine",
            "fault",
            f"the engine cannot start ({lines[-1] if lines else 'no error message'}); a worker needs the `engine` "
            f"extra: {install_command('engine')}. A server alone does not",
        )
        return
    found: dict[str, Any] = json.loads(ran.stdout)
    libraries = ", ".join(f"{name} {number}" for name, number in found["libraries"].items())
    yield Finding("engine", "ok", f"Python {found['python']}, {found['cores']} cores, {libraries}")
    codecs = found["ffmpeg"].get("libavcodec", "?")
    yield Finding(
        "ffmpeg", "ok", f"its libraries are part of PyAV (libavcodec {codecs}); the ffmpeg program is not needed"
    )
    if found.get("advice"):
        yield Finding("gpu", "note", found["advice"])
    elif not found["devices"]:
        build = "this build of torch supports only the CPU" if found["cuda_build"] is None else "no NVIDIA GPU found"
        yield Finding("gpu", "note", f"{build}; training runs on the CPU, which is much slower")
    for device in found["devices"]:
        yield Finding(
            "gpu",
            "ok",
            f"{device['name']}: {device['model']}, {device['memory_bytes'] / GIB:.0f} GiB "
            f"({device['memory_free_bytes'] / GIB:.0f} free), trains in {device['precision']}",
        )
        yield from _shares(device["name"], device["memory_bytes"], os.environ.get("RVC_TRAIN_JOBS_PER_DEVICE", ""))


def _shares(device: str, memory_bytes: int, jobs: str) -> Iterator[Finding]:
    """Check the memory for several jobs at once on a device; a worker refuses other values itself."""
    if not jobs.isdecimal() or int(jobs) <= 1:
        return
    share = memory_bytes / int(jobs)
    if share >= MIN_SHARE_BYTES:
        yield Finding("gpu", "ok", f"{device}: each of {jobs} jobs at once has {share / GIB:.1f} GiB")
    else:
        yield Finding(
            "gpu",
            "fault",
            f"{device}: RVC_TRAIN_JOBS_PER_DEVICE={jobs} leaves each job {share / GIB:.1f} GiB, and a job needs "
            f"{MIN_SHARE_BYTES / GIB:.0f} GiB; set it to a smaller number",
        )


def _weights(settings: ServerSettings) -> Iterator[Finding]:
    weights = Weights(Storage(settings.data_folder).weights_folder)
    present = sorted({file.id for file in weights.files if weights.state(file) in {"verified", "unverified"}})
    damaged = [file for file in weights.files if weights.state(file) == "damaged"]
    for file in damaged:
        yield Finding("weights", "fault", f"{weights.path_of(file)} is damaged; delete it and download it again")
    if "hubert" in present:
        yield Finding("weights", "ok", f"present: {', '.join(present)}")
        return
    yield Finding(
        "weights",
        "note",
        "ContentVec is missing, so jobs with the default content=contentvec fail with missing_weights; "
        f"{weights.ways_to_get('hubert', 'submit with content=whisper-tiny and pretrained=none')}",
    )


def _disk(settings: ServerSettings) -> Iterator[Finding]:
    folder = settings.data_folder.resolve()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    text = f"{free / GIB:.1f} GiB free for {folder}"
    if free < settings.disk_reserve_bytes:
        yield Finding("disk", "fault", f"{text}, below the reserve; free some space, or set a retention policy")
    elif free < NEEDED_FREE_BYTES:
        yield Finding("disk", "note", f"{text}; a full-size run writes 1.3 GB for each checkpoint and each save")
    else:
        yield Finding("disk", "ok", text)
    if not os.access(existing, os.W_OK):
        yield Finding("disk", "fault", f"this user cannot write to {existing}; change its owner")
    yield from _place(folder)


def _place(folder: Path) -> Iterator[Finding]:
    """Check that the folder is neither kept in step with a cloud nor too deep for Windows."""
    if (program := synchronising_program(folder)) is not None:
        yield Finding("disk", "note", synchronised_text(folder, program))
    if not has_long_paths() and len(str(folder)) + INNER_PATH_LENGTH > LONGEST_PATH:
        yield Finding(
            "disk",
            "fault",
            f"paths in {folder} become longer than the {LONGEST_PATH} characters that this Windows allows; use a "
            f"shorter folder, such as C:\\rvc, or let an administrator allow long paths: {ALLOW_LONG_PATHS}",
        )


def _database(settings: ServerSettings) -> Iterator[Finding]:
    if not _has_database(settings):
        yield Finding("database", "note", "none yet; the server creates it at its first start")
        return
    engine = create_engine(settings.url)
    try:
        check_schema(engine)
        version = present_version(engine)
        if version != SCHEMA_VERSION:
            yield Finding(
                "database", "note", f"schema {version}; the server upgrades it to {SCHEMA_VERSION} when it starts"
            )
        else:
            check_write(engine)
            yield Finding("database", "ok", f"{engine.dialect.name}, schema {version}, writable")
        if (warning := sqlite_warning(engine)) is not None:
            yield Finding("sqlite", "note", warning)
    finally:
        engine.dispose()


def _has_database(settings: ServerSettings) -> bool:
    """Whether the database exists: opening a missing SQLite file would create it."""
    url = sa.make_url(settings.url)
    return url.get_backend_name() != "sqlite" or Path(str(url.database)).exists()


def _instance(settings: ServerSettings) -> Iterator[Finding]:
    """Check that data folder and database belong together; then list orphaned files and the trash."""
    pairing = inspect_pairing(settings.data_folder, settings.url)
    if (mismatch := pairing.mismatch) is not None:
        yield Finding("instance", "fault", mismatch)
        return
    if not pairing.is_joined:
        yield Finding("instance", "note", "data folder and database have no id yet; the server's first start sets it")
        return
    yield Finding("instance", "ok", f"data folder and database belong to {pairing.folder_id}")
    engine = create_engine(settings.url)
    try:
        if present_version(engine) == SCHEMA_VERSION:
            yield from _orphans(settings, engine)
    finally:
        engine.dispose()


def _orphans(settings: ServerSettings, engine: sa.Engine) -> Iterator[Finding]:
    storage = Storage(settings.data_folder, open_blobs(settings.storage_url))
    orphans = Orphans(engine, storage, settings.trash_days, settings.report_timeout_seconds)
    for kind, group in itertools.groupby(orphans.find(), key=lambda orphan: orphan.kind):
        found = list(group)
        yield Finding(
            "orphans",
            "note",
            f"{len(found)} orphaned in {kind}/ ({sum(each.size for each in found) / 1e6:.1f} MB): "
            f"{', '.join(each.path.name for each in found)}; the server moves them to the trash when they have not "
            "changed for an hour",
        )
    if trashed := Trash(storage.root).entries():
        yield Finding(
            "trash",
            "note",
            f"{len(trashed)} items in {storage.root / TRASH} ({size_of(storage.root / TRASH) / 1e6:.1f} MB), deleted "
            f"{settings.trash_days:g} days after it was moved there; move back what you need",
        )


def _storage(settings: ServerSettings) -> Iterator[Finding]:
    """Check that the store behind the data folder answers, and that it is this installation's."""
    storage = Storage(settings.data_folder, open_blobs(settings.storage_url))
    check_store(storage)
    if storage.tier is None:
        return
    address, found = storage.tier.blobs.address, storage.tier.instance()
    own = read_instance_id(storage.root / INSTANCE_FILE)
    if found is None or own is None:
        yield Finding("storage", "note", f"{address} answers, and has no id yet; the server's first start sets it")
    elif found.id == own:
        yield Finding("storage", "ok", f"{address} answers, and belongs to {own}")
    else:
        yield Finding("storage", "fault", f"{address} belongs to {found.id}, and the data folder to {own}")


def _clock(settings: ServerSettings) -> Iterator[Finding]:
    """Check that no event is in the future, and that the system's clock is synchronised."""
    if _has_database(settings):
        engine = create_engine(settings.url)
        try:
            if present_version(engine) is not None:
                with read_session(engine) as session:
                    newest = session.connection().execute(sa.select(sa.func.max(col(Event.created_at)))).scalar()
                if newest is not None and newest > utc_now() + timedelta(minutes=1):
                    yield Finding(
                        "clock", "fault", f"it is behind the database, whose newest event is of {newest}; set the clock"
                    )
                    return
        finally:
            engine.dispose()
    yield Finding("clock", "ok", f"{utc_now():%Y-%m-%d %H:%M:%S} UTC, not behind the database")
    if (is_synchronised := _is_synchronised()) is not None and not is_synchronised:
        yield Finding("clock", "note", "not synchronised with a time server; signed webhooks need the correct time")


def _is_synchronised() -> bool | None:
    """Whether systemd reports a synchronised clock; None without systemd."""
    if shutil.which("timedatectl") is None:
        return None
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        ran = subprocess.run(command, capture_output=True, timeout=5, check=False)
    except subprocess.TimeoutExpired:
        return None
    return {b"yes": True, b"no": False}.get(ran.stdout.strip())


def _sandbox(settings: ServerSettings) -> Iterator[Finding]:
    """Check, in a child, how the program that reads uploaded recordings is confined."""
    command = python_command("server.datasets.sandbox", SHOW_CONFINEMENT, str(settings.data_folder.resolve()))
    ran = subprocess.run(command, env=program_environment(os.environ), capture_output=True, check=False)
    has_namespace, has_landlock, has_filter = (each == "1" for each in (ran.stdout.decode().split() + [""] * 3)[:3])
    means = {"Landlock": has_landlock, "seccomp": has_filter, "a network namespace": has_namespace}
    if has_landlock and (has_namespace or has_filter or landlock.restricts_tcp()):
        in_force = ", ".join(name for name, is_there in means.items() if is_there)
        yield Finding("sandbox", "ok", f"uploaded recordings are read without network or other files ({in_force})")
    elif has_landlock:
        yield Finding(
            "sandbox",
            "note",
            "uploaded recordings are read without other files, but not without network: "
            "that needs Linux 6.7, seccomp, or user namespaces",
        )
    elif has_namespace or has_filter:
        yield Finding(
            "sandbox",
            "note",
            "uploaded recordings are read without network, but by a program that may read "
            "and write the data folder: this system has no Landlock (Linux 5.13, not disabled)",
        )
    elif sys.platform != "linux":
        yield Finding(
            "sandbox",
            "note",
            "uploaded recordings are read by a program with limits on time and memory, but with network and with "
            "access to the data folder: only Linux has means against that; accept recordings from people you trust",
        )
    else:
        yield Finding(
            "sandbox",
            "note",
            "uploaded recordings are read by a program with network and with access to the "
            "data folder: this system has neither Landlock (Linux 5.13, not disabled) nor seccomp nor user namespaces",
        )


def _exposure(settings: ServerSettings) -> Iterator[Finding]:
    if is_loopback(settings.host):
        yield Finding("exposure", "ok", f"listens on {settings.host}, reachable from this machine only")
    elif settings.token is None:
        yield Finding(
            "exposure", "fault", f"{settings.host} is reachable from other machines, and RVC_TRAIN_TOKEN is not set"
        )
    else:
        yield Finding("exposure", "note", f"listens on {settings.host}; put a TLS proxy in front of it")

"""Routes about the server itself."""

import os
import platform
import shutil
import sqlite3
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import psutil
from fastapi import APIRouter

from rvc_engine.audio.file_rules import FILE_RULES
from rvc_engine.config import TrainingConfig
from rvc_engine.environment.torch_builds import gpu_advice
from rvc_train.schemas.access import Scope
from rvc_train.schemas.jobs import JOB_DEFAULTS
from rvc_train.schemas.system import FileRulePublic, Limits, SystemPublic
from server.admin.readiness import sqlite_warning
from server.api.authorization import requires
from server.context import Context

router = APIRouter(tags=["server"])


@router.get("/config-schema", operation_id="config_schema_get")
@requires(Scope.READ)
def get_config_schema() -> dict[str, Any]:
    """Get the JSON Schema of a job's `config`, with the description and default of each field."""
    schema = TrainingConfig.model_json_schema()
    for name, default in JOB_DEFAULTS.items():
        schema["properties"][name]["default"] = default
    return schema


@router.get("/system", operation_id="system_get")
@requires(Scope.READ)
def get_system(context: Context) -> SystemPublic:
    """Get the server's versions, limits and resources, with warnings about its machine."""
    settings = context.settings
    disk = shutil.disk_usage(context.storage.root)
    is_sqlite = context.engine.dialect.name == "sqlite"
    warnings = [sqlite_warning(context.engine), gpu_advice()]
    return SystemPublic(
        name="rvc-train",
        version=version("rvc-train"),
        python=platform.python_version(),
        database=context.engine.dialect.name,
        database_version=sqlite3.sqlite_version if is_sqlite else "",
        limits=Limits(
            max_upload_bytes=settings.max_upload_bytes,
            max_files=settings.max_files,
            max_unpacked_bytes=settings.max_unpacked_bytes,
            max_file_bytes=settings.max_file_bytes,
            max_conversion_bytes=settings.max_conversion_bytes,
            max_conversion_seconds=settings.max_conversion_minutes * 60,
        ),
        file_rules=[FileRulePublic(**asdict(rule)) for rule in FILE_RULES],
        disk_free_bytes=disk.free,
        disk_total_bytes=disk.total,
        num_cores=os.cpu_count() or 1,
        memory_total_bytes=psutil.virtual_memory().total,
        needs_token=True,
        warnings=[warning for warning in warnings if warning is not None],
    )

"""Serialization of conversions: from rows to wire shapes."""

from datetime import timedelta

from rvc_train.schemas.voices.conversions import (
    ConversionError,
    ConversionEvent,
    ConversionEventType,
    ConversionInput,
    ConversionOptions,
    ConversionPublic,
    ConversionResult,
    ConversionStatus,
)
from server.database.tables import Conversion


def conversion_public(row: Conversion, waiting_for: str | None, keep: timedelta) -> ConversionPublic:
    """A conversion in its public form. `keep`: time from its end to its deletion."""
    error = None
    if row.error_code is not None:
        error = ConversionError(code=row.error_code, message=row.error_message or "")
    return ConversionPublic(
        id=row.id,
        owner=row.owner,
        voice=row.voice,
        job_id=row.job_id,
        save=int(row.save) if row.save is not None and row.save.isdecimal() else row.save,
        status=ConversionStatus(row.status),
        waiting_for=waiting_for,
        options=ConversionOptions.model_validate(row.options),
        inputs=[ConversionInput(name=each["name"], size_bytes=each["bytes"]) for each in row.inputs],
        results=[
            ConversionResult(
                name=result["name"],
                input=each["name"],
                size_bytes=result["bytes"],
                sha256=result["sha256"],
                seconds=result["seconds"],
                pitch_shift=result["pitch_shift"],
                error=result["error"],
            )
            for each, result in zip(row.inputs, row.results, strict=False)  # none before its end
        ],
        progress=row.progress,
        device=row.device,
        device_reason=row.device_reason,
        error=error,
        size_bytes=row.size,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        expires_at=None if row.finished_at is None else row.finished_at + keep,
    )


def conversion_events(row: Conversion) -> list[ConversionEvent]:
    """All events of a conversion, numbered from 1."""
    return [ConversionEvent(seq=number, **event) for number, event in enumerate(row.events, 1)]


def progress_event(row: Conversion) -> ConversionEvent:
    """The event of a stream that shows how far a conversion is."""
    last = conversion_events(row)[-1]
    return ConversionEvent(
        seq=last.seq,
        type=ConversionEventType.PROGRESS,
        message=f"{row.progress:.0%} done",
        progress=row.progress,
        created_at=last.created_at,
    )

"""Text of events, for logs. No torch."""

from rvc_engine.events import (
    QUALITY_PREFIX,
    ArtifactReady,
    CheckpointSaved,
    Evaluated,
    Event,
    Failed,
    Level,
    Log,
    Metric,
    PreviewReady,
    Progress,
    QualityScored,
    StageChanged,
    Stopped,
    Succeeded,
    TrainingEnded,
    Warned,
)


def describe(event: Event) -> tuple[Level, str] | None:  # noqa: PLR0911, PLR0912 - one per kind of event
    """Level and text of an event, or None for progress, which is not logged."""
    match event:
        case Log():
            return event.level, event.message
        case Warned():
            return "warning", event.message
        case StageChanged():
            seconds = "" if event.seconds is None else f" after {event.seconds:.1f} s"
            return "info", f"stage {event.stage} {event.state}{seconds}"
        case Metric():
            values = " ".join(f"{name}={value:.5g}" for name, value in event.values.items())
            return "info", f"epoch {event.epoch} step {event.step}: {values}"
        case CheckpointSaved():
            return "info", f"checkpoint saved at epoch {event.epoch}, step {event.step}"
        case Evaluated():
            return "info", evaluation_text(event)
        case TrainingEnded():
            return "info", ending_text(event)
        case QualityScored():
            return "info", quality_text(event)
        case PreviewReady():
            return "info", f"preview of epoch {event.epoch}, step {event.step}: {event.audio} ({event.seconds:.1f} s)"
        case ArtifactReady():
            return "info", f"{event.kind} {event.name} is ready: {event.size} bytes, sha256 {event.sha256}"
        case Failed():
            return "error", f"failed ({event.code}): {event.message}"
        case Stopped() | Succeeded():
            return "info", event.message
        case Progress():
            return None


_METRIC_TEXTS = {
    "eval/mel": "mel {:.2f}",
    "eval/f0_cents": "pitch off by {:.0f} cents",
    "eval/voicing": "voicing wrong in {:.0%}",
    "eval/similarity": "similarity {:.3f}",
}


def evaluation_text(event: Evaluated) -> str:
    """Scores of an evaluation, in one line."""
    scores = ", ".join(text.format(event.values[key]) for key, text in _METRIC_TEXTS.items() if key in event.values)
    clips = f"{event.num_clips} {'held-out' if event.held_out else 'training'} clips"
    best = ", the best so far" if event.is_best else ""
    return f"epoch {event.epoch}, step {event.step} on {clips}: {scores}{best} ({event.seconds:.1f} s)"


def ending_text(event: TrainingEnded) -> str:
    """End of a training and its reason, in one line."""
    if event.best_epoch is None:
        return f"training ended after {event.epoch} epochs ({event.reason}); no save was evaluated"
    if event.reason == "no_better_save":
        return f"training ended after {event.epoch} epochs: no better save since epoch {event.best_epoch}"
    return f"training ended after {event.epoch} epochs ({event.reason}); the best save is of epoch {event.best_epoch}"


_QUALITY_TEXTS = {
    "similarity": "similarity {:.3f}",
    "naturalness": "naturalness {:.2f}",
    "character_error_rate": "{:.0%} of the characters wrong",
    "f0_correlation": "F0 correlation {:.2f}",
    "voicing_agreement": "voicing right in {:.0%}",
}


def quality_text(event: QualityScored) -> str:
    """Scores of a finished voice, in one line."""
    found = {key.removeprefix(QUALITY_PREFIX): value for key, value in event.values.items()}
    scores = ", ".join(text.format(found[name]) for name, text in _QUALITY_TEXTS.items() if name in found)
    return f"epoch {event.epoch}, step {event.step} on recordings of other speakers: {scores} ({event.seconds:.1f} s)"


def losses_text(event: Metric) -> str:
    """Losses and learning rate of a step, in one line."""
    values = " ".join(
        f"{name}={value:.5g}" for name, value in event.values.items() if name.startswith(("loss/", "learning_rate"))
    )
    return f"epoch {event.epoch}, step {event.step}: {values}"


def throughput_text(clips_per_second: float | None, mfu: float | None) -> str:
    """Training throughput as a suffix to the step; empty while unknown."""
    if clips_per_second is None:
        return ""
    share = "" if mfu is None else f", {mfu:.0%} of the machine"
    return f" ({clips_per_second:.3g} clips/s{share})"

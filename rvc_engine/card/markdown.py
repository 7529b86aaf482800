"""The model card as a page: `card.md`. Names of strangers are escaped: they are text, and neither links nor HTML."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rvc_engine.card.card import Card, CardFile, CardScores
from rvc_engine.events import QUALITY_PREFIX, EndReason, QualityMetric

_SCORES = {
    "eval/mel": ("Sound distance (lower is better)", "{:.2f}"),
    "eval/f0_cents": ("Pitch error, cents (100 = a semitone)", "{:.0f}"),
    "eval/voicing": ("Voicing errors (lower is better)", "{:.0%}"),
    "eval/similarity": ("Speaker similarity (at most 1)", "{:.3f}"),
}
"""Name and form of each score, as on the page."""
_ENDS: dict[EndReason, str] = {
    "no_better_save": "later saves were not better, so the best one is the voice",
    "max_epochs": "the most epochs that were allowed; the best save is the voice",
    "max_train_seconds": "the time limit; the best save is the voice",
}
_CURVE_POINTS = 12
_QUALITY: Mapping[QualityMetric, tuple[str, str]] = {
    "similarity": ("Similarity to the speaker (at most 1)", "{:.3f}"),
    "naturalness": ("Naturalness (DNSMOS, 1 to 5)", "{:.2f}"),
    "character_error_rate": ("Characters misheard (lower is better)", "{:.0%}"),
    "f0_correlation": ("Intonation kept (F0 correlation, at most 1)", "{:.2f}"),
    "voicing_agreement": ("Voicing kept", "{:.0%}"),
}
_ENCODERS_OF_APPLIO = ("contentvec", "spin", "spin-v2")


def render(card: Card) -> str:
    """The card in Markdown (CommonMark with tables)."""
    sections = [
        f"# {_text(card.voice)}",
        "A voice model for RVC: it converts recordings of speech or singing to this voice.",
        _table(_overview(card)),
        "## Use",
        *_use(card),
        "## Recordings",
        _table(_data(card)),
        "## Consent of the speaker",
        *_consent(card),
        "## Training",
        _table(_training(card)),
        "## Scores",
        *_scores(card),
        "## Files",
        _files(card.files),
        f"Made with {_text(card.software)} on {card.made_at:%Y-%m-%d}. The same facts for programs: `card.json`.",
    ]
    return "\n\n".join(sections) + "\n"


def _text(value: object) -> str:
    """Any text as a line of plain text in Markdown."""
    line = " ".join("".join(" " if ord(each) < 32 or ord(each) == 127 else each for each in str(value)).split())
    escaped = re.sub(r"([\\`*_\[\]()<>&|#~!:@$])", r"\\\1", line)
    escaped = re.sub(r"^([-+=]|\d+(?=[.)]))", lambda found: _at_start(found[0]), escaped)
    return re.sub(r"(?i)\bwww\.", lambda found: found[0][:-1] + "\\.", escaped)  # an address would become a link


def _at_start(mark: str) -> str:
    """Escape a mark that begins a list, or underlines a heading, at the start of a line."""
    return f"{mark}\\" if mark.isdigit() else f"\\{mark}"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _overview(card: Card) -> Iterator[tuple[str, str]]:
    model = card.model
    yield "Model", f"{model.version}, {model.sample_rate}, {'with' if model.f0 else 'without'} pitch"
    if model.width != 192:
        yield "Size", f"width {model.width}: a small model for trials"
    yield "Content encoder", _text(model.encoder) + ("" if model.encoder_note is None else f". {model.encoder_note}")
    if model.speakers:
        yield "Speakers", ", ".join(f"{number} {_text(name)}" for number, name in sorted(model.speakers.items()))
    if card.job_id is not None:
        yield "Job", _text(card.job_id)


def _use(card: Card) -> Iterator[str]:
    voices = [file.name for file in card.files if file.kind == "voice"]
    indexes = [file.name for file in card.files if file.kind in {"index", "speaker_index"}]
    voice, index = _text(voices[0] if voices else card.voice), ", ".join(map(_text, indexes)) or "the index"
    stem = voice.removesuffix(".pth")
    encoder = card.model.encoder
    if card.model.encoder_note is not None:
        yield f"**{card.model.encoder_note}.**"
    steps = ["- rvc-train: `rvc-engine convert IN OUT --voice FILE.pth --index FILE.index`"]
    if encoder in _ENCODERS_OF_APPLIO:
        choice = "" if encoder == "contentvec" else f" Embedder model: {_text(encoder)}."
        steps.insert(0, f"- Applio: both into a folder {stem} in `logs/`. Refresh, and choose both.{choice}")
    if encoder == "contentvec":
        steps.insert(
            0,
            f"- RVC WebUI: {voice} into `assets/weights/`, {index} into `logs/` (a folder {stem} there keeps order). "
            "Refresh the lists and choose both.",
        )
    yield "\n".join(steps)


def _data(card: Card) -> Iterator[tuple[str, str]]:
    data = card.data
    if data.dataset is not None:
        yield "Dataset", _text(data.dataset)
    count = "" if data.recordings is None else f" in {data.recordings} {'file' if data.recordings == 1 else 'files'}"
    yield "Length without silence", f"{data.seconds / 60:.1f} minutes{count}"
    if data.recordings_sha256 is not None:
        yield "sha256 of the recordings", data.recordings_sha256
    if data.upload_sha256 is not None:
        yield "sha256 of the upload", data.upload_sha256


def _consent(card: Card) -> Iterator[str]:
    consent = card.consent
    if consent is None:
        yield "None was recorded. Ask the speaker before you use or pass on this voice."
        return
    yield f"{_text(consent.speaker)}, {_text(consent.date)}:"
    yield "\n".join(f"> {_text(line)}".rstrip() for line in consent.statement.splitlines())
    if consent.document is not None:
        yield f"Document: {_text(consent.document.name)}, sha256 {consent.document.sha256}"


def _training(card: Card) -> Iterator[tuple[str, str]]:
    training, base = card.training, card.base
    yield "Began with", _text(base.description)
    for file in base.files:
        yield "Base weights", f"{_text(file.name)}, sha256 {file.sha256}"
    yield "Length", f"{training.epochs} epochs, {training.steps} steps, {_duration(training.seconds)}"
    if training.end is not None:
        yield "Ended", f"after {training.end.epochs} epochs, {training.end.steps} steps: {_ENDS[training.end.reason]}"
    yield "Device", _text(training.device)
    yield "Pitch of the recordings by", _text(card.model.pitch_estimator)
    settings = ", ".join(f"{name}={_text(value)}" for name, value in training.settings.items())
    yield "Settings other than the defaults", settings or "none"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _scores(card: Card) -> Iterator[str]:
    evaluation = card.evaluation
    if evaluation is None or (evaluation.best is None and evaluation.last is None):
        yield "No save was evaluated."
        return
    yield _table(_score_rows(("Best save", evaluation.best), ("Last save", evaluation.last)))
    if evaluation.curve:
        yield f"Sound distance by steps: {', '.join(_curve(evaluation.curve))}."
    if not evaluation.held_out and any(
        "eval/mel" in save.values for save in (evaluation.best, evaluation.last) if save
    ):
        yield "Measured on clips that were trained on: these scores look better than they are."
    scored = evaluation.best if evaluation.best is not None and _quality_rows(evaluation.best) else evaluation.last
    if scored is not None and (rows := _quality_rows(scored)):
        yield f"## Conversions of other speakers, epoch {scored.epoch}"
        yield "\n".join(
            ["| Score | Without the voice | This voice | Speaker's own |", "| --- | --- | --- | --- |", *rows]
        )
        yield (
            "A woman and a man that it was not trained on, converted to this voice. Without the voice: the recordings "
            "as they are; for what is kept, one sentence against another. Speaker's own: recordings of the speaker, "
            "and for what is kept, these converted."
        )


def _quality_rows(save: CardScores) -> list[str]:
    rows = []
    for metric, (label, form) in _QUALITY.items():
        key = f"{QUALITY_PREFIX}{metric}"
        if key in save.values:
            bounds = (save.values.get(place) for place in (f"{key}/floor", key, f"{key}/ceiling"))
            shown = " | ".join("" if value is None else form.format(value) for value in bounds)
            rows.append(f"| {label} | {shown} |")
    return rows


def _curve(points: Sequence[tuple[int, float]]) -> Iterator[str]:
    """About a dozen points of a curve, the last one included."""
    stride = -(-len(points) // _CURVE_POINTS)
    for step, value in points[(len(points) - 1) % stride :: stride]:
        yield f"{step}: {value:.2f}"


def _score_rows(*saves: tuple[str, CardScores | None]) -> Iterator[tuple[str, str]]:
    for name, save in saves:
        if save is not None:
            yield name, f"epoch {save.epoch}, step {save.step}"
            for key, (label, form) in _SCORES.items():
                if key in save.values:
                    yield label, form.format(save.values[key])


def _files(files: Iterable[CardFile]) -> str:
    rows = [f"| {_text(file.name)} | {file.size_bytes:,} bytes | {file.sha256} |" for file in files]
    return "\n".join(["| file | size | sha256 |", "| --- | --- | --- |", *rows])

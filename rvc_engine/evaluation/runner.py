"""Evaluation of each save, with previews and export of the best.

The train stage calls `start` at its beginning and `run` after each save, before the next recovery checkpoint, so that a
run resumed from that checkpoint has no evaluation to catch up on. Only the first process of a run does this.
"""

import time

import torch

from rvc_engine.checkpoints.train_state import TrainProgress, completed_epochs
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.config import TrainingConfig
from rvc_engine.data.clips import load_clip
from rvc_engine.data.split import Split
from rvc_engine.environment.files import unlink
from rvc_engine.errors import ArtifactInvalid, IncompatibleCheckpoint
from rvc_engine.evaluation import stopping
from rvc_engine.evaluation.evaluator import Evaluation, Evaluator
from rvc_engine.evaluation.history import UNMEASURED, EvaluationHistory, Row, Score
from rvc_engine.evaluation.previews import Preview, Sound, write_preview
from rvc_engine.evaluation.speaker_similarity import SpeakerScorer, installed_scorer
from rvc_engine.events import EndReason, Evaluated, PreviewReady, TrainingEnded
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.pitch.swift import SwiftEstimator
from rvc_engine.reporting import StageReport
from rvc_engine.voices import export
from rvc_engine.workspace.layout import Workspace

MAX_TIME_FRACTION = 0.1
"""Share of the training time for all evaluations of a run together, with `evaluate=auto`."""


class EvaluationRunner:
    """Runner of the evaluations of a run's saves."""

    def __init__(
        self,
        workspace: Workspace,
        config: TrainingConfig,
        hparams: Hyperparameters,
        device: torch.device,
        split: Split,
        report: StageReport,
    ) -> None:
        self._workspace, self._config, self._hparams = workspace, config, hparams
        self._device, self._split, self._report = device, split, report
        names = [clip.wave.stem for clip in split.evaluated]
        self._history = EvaluationHistory.load(workspace.root, names, split.are_held_out, report.warn)
        self._cached_evaluator: Evaluator | None = None
        self._cost: float | None = None
        """Seconds of the last evaluation, or an estimate; None before both."""
        self._last_step: int | None = None
        if config.total_epochs != "auto":
            return
        report.log(
            f"total_epochs=auto: training ends once saves no longer improve, at most after {config.max_epochs} epochs"
        )
        if not split.are_held_out:
            report.warn(
                "with under 3 minutes of speech no clips are held out, so total_epochs=auto goes by clips that are "
                "trained on: it may train longer than is good for the voice; add recordings, or set a number of epochs"
            )

    def start(self, progress: TrainProgress) -> None:
        """Start at this progress: evaluations of later steps are dropped, as those steps are trained again."""
        self._last_step = None
        if progress.step == 0:
            self._history.clear()
            unlink(self._workspace.best_file)
            return
        self._history.truncate_after(progress.step)
        if not self._workspace.best_file.is_file():
            self._history.best = None

    def score(self, step: int) -> Score:
        """The score of the evaluation at a step; lower is better, UNMEASURED where there was none."""
        return next((row.score for row in self._history.rows if row.step == step), UNMEASURED)

    def is_due(self, step: int) -> bool:
        """Whether total_epochs=auto needs an evaluation at this step."""
        return stopping.is_due(self._history.rows, step)

    def has_converged(self) -> bool:
        """Whether training with total_epochs=auto ends here."""
        return stopping.has_converged(self._history.rows, self._config.stop_share)

    def earliest_end(self) -> int:
        """The step at which training with total_epochs=auto ends if nothing from now on is better."""
        return stopping.earliest_end(self._history.rows, self._config.stop_share)

    def end(self, reason: EndReason, progress: TrainProgress) -> None:
        """Record and report the end of a training with total_epochs=auto."""
        best = self._history.best
        event = TrainingEnded(
            reason=reason,
            step=progress.step,
            epoch=completed_epochs(progress),
            best_step=None if best is None else best.step,
            best_epoch=None if best is None else best.epoch,
        )
        self._history.set_end(event)
        self._report.event(event)

    def run(self, model: Synthesizer, progress: TrainProgress) -> None:
        """Evaluate the synthesizer in its current state, unless that takes too much of the run's time."""
        is_wanted = self._config.evaluate != "never" and bool(self._split.evaluated)
        if not is_wanted or self._last_step == progress.step:
            return
        self._last_step = progress.step
        started = time.monotonic()
        try:
            if self._is_affordable(model, progress):
                self._evaluate(model, progress, started)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._report.warn(f"step {progress.step} was not evaluated: the device is out of memory")

    def _is_affordable(self, model: Synthesizer, progress: TrainProgress) -> bool:
        if self._config.evaluate == "always" or self._config.total_epochs == "auto":
            return True  # the end of training must not depend on how busy the machine is
        allowed = MAX_TIME_FRACTION * progress.seconds - self._history.spent_seconds
        if allowed > 0 and self._cost is None:
            self._cost = self._evaluator().estimate_seconds(model)
        if self._cost is not None and self._cost <= allowed:
            return True
        self._report.log(
            f"step {progress.step} is not evaluated: evaluations would take more than {MAX_TIME_FRACTION:.0%} of the "
            "training time so far"
        )
        return False

    def _evaluator(self) -> Evaluator:
        if self._cached_evaluator is None:
            estimator = SwiftEstimator(torch.get_num_threads())
            self._cached_evaluator = Evaluator(
                self._split.evaluated, self._hparams, self._device, estimator, self._scorer()
            )
        return self._cached_evaluator

    def _scorer(self) -> SpeakerScorer | None:
        try:
            return installed_scorer()
        except IncompatibleCheckpoint as error:
            self._report.warn(f"speaker similarity is not measured: {error}")
            return None

    def _evaluate(self, model: Synthesizer, progress: TrainProgress, started: float) -> None:
        evaluator, epoch = self._evaluator(), completed_epochs(progress)
        evaluation = evaluator.evaluate(model)
        previews = self._write_previews(evaluator, evaluation, epoch, progress.step)
        root = self._workspace.root
        files = [str(path.relative_to(root)) for each in previews for path in (each.audio, each.picture)]
        row = Row(step=progress.step, epoch=epoch, values=evaluation.values, files=files)
        is_best = self._history.is_best(row) and self._write_best(model, progress)
        self._cost = time.monotonic() - started
        self._history.add(row, self._cost, is_best=is_best)
        self._report.event(
            Evaluated(
                step=progress.step,
                epoch=epoch,
                values=evaluation.values,
                held_out=self._split.are_held_out,
                is_best=is_best,
                num_clips=len(evaluation.renderings),
                seconds=self._cost,
            )
        )
        self._report_previews(evaluation, previews, epoch, progress.step)

    def _write_previews(self, evaluator: Evaluator, evaluation: Evaluation, epoch: int, step: int) -> list[Preview]:
        window, rendering = evaluator.windows[0], evaluation.renderings[0]
        recorded = Sound(window.wave, window.mel[0].cpu().numpy())
        rendered = Sound(rendering.wave, rendering.mel)
        folder = self._workspace.previews
        return [write_preview(folder, 1, epoch, step, rendered, recorded, self._hparams.sample_rate)]

    def _report_previews(self, evaluation: Evaluation, previews: list[Preview], epoch: int, step: int) -> None:
        for number, (preview, rendering) in enumerate(zip(previews, evaluation.renderings, strict=False), start=1):
            self._report.event(
                PreviewReady(
                    step=step,
                    epoch=epoch,
                    clip=number,
                    audio=str(preview.audio),
                    picture=str(preview.picture),
                    recording=str(preview.recording),
                    seconds=len(rendering.wave) / self._hparams.sample_rate,
                    scores=rendering.scores,
                )
            )

    def _write_best(self, model: Synthesizer, progress: TrainProgress) -> bool:
        """Write the best voice so far; False, with a warning, if it has no valid export: training goes on."""
        details = export.VoiceDetails.from_checkpoint(self._workspace, self._config, progress)
        try:
            path, weights = self._workspace.best_file, model.state_dict()
            export.write_voice(path, weights, self._hparams, details)
            if self._config.total_epochs == "auto":  # it becomes the voice, once these weights are gone
                clip = load_clip(self._split.evaluated[0])
                export.check_voice(path, weights, self._hparams, clip, self._device)
        except ArtifactInvalid as error:
            self._report.warn(f"step {progress.step} is the best so far, but its voice could not be written: {error}")
            return False
        return True

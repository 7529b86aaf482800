"""The clips of a run: those for training, which RVC's filelist names, and those for evaluation."""

from collections.abc import Sequence

from rvc_engine.config import TrainingConfig
from rvc_engine.data.clips import ClipFiles, list_clips, write_filelist
from rvc_engine.data.speakers import Speakers
from rvc_engine.data.split import Split, split
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.reporting import StageReport
from rvc_engine.workspace.layout import Workspace
from rvc_engine.workspace.rvc_files import filelist


def find_clips(workspace: Workspace, config: TrainingConfig, hparams: Hyperparameters, report: StageReport) -> Split:
    """List the clips for training and those for evaluation, and write the former into RVC's filelist."""
    speakers = Speakers.from_workspace(workspace, config)
    clips, num_short = list_clips(workspace, hparams, speakers)
    _log_speakers(speakers, clips, report)
    if num_short:
        report.log(f"{num_short} slices are skipped: they are too short to train on, or have no features")
    parts = split(clips, workspace.slices, config.evaluate)
    if parts.are_held_out:
        report.log(f"{len(parts.evaluated)} clips are held out of training, for evaluation")
    if filelist.decides(workspace):
        report.log(f"filelist.txt decides which clips are trained: {filelist.summary(workspace, config.f0)}")
        if config.speaker_id:
            report.log(f"speaker_id={config.speaker_id} was given and goes before the speakers in filelist.txt")
        filelist.note_kept(workspace)
        return parts
    if copy := filelist.keep_users_copy(workspace):
        report.warn(f"filelist.txt names slices that are no longer there and is replaced; it is kept as {copy.name}")
    held_out = parts.evaluated if parts.are_held_out else []
    write_filelist(workspace, parts.trained, config.seed, held_out)
    return parts


def _log_speakers(speakers: Speakers, clips: Sequence[ClipFiles], report: StageReport) -> None:
    present = speakers.names_by_id(clip.speaker for clip in clips if not filelist.SILENCE.fullmatch(clip.wave.stem))
    if len(present) > 1:
        report.log(f"{len(present)} speakers: {', '.join(f'{name} is {number}' for number, name in present.items())}")
    if silent := [name for number, name in speakers.names.items() if number not in present]:
        report.warn(f"{', '.join(silent)}: no slice can be trained on, so the voice will lack that speaker")

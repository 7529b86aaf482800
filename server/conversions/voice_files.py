"""Search for the files of a voice, of the finished one or of a save, in the data folder and in the database.

A worker with a scratch folder of its own has more saves there.
"""

from pathlib import Path

from sqlmodel import Session, select

from rvc_engine.checkpoints.manifest import read_entries
from rvc_engine.conversion.voice_files import BEST, LATEST, VoiceFiles, saved_generators
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.workspace.layout import Workspace
from server.database.result_tables import Artifact
from server.database.tables import Job
from server.storage.local import Storage

_STORED_BEST = "best.pth"


def voice_files(session: Session, job: Job, save: str | None, storage: Storage) -> VoiceFiles:
    """The files of the finished voice (`save` None), or of a save: a number, `best` or `latest`."""
    published = {
        artifact.kind: storage.fetch(storage.resolve(artifact.path))
        for artifact in session.exec(select(Artifact).where(Artifact.job_number == job.number)).all()
        if artifact.kind in {"voice", "best", "index"}
    }
    workspace = Workspace(storage.workspace(job.id), job.name)
    index = _first_file(published.get("index"), workspace.index_file)
    if save is None:
        return VoiceFiles(voice=_first_file(published.get("voice")), index=index)
    if save == BEST:
        stored = [storage.fetch_folder(folder) / _STORED_BEST for folder in storage.checkpoint_folders(job.id).values()]
        is_voice = job.config.get("total_epochs") == "auto"
        best = (published.get("best"), published.get("voice") if is_voice else None)
        return VoiceFiles(voice=_first_file(*best, workspace.best_file, *reversed(stored)), index=index)
    saves = saved_generators(workspace.root)
    if save == LATEST:
        newest = next(reversed(saves.values()), None)
        return VoiceFiles(checkpoint=newest or _recovery_checkpoint(storage, job.id), index=index)
    return VoiceFiles(checkpoint=saves.get(int(save)), index=index)


def _recovery_checkpoint(storage: Storage, job_id: str) -> Path | None:
    """The newest recovery checkpoint in the workspace or, from other workers, in the storage."""
    for folder in (storage.workspace(job_id) / "recovery", *reversed(storage.checkpoint_folders(job_id).values())):
        storage.fetch_folder(folder)
        try:
            entries = read_entries(folder)
        except IncompatibleCheckpoint:
            continue
        if entries and (found := _first_file(folder / entries[-1].file)) is not None:
            return found
    return None


def _first_file(*paths: Path | None) -> Path | None:
    return next((path for path in paths if path is not None and path.is_file()), None)

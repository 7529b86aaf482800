"""The speaker of each recording and slice, by the folder of the recording. No torch.

Slices do not depend on speakers: the slice `<i>_<j>` is cut from the i-th recording, and `speakers.json` holds the
folder of each recording, so that another choice of speakers repeats no slicing, pitch or content work. The names of
slices made by Applio contain the speaker: `<speaker>_<i>_<j>`.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rvc_engine.audio.recordings import Recording
from rvc_engine.config import NUM_SPEAKERS, SpeakerChoice, TrainingConfig
from rvc_engine.errors import InvalidDataset
from rvc_engine.listing import shorten
from rvc_engine.names.voices import MAX_STEM_BYTES, check_voice_name, voice_file_stem
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.layout import Workspace


def recording_folders(recordings: Sequence[Recording]) -> list[str]:
    """The top-level folder of each recording, by its owner's name; empty for a recording outside all folders.

    Outer folders that hold all others and no recording are skipped: a zip archive of a folder has one.
    """
    return [path[-1] if path else "" for path, _ in _folder_paths(recordings)]


def _folder_paths(recordings: Sequence[Recording]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The path of each recording's folder in NFC, and as it is stored; both empty outside all folders."""
    stored = [PurePosixPath(recording.name).parts[:-1] for recording in recordings]
    composed = [tuple(unicodedata.normalize("NFC", part) for part in parts) for parts in stored]
    depth = 0
    while (
        composed and all(len(parts) > depth + 1 for parts in composed) and len({p[: depth + 1] for p in composed}) == 1
    ):
        depth += 1
    end = depth + 1
    return [
        (parts[:end], raw[:end]) if len(parts) >= end else ((), ()) for parts, raw in zip(composed, stored, strict=True)
    ]


def check_folder_names(recordings: Sequence[Recording]) -> None:
    """Raise InvalidDataset where two folders would become one speaker, as their names differ in composition only."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for path, stored in _folder_paths(recordings):
        other = found.setdefault(path, stored)
        if other != stored:
            first, second, shown = ascii("/".join(other)), ascii("/".join(stored)), path[-1]
            raise InvalidDataset(
                f"the folders {first} and {second} are both shown as {shown!r} and would become one speaker; rename "
                "one, or move its recordings into the other"
            )


def speaker_ids(choice: Mapping[str, int] | None, folders: Sequence[str]) -> dict[str, int]:
    """The speaker of each folder, in the order of the ids; `folders` has the folder of each recording.

    Without a mapping, a folder whose name is a number is that speaker, and the others get the free numbers in the order
    of their names. Raises InvalidDataset when a recording has no speaker or a speaker has no folder.
    """
    found = sorted(set(folders) - {""})
    faults = []
    if num_loose := folders.count(""):
        faults.append(f"{num_loose} of {len(folders)} recordings lie in no folder, so they have no speaker")
    if choice is None:
        ids = _assign_ids(found, faults)
    else:
        given = {unicodedata.normalize("NFC", name): number for name, number in choice.items()}
        if missing := sorted(given.keys() - set(found)):
            faults.append(f"the dataset has no folder {_quoted(missing)}; it has {_quoted(found) or 'none'}")
        if unnamed := [folder for folder in found if folder not in given]:
            faults.append(f"speakers does not name the folder {_quoted(unnamed)}")
        ids = {folder: given[folder] for folder in found if folder in given}
    if not found and not faults:
        faults.append("the dataset has no folders")
    if faults:
        raise InvalidDataset(
            f"the recordings cannot be assigned to speakers: {'; '.join(faults)}. Put each speaker's recordings into a "
            "folder of their own and name the folders in speakers, or set speakers=one"
        )
    return dict(sorted(ids.items(), key=lambda entry: (entry[1], entry[0])))


def _assign_ids(folders: Iterable[str], faults: list[str]) -> dict[str, int]:
    numbers = {folder: int(folder) for folder in folders if folder.isascii() and folder.isdigit()}
    if wrong := [folder for folder, number in numbers.items() if number >= NUM_SPEAKERS]:
        faults.append(f"the folder {_quoted(wrong)} is not a speaker's number; these go from 0 to {NUM_SPEAKERS - 1}")
    free = [number for number in range(NUM_SPEAKERS) if number not in numbers.values()]
    others = [folder for folder in folders if folder not in numbers]
    if len(others) > len(free):
        faults.append(
            f"the dataset has {len(numbers) + len(others)} folders, but a voice has at most {NUM_SPEAKERS} speakers"
        )
    return numbers | dict(zip(others, free, strict=False))


def _quoted(names: Sequence[str]) -> str:
    return shorten([repr(name) for name in names])


def several_folders_note(choice: SpeakerChoice, folders: Sequence[str]) -> str | None:
    """A note for the log where recordings from several folders are used as one speaker; None otherwise."""
    found = sorted(set(folders) - {""})
    if choice != "one" or len(found) < 2:
        return None
    return (
        f"the recordings lie in {len(found)} folders ({_quoted(found)}) and are used as one speaker; if each folder "
        f"is a speaker, set speakers=folders, or name them: speakers={found[0]}=0,{found[1]}=1"
    )


def write_folders(workspace: Workspace, folders: Sequence[str]) -> None:
    """Write the folder of each recording to the workspace."""
    write_atomically(workspace.speakers, json.dumps({"folders": list(folders)}, ensure_ascii=False).encode())


def _read_folders(workspace: Workspace) -> list[str]:
    try:
        folders = json.loads(workspace.speakers.read_bytes())["folders"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    is_whole = isinstance(folders, list) and all(isinstance(folder, str) for folder in folders)
    return folders if is_whole else []


@dataclass(frozen=True)
class Speakers:
    """The speakers of a workspace's slices."""

    choice: SpeakerChoice
    speaker_id: int
    """With speakers=one, the speaker of all slices; 0: of those without one in their name or the file list."""
    by_recording: tuple[int, ...]
    """The speaker of each recording, in their order; empty with speakers=one."""
    names: dict[int, str]
    """Names by id; empty with speakers=one."""

    @classmethod
    def from_workspace(cls, workspace: Workspace, config: TrainingConfig) -> "Speakers":
        """The speakers by the config and the workspace's folders. Raises InvalidDataset when these do not match."""
        return cls.from_folders(config, _read_folders(workspace))

    @classmethod
    def from_folders(cls, config: TrainingConfig, folders: Sequence[str]) -> "Speakers":
        """The speakers by the folder of each recording. Without folders, only Applio's slices have a speaker."""
        choice = config.speakers
        if choice == "one" or not folders:
            return cls(choice, config.speaker_id, (), _configured_names(choice))
        ids = speaker_ids(None if choice == "folders" else choice, folders)
        return cls(choice, config.speaker_id, tuple(ids[folder] for folder in folders), _names(ids))

    def speaker_of_slice(self, stem: str, found: int | None = None) -> int:
        """The speaker of a slice; `found` is the speaker in its name or the file list.

        Raises InvalidDataset when the speaker is unknown.
        """
        if self.choice == "one":
            return self.speaker_id if found is None or self.speaker_id else found
        if found is not None:
            return found if self.choice == "folders" else self._mapped_id(str(found), stem)
        number = stem.partition("_")[0]
        if number.isascii() and number.isdigit() and int(number) < len(self.by_recording):
            return self.by_recording[int(number)]
        raise _unknown_speaker(stem)

    def _mapped_id(self, folder: str, stem: str) -> int:
        assert isinstance(self.choice, dict)
        if folder not in self.choice:
            raise _unknown_speaker(stem)
        return self.choice[folder]

    def names_by_id(self, ids: Iterable[int]) -> dict[int, str]:
        """The names of these speakers, by id; the number where a speaker has no name."""
        return {number: self.names.get(number, str(number)) for number in sorted(set(ids))}


ONE_SPEAKER = Speakers("one", 0, (), {})
"""Speaker 0 for all slices without a speaker in their name or the file list."""


def _configured_names(choice: SpeakerChoice) -> dict[int, str]:
    return _names(choice) if isinstance(choice, dict) else {}


def _names(ids: Mapping[str, int]) -> dict[int, str]:
    """The first folder's name for each id: a speaker may have several."""
    return {number: folder for folder, number in sorted(ids.items(), reverse=True)}


def _unknown_speaker(stem: str) -> InvalidDataset:
    return InvalidDataset(
        f"the speaker of the slice {stem} is unknown: give the recordings again with --dataset, each speaker's in a "
        "folder of their own; or name slices <speaker>_<i>_<j> as Applio does; or set speakers=one"
    )


def index_stems(voice_stem: str, speakers: Mapping[int, str]) -> dict[int, str]:
    """Stem of each speaker's index: the voice's stem, a dash, and the speaker's name, or number if the name is invalid.

    No two are equal, not even on file systems that ignore case. A dash and not `_`: otherwise RVC would pair the index
    of anna's speaker bob (`..._anna_bob_v2`) with a voice bob. And `anna-bob.index` sorts before `anna.index`, so that
    the common index, which RVC should pair with the voice, is downloaded last: RVC pairs the newest of several matching
    indexes.
    """
    stems = {number: index_stem(voice_stem, number, name) for number, name in speakers.items()}
    counts = Counter(stem.casefold() for stem in stems.values())
    return {
        number: stem if counts[stem.casefold()] == 1 else index_stem(voice_stem, number, "")
        for number, stem in stems.items()
    }


def index_stem(voice_stem: str, number: int, name: str) -> str:
    """Stem of one speaker's index, which may be that of another too; see `index_stems`."""
    try:
        shown = f"{voice_stem}-{check_voice_name(name)}"
    except ValueError:
        shown = ""
    if not shown or len(shown.encode()) > MAX_STEM_BYTES:
        return f"{voice_stem}-speaker-{number}"
    return voice_file_stem(shown)

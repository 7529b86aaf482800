"""Who speaks: which recordings are whose, by the folders they lie in. No torch.

Slices do not depend on it: a slice `<i>_<j>` is of the i-th recording, and `speakers.json` keeps the folder of each
recording, so that another choice of speakers repeats no slicing, pitch or content work. Slices that Applio made say who
speaks by themselves: `<speaker>_<i>_<j>`.
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rvc_engine.audio.recordings import Recording
from rvc_engine.config import NUM_SPEAKERS, SpeakerChoice, TrainingConfig, check_voice_name, voice_file_stem
from rvc_engine.errors import InvalidDataset
from rvc_engine.listing import shorten
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.layout import Workspace

MAX_STEM_BYTES = 200
"""File systems allow names of 255 bytes, and an index's has words of its own around the stem."""


def recording_folders(recordings: Sequence[Recording]) -> list[str]:
    """The top-level folder of each recording, as its owner named it; empty for one that lies in none.

    Folders that hold all the others and no recording themselves are passed through: a zip of a folder has one.
    """
    parts = [PurePosixPath(unicodedata.normalize("NFC", recording.name)).parts[:-1] for recording in recordings]
    while parts and all(len(each) > 1 for each in parts) and len({each[0] for each in parts}) == 1:
        parts = [each[1:] for each in parts]
    return [each[0] if each else "" for each in parts]


def speaker_ids(choice: Mapping[str, int] | None, folders: Sequence[str]) -> dict[str, int]:
    """The speaker of each folder (`folders`: that of each recording), in the order of the ids.

    A mapping says it; with None a folder whose name is a number is that speaker, and the others take the free numbers
    in the order of their names. Raises InvalidDataset when a recording has no speaker or a speaker has no folder.
    """
    found = sorted(set(folders) - {""})
    faults = []
    if num_loose := folders.count(""):
        faults.append(f"{num_loose} of {len(folders)} recordings lie in no folder, so they are nobody's")
    if choice is None:
        ids = _assign_ids(found, faults)
    else:
        given = {unicodedata.normalize("NFC", name): number for name, number in choice.items()}
        if missing := sorted(given.keys() - set(found)):
            faults.append(f"the dataset has no folder {_quoted(missing)}; it has {_quoted(found) or 'none'}")
        if unnamed := [folder for folder in found if folder not in given]:
            faults.append(f"speakers says nothing of the folder {_quoted(unnamed)}")
        ids = {folder: given[folder] for folder in found if folder in given}
    if not found and not faults:
        faults.append("the dataset has no folders")
    if faults:
        raise InvalidDataset(
            f"the speakers cannot be told apart: {'; '.join(faults)}. Put each speaker's recordings into a folder of "
            "its own and name the folders in speakers, or say speakers=one"
        )
    return dict(sorted(ids.items(), key=lambda entry: (entry[1], entry[0])))


def _assign_ids(folders: Iterable[str], faults: list[str]) -> dict[str, int]:
    numbers = {folder: int(folder) for folder in folders if folder.isascii() and folder.isdigit()}
    if wrong := [folder for folder, number in numbers.items() if number >= NUM_SPEAKERS]:
        faults.append(f"the folder {_quoted(wrong)} is no speaker's number; they go from 0 to {NUM_SPEAKERS - 1}")
    free = [number for number in range(NUM_SPEAKERS) if number not in numbers.values()]
    others = [folder for folder in folders if folder not in numbers]
    if len(others) > len(free):
        faults.append(f"the dataset has {len(numbers) + len(others)} folders, and a voice {NUM_SPEAKERS} speakers")
    return numbers | dict(zip(others, free, strict=False))


def _quoted(names: Sequence[str]) -> str:
    return shorten([repr(name) for name in names])


def several_folders_note(choice: SpeakerChoice, folders: Sequence[str]) -> str | None:
    """What to say where recordings lie in several folders and are taken for one speaker all the same."""
    found = sorted(set(folders) - {""})
    if choice != "one" or len(found) < 2:
        return None
    return (
        f"the recordings lie in {len(found)} folders ({_quoted(found)}) and are taken for one speaker; if each folder "
        f"is a speaker, say speakers=folders, or name them: speakers={found[0]}=0,{found[1]}=1"
    )


def write_folders(workspace: Workspace, folders: Sequence[str]) -> None:
    """Keep the folder of each recording beside the slices."""
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
    """Who speaks in which slice of a workspace."""

    choice: SpeakerChoice
    speaker_id: int
    """Of all slices that nothing else is known of, with speakers=one."""
    by_recording: tuple[int, ...]
    """Of each recording, in their order; empty with speakers=one."""
    names: dict[int, str]
    """By id; empty with speakers=one."""

    @classmethod
    def from_workspace(cls, workspace: Workspace, config: TrainingConfig) -> "Speakers":
        """As the config chooses among the workspace's folders. Raises InvalidDataset when they do not fit."""
        return cls.from_folders(config, _read_folders(workspace))

    @classmethod
    def from_folders(cls, config: TrainingConfig, folders: Sequence[str]) -> "Speakers":
        """The same, of the folder of each recording; without any, only Applio's slices can tell who speaks."""
        choice = config.speakers
        if choice == "one" or not folders:
            return cls(choice, config.speaker_id, (), _configured_names(choice))
        ids = speaker_ids(None if choice == "folders" else choice, folders)
        return cls(choice, config.speaker_id, tuple(ids[folder] for folder in folders), _names(ids))

    def speaker_of_slice(self, stem: str, found: int | None = None) -> int:
        """Who speaks in the slice of that name; `found` is what it or a file list says by itself.

        Raises InvalidDataset when nothing tells.
        """
        if self.choice == "one":
            return self.speaker_id if found is None else found
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
        """The names of these speakers, by id; one that nobody named is called by the number."""
        return {number: self.names.get(number, str(number)) for number in sorted(set(ids))}


ONE_SPEAKER = Speakers("one", 0, (), {})
"""All slices are speaker 0's, but those that say something else."""


def _configured_names(choice: SpeakerChoice) -> dict[int, str]:
    return _names(choice) if isinstance(choice, dict) else {}


def _names(ids: Mapping[str, int]) -> dict[int, str]:
    """The first folder's name for each id: a speaker may have several."""
    return {number: folder for folder, number in sorted(ids.items(), reverse=True)}


def _unknown_speaker(stem: str) -> InvalidDataset:
    return InvalidDataset(
        f"nothing tells who speaks in the slice {stem}: give the recordings again with --dataset, each speaker's in a "
        "folder of its own; or name slices <speaker>_<i>_<j> as Applio does; or say speakers=one"
    )


def index_stem(voice_stem: str, number: int, name: str) -> str:
    """The stem of a speaker's index: the voice's, a dash, and the speaker's name, or the number where that cannot be.

    A dash and not `_`: else RVC would take the index of anna's speaker bob (`..._anna_bob_v2`) for that of a voice bob.
    And `anna-bob.index` sorts before `anna.index`, so that the common index, which RVC is to pair with the voice by
    itself, is fetched last: of two that match, RVC takes the newest.
    """
    try:
        shown = check_voice_name(name)
    except ValueError:
        shown = f"speaker-{number}"
    if len(f"{voice_stem}-{shown}".encode()) > MAX_STEM_BYTES:
        shown = f"speaker-{number}"
    return voice_file_stem(f"{voice_stem}-{shown}")

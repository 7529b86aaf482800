"""RVC's `filelist.txt` as users and other programs write it: which clips are trained, and whose they are. No torch.

A line is `wave|features|coarse pitch|pitch in Hz|speaker`, or `wave|features|speaker` for a voice without pitch. As in
RVC's trainer the list decides, a repeated line counts twice, and silence is trained on where the list names it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rvc_engine.config import NUM_SPEAKERS, TrainingConfig
from rvc_engine.environment.text_files import read_text
from rvc_engine.listing import shorten
from rvc_engine.workspace import written
from rvc_engine.workspace.layout import Workspace

SILENCE = re.compile(r"mute(\d+k?)?")
"""Stems of the silent clips: RVC's `mute40k`, Applio's `mute40000`, and `mute`."""


@dataclass(frozen=True)
class ClipPaths:
    """Paths of the parts of one clip, which may be missing."""

    wave: Path
    features: Path
    coarse_f0: Path | None
    """None, and `f0` too, for a voice without pitch."""
    f0: Path | None
    speaker: int | None
    """The speaker in the file's name or the file list; None where neither has one."""

    @property
    def missing(self) -> list[str]:
        """The missing parts: `features`, `pitch`."""
        pitch = [path for path in (self.coarse_f0, self.f0) if path is not None]
        has_pitch = all(path.is_file() for path in pitch)
        return ["features"] * (not self.features.is_file()) + ["pitch"] * (not has_pitch)


@dataclass
class FileList:
    """A file list that decides about a run's clips."""

    num_lines: int = 0
    """Lines that are not blank."""
    clips: list[ClipPaths] = field(default_factory=list)
    """Clips in the order of the lines; all files exist, and each has a speaker."""
    silence: list[ClipPaths] = field(default_factory=list)
    """The silent clips among the lines."""
    missing_silence: list[int] = field(default_factory=list)
    """The speaker of each silent clip whose files are not on this machine; the run's own silence replaces it."""
    unusable: dict[str, list[str]] = field(default_factory=dict)
    """Lines that cannot be used, by reason: the number and the file name of each."""

    @property
    def fault(self) -> str | None:
        """A sentence on why nothing can be trained with this list; None where something can."""
        if self.clips:
            return None
        if not self.num_lines:
            return f"filelist.txt is empty; {_ADVICE}"
        if not self.unusable:
            return f"filelist.txt names no clip but silence; {_ADVICE}"
        return f"no line of filelist.txt can be used: {self._reasons()}; {_ADVICE}"

    @property
    def remark(self) -> str | None:
        """A sentence on the lines that are left out; None where all are used."""
        if not self.unusable:
            return None
        total = sum(map(len, self.unusable.values()))
        return f"{total} of {self.num_lines} lines of filelist.txt cannot be used and are left out: {self._reasons()}"

    def _reasons(self) -> str:
        return "; ".join(
            f"{len(lines)} {reason}, namely {shorten(lines, rest=', ...')}" for reason, lines in self.unusable.items()
        )


_ADVICE = "correct it, or delete it to train on all slices of the folder"
_NO_FILE = "name a file that is not there"


def users_filelist(workspace: Workspace, f0: bool) -> FileList | None:
    """The file list of a user or another program that decides about the clips; None where there is none."""
    if not decides(workspace):
        return None
    lines = [_Line.parse(number, text) for number, text in _lines(workspace.filelist)]
    return _Reader(workspace, f0, lines).read()


def decides(workspace: Workspace) -> bool:
    """Whether `filelist.txt` decides: this engine did not write it, and it names the slices that are there now."""
    if not workspace.filelist.is_file() or written.is_own(workspace.filelist):
        return False
    record, sliced = written.record_of(workspace.filelist), workspace.fingerprint("slice")
    if record:
        return bool(record.get("slices") == sliced)
    return sliced is None and not _is_older_than_records(workspace)


def summary(workspace: Workspace, f0: bool) -> str:
    """Number of clips of a list that decides, and of the folder's slices that it does not name."""
    listed = users_filelist(workspace, f0)
    assert listed is not None
    clips = listed.clips
    slices = set(workspace.slices.glob("*.wav"))
    others = slices - {clip.wave for clip in clips}
    return f"{len(clips)} clips; {len(others)} of the {len(slices)} slices in {workspace.slices} are not among them"


def note_kept(workspace: Workspace) -> None:
    """Record that the list, which decides, is not this engine's."""
    written.note_kept(workspace.filelist, slices=workspace.fingerprint("slice"))


def keep_users_copy(workspace: Workspace) -> Path | None:
    """Copy a list that does not decide and that this engine did not write; returns the copy, None without one."""
    path = workspace.filelist
    is_users = path.is_file() and not written.is_own(path) and not _is_older_than_records(workspace)
    return written.keep_copy(path) if is_users else None


def write_own_list(workspace: Workspace, lines: Sequence[str], held_out: Sequence[str]) -> None:
    """Write the list of a run that prepared its clips itself. `held_out`: lines of the clips kept out of training."""
    written.write_own(
        workspace.filelist,
        "\n".join(lines).encode(),
        slices=workspace.fingerprint("slice"),
        held_out=list(held_out),
    )


def _is_older_than_records(workspace: Workspace) -> bool:
    """Whether a run of this engine, from before it kept records, wrote the list: a checkpoint, and no clip elsewhere.

    RVC's own lists name the silence beside the folder.
    """
    if not any(workspace.recovery.glob("*.pt")):
        return False
    root = workspace.root.absolute()
    return all(Path(text.partition("|")[0]).is_relative_to(root) for _, text in _lines(workspace.filelist))


def training_lines(workspace: Workspace) -> list[list[str]]:
    """The parts of each line of `filelist.txt`, of any program; empty without a list."""
    if not workspace.filelist.is_file():
        return []
    return [_Line.parse(number, text).parts for number, text in _lines(workspace.filelist)]


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbers, from 1, and texts of the lines that are not blank."""
    lines = ((number, line.strip()) for number, line in enumerate(re.split(r"\r\n|\r|\n", read_text(path)), start=1))
    return [(number, line) for number, line in lines if line]


@dataclass(frozen=True)
class _Line:
    number: int
    parts: list[str]

    @classmethod
    def parse(cls, number: int, text: str) -> "_Line":
        return cls(number, [part.strip() for part in text.split("|")])

    @property
    def wave(self) -> PurePosixPath:
        return _posix(self.parts[0])

    @property
    def name(self) -> str:
        return f"line {self.number}: {(self.wave.name or self.parts[0])[:80]}"

    @property
    def is_silence(self) -> bool:
        return SILENCE.fullmatch(self.wave.stem) is not None


def _posix(text: str) -> PurePosixPath:
    """A path with slashes; RVC on Windows doubles the backslashes."""
    return PurePosixPath(re.sub(r"[\\/]+", "/", text))


class _Reader:
    """Reader of a list's lines, with the place of each file on this machine."""

    def __init__(self, workspace: Workspace, f0: bool, lines: list[_Line]) -> None:
        self.workspace, self.f0, self.lines = workspace, f0, lines
        root = workspace.root.absolute()
        self.relative_to = (Path.cwd(), root.parent.parent, root)
        self.own = {path.name: path for path in workspace.slices.glob("*.wav")}
        self.former_root = self._former_root()

    def read(self) -> FileList:
        found = FileList(len(self.lines))
        for line in self.lines:
            fault = self._fault(line)
            if fault is None:
                paths, speaker = [self._find(part) for part in line.parts[:-1]], int(line.parts[-1])
                whole = [path for path in paths if path is not None]
                if len(whole) == len(paths):
                    (found.silence if line.is_silence else found.clips).append(_clip(whole, speaker))
                    continue
                if line.is_silence:
                    found.missing_silence.append(speaker)
                    continue
                fault = _NO_FILE
            found.unusable.setdefault(fault, []).append(line.name)
        found.clips += self._held_out({clip.wave for clip in found.clips})
        return found

    def _fault(self, line: _Line) -> str | None:
        """The reason why a line cannot be used, before its files are looked for."""
        wanted, count = (5 if self.f0 else 3), len(line.parts)
        if count != wanted:
            fits_other = count == (3 if self.f0 else 5)
            other = f" (f0={str(not self.f0).lower()} takes {count})" if fits_other else ""
            kind = "with" if self.f0 else "without"
            return f"do not have the {wanted} parts of a voice {kind} pitch{other}"
        if "" in line.parts[:-1]:
            return "have an empty part"
        if not re.fullmatch(r"[0-9]+", line.parts[-1]) or int(line.parts[-1]) >= NUM_SPEAKERS:
            return f"have no speaker from 0 to {NUM_SPEAKERS - 1} at the end"
        return None

    def _find(self, text: str) -> Path | None:
        """The file of this name, or else the file of a folder that was moved or comes from another machine."""
        path = self._find_as_named(text) or self._find_by_name(_posix(text))
        own = None if path is None else self.own.get(path.name)
        return own if path and own and own.samefile(path) else path  # the workspace's own form of the path

    def _find_as_named(self, text: str) -> Path | None:
        candidates = [Path(text), Path(_posix(text))]
        places = [folder / path for path in candidates for folder in self.relative_to]  # an absolute path stays one
        return next((path for path in places if path.is_file()), None)

    def _former_root(self) -> PurePosixPath | None:
        """The run's folder as the list names it where it lies elsewhere now.

        Of the folders whose files are not there: the one of the run's own name; or the most frequent, if no clip is
        found as named.
        """
        voiced = [line for line in self.lines if not line.is_silence]
        is_there = [self._find_as_named(line.parts[0]) is not None for line in voiced]
        gone = [line.wave.parent.parent for line, found in zip(voiced, is_there, strict=True) if not found]
        same = [root for root in gone if root.name == self.workspace.root.absolute().name]
        candidates = same or ([] if any(is_there) else gone)
        return Counter(candidates).most_common(1)[0][0] if candidates else None

    def _find_by_name(self, path: PurePosixPath) -> Path | None:
        root, inner = path.parent.parent, Path(path.parent.name, path.name)
        if root == self.former_root:
            own = self.workspace.root / inner
        elif root.name == "mute":
            own = self.workspace.root.absolute().parent / "mute" / inner
        else:
            return None
        return own if own.is_file() else None

    def _held_out(self, listed: set[Path]) -> Iterator[ClipPaths]:
        """Clips that a run of this engine kept out of the list that the user has edited since.

        A list of another program would name some of them.
        """
        lines = [_Line.parse(0, text) for text in written.record_of(self.workspace.filelist).get("held_out", [])]
        clips = []
        for line in lines:
            paths = [self._find(part) for part in line.parts[:-1]] if self._fault(line) is None else [None]
            whole = [path for path in paths if path is not None]
            if len(whole) == len(paths):
                clips.append(_clip(whole, int(line.parts[-1])))
        if listed and not any(clip.wave in listed for clip in clips):
            yield from clips


def _clip(paths: Sequence[Path], speaker: int) -> ClipPaths:
    coarse, hz = (paths[2], paths[3]) if len(paths) == 4 else (None, None)
    return ClipPaths(paths[0], paths[1], coarse, hz, speaker)


def has_silence(workspace: Workspace, config: TrainingConfig) -> bool:
    """Whether a run needs no silent clip of its own: all that a user's list names are there, or RVC's is at hand.

    RVC's silence beside the folder was made by ContentVec.
    """
    beside = silence_beside(workspace, config.sample_rate, config.f0)
    listed = users_filelist(workspace, config.f0)
    if listed is not None and config.speakers == "one":
        return not listed.missing_silence or beside is not None
    return beside is not None and config.content == "contentvec"


def silence_beside(workspace: Workspace, rate_name: str, f0: bool) -> ClipPaths | None:
    """RVC's silent clip in `mute` beside the run's folder; None where a part of it is missing."""
    mute = workspace.root.absolute().parent / "mute"
    features = "3_feature256" if workspace.version == "v1" else "3_feature768"
    paths = [mute / "0_gt_wavs" / f"mute{rate_name}.wav", mute / features / "mute.npy"]
    if f0:
        paths += [mute / "2a_f0" / "mute.wav.npy", mute / "2b-f0nsf" / "mute.wav.npy"]
    return _clip(paths, 0) if all(path.is_file() for path in paths) else None

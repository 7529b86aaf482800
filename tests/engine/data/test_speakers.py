"""The speaker of each recording and slice: from folders, a mapping, or Applio's names."""

import json
import unicodedata
from pathlib import Path

import pytest
from pydantic import ValidationError

from rvc_engine.audio.recordings import Recording, list_recordings
from rvc_engine.config import TrainingConfig
from rvc_engine.data.speakers import (
    Speakers,
    check_folder_names,
    index_stem,
    index_stems,
    recording_folders,
    several_folders_note,
    speaker_ids,
    write_folders,
)
from rvc_engine.errors import InvalidDataset
from rvc_engine.workspace.layout import Workspace

FOLDERS = ["anna", "anna", "bob"]


def named(*names: str) -> list[Recording]:
    return [Recording(Path(f"{number:06d}.wav"), name) for number, name in enumerate(names)]


def speakers_of(choice: object, folders: list[str] = FOLDERS) -> Speakers:
    return Speakers.from_folders(TrainingConfig.model_validate({"speakers": choice}), folders)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("one", "one"),
        ("folders", "folders"),
        ("anna=0,bob=1", {"anna": 0, "bob": 1}),
        (" anna = 3 , a=b = 4", {"anna": 3, "a=b": 4}),
        ({"anna": 108}, {"anna": 108}),
    ],
)
def test_speakers_are_chosen_by_a_word_by_text_or_by_a_mapping(given: object, expected: object) -> None:
    config = TrainingConfig.model_validate({"speakers": given})
    assert config.speakers == expected
    assert TrainingConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    "wrong", ["all", "anna=109", "anna=-1", "anna=x", {}, {"anna": True}, {"anna": "0"}, {"a/b": 0}, {"": 0}, ["a"], 3]
)
def test_any_other_choice_of_speakers_gets_one_sentence(wrong: object) -> None:
    with pytest.raises(ValidationError, match=r"1 validation error[^!]*set one, or folders, or the number") as caught:
        TrainingConfig.model_validate({"speakers": wrong})
    assert caught.value.error_count() == 1


def test_a_folder_named_twice_and_a_speaker_id_beside_speakers_are_refused() -> None:
    with pytest.raises(ValidationError, match="names a folder twice"):
        TrainingConfig.model_validate({"speakers": "anna=0,anna=1"})
    with pytest.raises(ValidationError, match="speaker_id is for speakers=one"):
        TrainingConfig.model_validate({"speakers": "folders", "speaker_id": 2})


def test_a_folder_whose_name_is_a_number_is_that_speaker_and_the_others_take_the_free_numbers() -> None:
    assert speaker_ids(None, ["bob", "7", "0", "anna", "bob"]) == {"0": 0, "anna": 1, "bob": 2, "7": 7}


def test_a_mapping_may_give_one_speaker_two_folders_under_the_firsts_name() -> None:
    speakers = speakers_of({"anna": 4, "bob": 4})
    assert speakers.by_recording == (4, 4, 4)
    assert speakers.names_by_id([4]) == {4: "anna"}


@pytest.mark.parametrize(
    ("choice", "folders", "words"),
    [
        ({"anna": 0}, FOLDERS, "speakers does not name the folder 'bob'"),
        ({"anna": 0, "bob": 1, "eve": 2}, FOLDERS, "no folder 'eve'; it has 'anna', 'bob'"),
        ("folders", ["anna", "", ""], "2 of 3 recordings lie in no folder"),
        ("folders", ["", ""], "2 of 2 recordings lie in no folder"),
        ("folders", ["109", "0"], "'109' is not a speaker's number; these go from 0 to 108"),
        ("folders", [f"s{number}" for number in range(110)], "110 folders, but a voice has at most 109 speakers"),
    ],
)
def test_folders_that_do_not_name_every_speaker_are_an_invalid_dataset(
    choice: object, folders: list[str], words: str
) -> None:
    with pytest.raises(InvalidDataset, match=words):
        speakers_of(choice, folders)


def test_the_folder_that_holds_all_others_is_passed_through() -> None:
    assert recording_folders(named("set/anna/1.wav", "set/bob/day 1/1.wav")) == ["anna", "bob"]
    assert recording_folders(named("anna/1.wav", "anna/2.wav")) == ["anna", "anna"]
    assert recording_folders(named("set/anna/1.wav", "set/1.wav")) == ["set", "set"]
    assert recording_folders(named("1.wav")) == [""]


def test_names_of_an_uploads_manifest_give_the_folders_too(tmp_path: Path) -> None:
    rows = [{"path": f"{number:06d}.wav", "name": name} for number, name in enumerate(["./ånna/1.wav", "bob/1.wav"])]
    for row in rows:
        (tmp_path / row["path"]).touch()
    (tmp_path / "recordings.json").write_text(json.dumps({"files": rows}))
    assert recording_folders(list_recordings(tmp_path)) == ["ånna", "bob"]


def test_a_slice_is_of_the_speaker_in_whose_folder_its_recording_lies(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "duo")
    write_folders(workspace, FOLDERS)
    speakers = Speakers.from_workspace(workspace, TrainingConfig(speakers={"anna": 5, "bob": 0}))
    assert [speakers.speaker_of_slice(stem) for stem in ("0_0", "1_12", "2_0")] == [5, 5, 0]
    assert Speakers.from_workspace(workspace, TrainingConfig(speaker_id=9)).speaker_of_slice("2_0") == 9
    with pytest.raises(InvalidDataset, match="the speaker of the slice 3_0 is unknown"):
        speakers.speaker_of_slice("3_0")


def test_the_speaker_in_the_name_of_applios_slices_needs_no_folders(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "duo")
    assert (
        Speakers.from_workspace(workspace, TrainingConfig(speakers="folders")).speaker_of_slice("3_0_1", found=3) == 3
    )
    assert Speakers.from_workspace(workspace, TrainingConfig(speakers={"3": 1})).speaker_of_slice("3_0_1", found=3) == 1
    assert Speakers.from_workspace(workspace, TrainingConfig()).speaker_of_slice("3_0_1", found=3) == 3
    with pytest.raises(InvalidDataset, match="--dataset"):
        Speakers.from_workspace(workspace, TrainingConfig(speakers="folders")).speaker_of_slice("0_1")


def test_a_note_names_folders_whose_recordings_are_used_as_one_speaker() -> None:
    note = several_folders_note("one", FOLDERS)
    assert note is not None
    assert "speakers=anna=0,bob=1" in note
    assert several_folders_note("folders", FOLDERS) is None
    assert several_folders_note("one", ["anna", "anna", ""]) is None


def rvc_score(voice: str, index: str) -> int | None:
    """RVC's rule (FORMATS, "The index"): 0 is a standard match, 1 a mere occurrence, None no match."""
    voice, stem = voice.lower(), index.lower().removesuffix(".index")
    if "trained" in stem:
        return None
    if stem.startswith(f"{voice}_added_") or f"_{voice}_v1" in stem or f"_{voice}_v2" in stem:
        return 0
    return 1 if voice in stem else None


def test_a_speakers_index_is_listed_but_never_before_a_voices_own() -> None:
    def added(stem: str) -> str:
        return f"added_IVF10_Flat_nprobe_1_{stem}_v2.index"

    of_bob = index_stem("anna", 1, "bob")
    assert rvc_score("anna", added("anna")) == 0
    assert rvc_score("anna", added(of_bob)) == 1
    assert rvc_score("bob", added(of_bob)) == 1  # and not 0, which would win over a voice bob's own at times
    assert sorted([f"{of_bob}.index", "anna.index"])[-1] == "anna.index"
    assert rvc_score("anna", added(index_stem("anna", 2, "Trained one"))) == 1


@pytest.mark.parametrize("name", ["", "a\nb", "\u202ea", "x" * 150 + "日" * 60])
def test_a_speaker_whose_name_makes_no_file_name_goes_by_the_number(name: str) -> None:
    assert index_stem("anna", 7, name) == "anna-speaker-7"


def test_indexes_of_speakers_never_replace_each_other() -> None:
    names = {0: "a:b", 1: "a?b", 2: "Bob", 3: "bob", 4: "eve"}
    stems = ["duo-speaker-0", "duo-speaker-1", "duo-speaker-2", "duo-speaker-3", "duo-eve"]
    assert index_stems("duo", names) == dict(enumerate(stems))


@pytest.mark.parametrize("where", ["", "set/"])
def test_two_folders_whose_names_look_the_same_never_become_one_speaker(where: str) -> None:
    decomposed = unicodedata.normalize("NFD", "Zoë")
    with pytest.raises(InvalidDataset, match=r"'.*Zo\\xeb' and '.*Zoe\\u0308' are both shown as 'Zoë'"):
        check_folder_names(named(f"{where}Zoë/1.wav", f"{where}{decomposed}/1.wav", f"{where}bob/1.wav"))
    with pytest.raises(InvalidDataset, match="would become one speaker"):
        check_folder_names(named("Zoë/anna/1.wav", f"{decomposed}/anna/1.wav"))
    check_folder_names(named(f"Zoë/{decomposed}.wav", "Zoë/a.wav", "bob/Zoë/1.wav", f"bob/{decomposed}/1.wav"))

"""RVC and Applio find the files of a voice under any name."""

import pytest

from rvc_engine.names.voices import (
    check_dataset_name,
    check_run_name,
    check_voice_name,
    default_dataset_name,
    storable,
    voice_file_stem,
)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("anna", "anna"),
        ("anna_G_1.2 '日'", "anna_G_1.2 '日'"),
        ("pretrained_x", "pre-train-ed_x"),
        ("TrainEd 1 TRAINED", "Train-Ed 1 -TRAIN-ED"),  # RVC looks at the name in lower case
        ("D_anna", "D-anna"),  # Applio hides G_ and D_ files
        ("G_trained", "G--train-ed"),
    ],
)
def test_the_files_of_a_voice_are_called_so_that_no_loader_hides_them(name: str, stem: str) -> None:
    assert voice_file_stem(check_voice_name(name)) == stem
    assert voice_file_stem(stem) == stem


STORED = [
    ("what?", "what_"),
    ("a:b", "a_b"),
    ('"q" <x> a*b|c', "_q_ _x_ a_b_c"),
    ("AC/DC", "AC_DC"),
    ("a\\b", "a_b"),
    ("CON", "CON_"),
    ("aux", "aux_"),
    ("nul.txt", "nul_.txt"),
    ("COM1", "COM1_"),
    ("lpt¹.x", "lpt¹_.x"),
    ("console", "console"),
    ("My Voice vol.", "My Voice vol"),
    (".hidden", "_hidden"),
    ("-takes", "takes"),
    ("...", "_"),
    ("👩\u200d🎤", "👩\u200d🎤"),
    ("می\u200cخواهم", "می\u200cخواهم"),
    ("🏴\U000e0067\U000e0062\U000e007f", "🏴\U000e0067\U000e0062\U000e007f"),
]


@pytest.mark.parametrize(("name", "stem"), STORED)
def test_every_printable_name_is_taken_and_its_files_can_be_stored_on_windows(name: str, stem: str) -> None:
    assert voice_file_stem(check_voice_name(name)) == stem
    assert voice_file_stem(stem) == stem
    assert check_dataset_name(name) == name


def test_a_long_name_is_kept_and_the_stem_of_its_files_is_shortened() -> None:
    stems = {voice_file_stem(check_voice_name("声" * 99 + end)) for end in "一二"}
    assert len(stems) == 2
    assert all(len(stem.encode()) <= 180 for stem in stems)


@pytest.mark.parametrize("name", ["a\nb", "a\0b", "", " ", "\u200d", "x" * 101, "\u202ea", "a\u2028b", "\ud800"])
def test_a_name_that_cannot_be_printed_in_a_line_or_is_too_long_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the name"):
        check_voice_name(name)


def test_white_space_around_a_name_is_no_part_of_it() -> None:
    assert check_voice_name(" anna\n") == "anna"


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a|b", ".a", "-a", "a."])
def test_a_runs_name_is_a_folders_and_stands_in_a_file_list(name: str) -> None:
    with pytest.raises(ValueError, match="the name"):
        check_run_name(name)


def test_default_names_of_datasets_are_mended_instead_of_refused() -> None:
    assert default_dataset_name("My Voice vol.") == "My Voice vol."
    assert default_dataset_name("a\x07b\udcc4 ") == "a b?"
    assert default_dataset_name("\u202e") == "dataset"
    shortened = default_dataset_name("long " * 60)
    assert len(check_dataset_name(shortened)) <= 200


def test_a_storable_name_stays_as_it_is() -> None:
    for name in ("x.flac", "...", "a" * 500, "nul .txt"):
        assert storable(storable(name)) == storable(name)

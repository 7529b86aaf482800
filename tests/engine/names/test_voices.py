"""RVC and Applio find the files of a voice under any name."""

import pytest

from rvc_engine.config import check_voice_name, voice_file_stem


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("anna", "anna"),
        ('anna_G_1.2 "日"', 'anna_G_1.2 "日"'),
        ("pretrained_x", "pre-train-ed_x"),
        ("TrainEd 1 TRAINED", "Train-Ed 1 -TRAIN-ED"),  # RVC looks at the name in lower case
        ("D_anna", "D-anna"),  # Applio hides G_ and D_ files
        ("G_trained", "G--train-ed"),
    ],
)
def test_the_files_of_a_voice_are_called_so_that_no_loader_hides_them(name: str, stem: str) -> None:
    assert voice_file_stem(check_voice_name(name)) == stem
    assert voice_file_stem(stem) == stem


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a|b", "a\nb", ".a", "-a", "a.", " a", "", "x" * 101, "\u202ea"])
def test_a_name_that_is_no_plain_file_name_or_would_break_a_file_list_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the name"):
        check_voice_name(name)

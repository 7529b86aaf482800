"""The program that converts one recording after the other: voices stay loaded, and a bad request ends no other."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rvc_engine.conversion.messages import Cancel, Convert, Converted, Converting, Failed, VoiceReady
from tests.engine.conversion.voices import Program, glide, make_save, make_voice


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    made = Program(dict(os.environ))
    yield made
    assert made.close() == 0, "it ends when its standard input does"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "samples.f32"
    glide(1.0, 200, 200).tofile(path)
    return path


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_voice(tmp_path_factory.mktemp("voice") / "anna.pth", median_pitch={0: 100.0})


def test_a_second_request_finds_the_voice_loaded_and_is_the_faster(program, samples, voice, tmp_path):
    times, ready = [], []
    for number in ("first", "second"):
        started = time.monotonic()
        program.send(Convert(id=number, samples=samples, target=tmp_path / f"{number}.wav", voice=voice))
        replies = program.replies(number)
        times.append(time.monotonic() - started)
        ready += [reply for reply in replies if isinstance(reply, VoiceReady)]
        assert replies[-1] == Converted(id=number, seconds=1.0, sample_rate=40_000, pitch_shift=0.0)
        assert any(isinstance(reply, Converting) for reply in replies)
    assert [each.was_loaded for each in ready] == [False, True]
    assert ready[1].seconds < 0.1 * ready[0].seconds
    assert times[1] < 0.7 * times[0]
    assert (tmp_path / "first.wav").read_bytes() == (tmp_path / "second.wav").read_bytes()


def test_auto_moves_the_recordings_median_pitch_to_the_voices_by_whole_semitones(program, samples, voice, tmp_path):
    program.send(Convert(id="auto", samples=samples, target=tmp_path / "a.wav", voice=voice, pitch_shift="auto"))
    assert program.replies("auto")[-1].pitch_shift == -12.0  # 200 Hz to 100 Hz


def test_a_voice_without_a_median_pitch_asks_for_semitones(program, samples, tmp_path):
    older = make_voice(tmp_path / "older.pth")
    program.send(Convert(id="older", samples=samples, target=tmp_path / "a.wav", voice=older, pitch_shift="auto"))
    failed = program.replies("older")[-1]
    assert failed.code == "invalid_config"
    assert "give the semitones" in failed.message


def test_a_save_of_a_running_training_converts_with_the_encoder_and_the_pitch_of_its_run(program, samples, tmp_path):
    save = make_save(tmp_path / "workspace" / "G_2333333.pth")
    curve = tmp_path / "workspace" / "2b-f0nsf" / "0_0.wav.npy"
    curve.parent.mkdir()
    np.save(curve, np.full(100, 400.0))
    (tmp_path / "workspace" / "filelist.txt").write_text(f"/a/0_0.wav|/a/0_0.npy|/a/0_0.wav.npy|{curve}|0\n")
    target = tmp_path / "out.wav"
    program.send(
        Convert(id="G", samples=samples, target=target, voice=save, content="whisper-tiny", pitch_shift="auto")
    )
    assert program.replies("G")[-1] == Converted(id="G", seconds=1.0, sample_rate=40_000, pitch_shift=12.0)
    assert np.isfinite(soundfile.read(target)[0]).all()


def test_a_request_that_fails_says_why_and_the_next_is_served(program, samples, voice, tmp_path):
    text = tmp_path / "text.pth"
    text.write_text("not a voice")
    wrong = {
        "text": ({"voice": text}, "incompatible_checkpoint", "not a file of tensors"),
        "gone": ({"voice": tmp_path / "G_1.pth"}, "incompatible_checkpoint", "not there any more"),
        "speaker": ({"voice": voice, "speaker": "bob"}, "invalid_config", "no speaker 'bob'"),
        "short": ({"voice": voice, "samples": tmp_path / "short.f32"}, "invalid_dataset", "0.006 s"),
        "format": ({"voice": voice, "target": tmp_path / "out.aiff"}, "invalid_config", ".opus"),
    }
    np.zeros(100, np.float32).tofile(tmp_path / "short.f32")
    usual = {"samples": samples, "target": tmp_path / "out.wav"}
    for number, (fields, code, words) in wrong.items():
        program.send(Convert.model_validate({"id": number, **usual, **fields}))
        failed = program.replies(number)[-1]
        assert isinstance(failed, Failed)
        assert (failed.code, words in failed.message) == (code, True), failed
    program.process.stdin.write(b"not a request\n")
    program.send(Convert(id="good", samples=samples, target=tmp_path / "out.wav", voice=voice))
    assert isinstance(program.replies("good")[-1], Converted)


def test_a_cancelled_request_ends_and_writes_no_file(program, voice, tmp_path):
    long = tmp_path / "long.f32"
    glide(90).tofile(long)
    target = tmp_path / "out.wav"
    program.send(Convert(id="long", samples=long, target=target, voice=voice), Cancel(id="long"))
    assert program.replies("long")[-1] == Failed(id="long", code="cancelled", message="cancelled")
    assert not list(tmp_path.glob("*out*"))

"""Recordings are read whatever their container, rate, channels, name and state."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from rvc_engine.audio import reading
from rvc_engine.audio.reading import UnreadableAudio, decode_mono, open_audio, probe, read_mono
from tests.systems import proc

Voice = Callable[..., np.ndarray]
Encode = Callable[..., Path]

LOSSLESS = [("wav", "wav", "pcm_s16le"), ("flac", "flac", "flac"), ("aiff", "aiff", "pcm_s16be"),
            ("caf", "caf", "pcm_s16be"), ("au", "au", "pcm_s16be"), ("w64", "w64", "pcm_s16le"),
            ("mka", "matroska", "flac"), ("mov", "mov", "pcm_s24le"), ("m4a", "ipod", "alac"),
            ("wv", "wv", "wavpack"), ("tta", "tta", "tta")]  # fmt: skip
LOSSY = [("mp3", "mp3", "libmp3lame", 44_100), ("aac", "adts", "aac", 44_100), ("m4a", "ipod", "aac", 44_100),
         ("mp4", "mp4", "aac", 44_100), ("opus", "ogg", "libopus", 48_000), ("webm", "webm", "libopus", 48_000),
         ("wma", "asf", "wmav2", 44_100), ("ac3", "ac3", "ac3", 48_000), ("mp2", "mp2", "mp2", 44_100),
         ("ts", "mpegts", "aac", 44_100), ("avi", "avi", "libmp3lame", 44_100),
         ("amr", "amr", "libopencore_amrnb", 8_000)]  # fmt: skip


def strongest_hz(sound: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(np.argmax(spectrum) * rate / len(sound))


@pytest.mark.parametrize(("suffix", "container", "codec"), LOSSLESS)
def test_a_lossless_recording_is_read_sample_by_sample(
    tmp_path: Path, voice: Voice, encode: Encode, suffix: str, container: str, codec: str
) -> None:
    sound = voice(1.0)
    path = encode(tmp_path / f"a.{suffix}", sound, 44_100, container, codec)
    read = read_mono(path, 44_100)
    assert read.dtype == np.float32
    assert len(read) == len(sound)
    assert np.abs(read - sound).max() < 1.5 / 32768


@pytest.mark.parametrize(("suffix", "container", "codec", "rate"), LOSSY)
def test_a_lossy_recording_keeps_its_pitch_level_and_length(
    tmp_path: Path, voice: Voice, encode: Encode, suffix: str, container: str, codec: str, rate: int
) -> None:
    path = encode(tmp_path / f"a.{suffix}", voice(2.0, rate), rate, container, codec)
    read = read_mono(path, 40_000)
    assert len(read) / 40_000 == pytest.approx(2.0, abs=0.06)
    assert strongest_hz(read, 40_000) == pytest.approx(220, abs=1)
    middle = read[20_000:60_000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(float(np.std(voice(2.0))), rel=0.15)


def test_ogg_vorbis_is_read(tmp_path: Path, voice: Voice) -> None:
    soundfile.write(tmp_path / "a.ogg", voice(2.0), 44_100)
    assert len(read_mono(tmp_path / "a.ogg", 44_100)) == pytest.approx(88_200, abs=256)  # a short Vorbis block


@pytest.mark.parametrize("name", ["a.txt", "a.mp3", "a.raw", "a", "a.zip", "a.wav.part"])
def test_the_format_is_detected_from_the_content_and_not_from_the_suffix(
    tmp_path: Path, voice: Voice, name: str
) -> None:
    soundfile.write(tmp_path / "a.flac", voice(0.5), 44_100)
    (tmp_path / "a.flac").rename(tmp_path / name)
    assert probe(tmp_path / name).container == "flac"


@pytest.mark.parametrize(
    "name", ["with space.mp3", 'it\'s "quoted".mp3', "声音 录音.mp3", "صوت.mp3", "file:x.mp3", "%d.mp3", "-i.mp3"]
)
def test_odd_names_are_read(tmp_path: Path, voice: Voice, encode: Encode, name: str) -> None:
    encode(tmp_path / "a.mp3", voice(0.5), 44_100, "mp3", "libmp3lame").rename(tmp_path / name)
    assert len(read_mono(tmp_path / name, 40_000)) == pytest.approx(20_000, abs=1_000)


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path, voice: Voice) -> None:
    soundfile.write(tmp_path / "a.wav", voice(0.5), 44_100)
    path = os.fsencode(tmp_path) + b"/\xff\xfe.wav"
    (tmp_path / "a.wav").rename(os.fsdecode(path))
    assert len(read_mono(Path(os.fsdecode(path)), 44_100)) == 22_050


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_are_averaged(tmp_path: Path, voice: Voice, channels: int) -> None:
    tracks = np.stack([voice(0.5, hz=200 + 50 * n, peak=0.1 * (n + 1)) for n in range(channels)], axis=1)
    soundfile.write(tmp_path / "a.wav", tracks, 44_100, subtype="FLOAT")
    assert np.allclose(read_mono(tmp_path / "a.wav", 44_100), tracks.mean(axis=1), atol=1e-6)


def test_five_point_one_aac_is_read(tmp_path: Path, voice: Voice, encode: Encode) -> None:
    tracks = np.tile(voice(1.0, 48_000), (6, 1))
    path = encode(tmp_path / "a.m4a", tracks, 48_000, "ipod", "aac", layout="5.1")
    assert probe(path).channels == 6
    assert strongest_hz(read_mono(path, 48_000), 48_000) == pytest.approx(220, abs=1)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_every_rate_is_resampled_as_if_in_one_piece(tmp_path: Path, voice: Voice, rate: int) -> None:
    sound = voice(8.0, rate)  # longer than a block at 44.1 kHz and above
    soundfile.write(tmp_path / "a.wav", sound, rate, subtype="FLOAT")
    read = read_mono(tmp_path / "a.wav", 40_000)
    assert len(read) == 320_000
    assert np.abs(read - soxr.resample(sound, rate, 40_000)).max() < 1e-5


@pytest.mark.parametrize(("subtype", "step"), [("PCM_U8", 1 / 128), ("PCM_16", 2**-15), ("PCM_24", 2**-23)])
def test_full_scale_of_integers_is_one(tmp_path: Path, voice: Voice, subtype: str, step: float) -> None:
    sound = voice(0.5, peak=0.9)
    soundfile.write(tmp_path / "a.wav", sound, 44_100, subtype=subtype)
    assert np.abs(read_mono(tmp_path / "a.wav", 44_100) - sound).max() < 1.01 * step


def test_blocks_stay_small(tmp_path: Path, voice: Voice) -> None:
    soundfile.write(tmp_path / "a.flac", np.tile(voice(20.0)[:, None], (1, 2)), 44_100)
    sizes = [len(block) for block in decode_mono(tmp_path / "a.flac", 48_000)]
    assert len(sizes) > 5
    assert max(sizes) < 200_000


def test_the_decoders_small_frames_come_as_few_blocks(tmp_path: Path, voice: Voice) -> None:
    sound = voice(20.0, 44_100)
    soundfile.write(tmp_path / "a.flac", sound, 44_100)
    blocks = list(decode_mono(tmp_path / "a.flac", 44_100))
    assert len(blocks) == -(-len(sound) // 2**18)
    np.testing.assert_allclose(np.concatenate(blocks), sound, atol=1e-4)


def test_a_rate_that_changes_on_the_way_is_followed(tmp_path: Path, voice: Voice, encode: Encode) -> None:
    first = encode(tmp_path / "1.mp3", voice(1.0, 44_100), 44_100, "mp3", "libmp3lame").read_bytes()
    second = encode(tmp_path / "2.mp3", voice(1.0, 22_050), 22_050, "mp3", "libmp3lame").read_bytes()
    (tmp_path / "both.mp3").write_bytes(first + second)
    read = read_mono(tmp_path / "both.mp3", 40_000)
    assert len(read) / 40_000 == pytest.approx(2.0, abs=0.15)
    assert strongest_hz(read[45_000:75_000], 40_000) == pytest.approx(220, abs=2)


def test_nan_infinity_and_absurd_samples_are_read_as_zero(tmp_path: Path, voice: Voice) -> None:
    sound = voice(0.5)
    sound[[10, 20, 30, 40]] = [np.nan, np.inf, -np.inf, 1e30]
    soundfile.write(tmp_path / "a.wav", sound, 44_100, subtype="FLOAT")
    read = read_mono(tmp_path / "a.wav", 44_100)
    assert np.isfinite(read).all()
    assert read[[10, 20, 30, 40]].tolist() == [0, 0, 0, 0]
    assert np.abs(read[50:] - sound[50:]).max() == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"These are words and no sound.\n" * 400, "not audio"),
        (b"RIFF\x00\x10\x00\x00WAVEfmt ", "not audio"),
        (b"PK\x03\x04" + bytes(range(256)) * 40, "not audio"),
        (b"%PDF-1.7\n" + b"\xff\xfb\x90\x64" * 3, "not audio"),
        (np.random.RandomState(0).bytes(100_000), "not audio"),
    ],
)
def test_what_is_no_sound_is_refused_with_a_plain_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UnreadableAudio, match=reason):
        read_mono(tmp_path / "a.wav", 40_000)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableAudio, match="No such file"):
        probe(tmp_path / "none.wav")
    with pytest.raises(UnreadableAudio):
        probe(tmp_path)


def test_a_picture_is_refused(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10, width=64, height=64)
        for fill in range(5):
            picture = np.full((64, 64, 3), fill * 40, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        file.mux(stream.encode(None))
    with pytest.raises(UnreadableAudio, match="no audio track"):
        probe(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{path}'\n",
        "#EXTM3U\n{path}\n",
    ],
)
def test_a_playlist_reaches_no_other_file(tmp_path: Path, voice: Voice, playlist: str) -> None:
    soundfile.write(tmp_path / "secret.wav", voice(0.5), 44_100)
    (tmp_path / "a.wav").write_text(playlist.format(path=tmp_path / "secret.wav"))
    with pytest.raises(UnreadableAudio):
        read_mono(tmp_path / "a.wav", 40_000)


@pytest.mark.parametrize(("suffix", "codec"), [("mp3", "libmp3lame"), ("flac", "flac")])
def test_a_truncated_recording_is_read_as_far_as_it_goes_and_the_loss_is_noted(
    tmp_path: Path, voice: Voice, encode: Encode, capfd: pytest.CaptureFixture[str], suffix: str, codec: str
) -> None:
    path = encode(tmp_path / f"a.{suffix}", voice(10.0), 44_100, suffix, codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with open_audio(path) as stream:
        seconds = sum(map(len, stream.mono(40_000))) / 40_000
    assert 5 < seconds < 7
    assert len(stream.notes) == 1
    assert "cut off" in stream.notes[0]
    assert "of 10.0 s" in stream.notes[0]
    assert capfd.readouterr() == ("", "")


def test_damage_in_the_middle_is_skipped_and_noted(tmp_path: Path, voice: Voice, encode: Encode) -> None:
    path = encode(tmp_path / "a.mp3", voice(10.0), 44_100, "mp3", "libmp3lame")
    content = bytearray(path.read_bytes())
    content[80_000:83_000] = np.random.RandomState(0).bytes(3_000)
    path.write_bytes(content)
    with open_audio(path) as stream:
        seconds = sum(map(len, stream.mono(40_000))) / 40_000
    assert seconds > 9
    assert "damaged" in stream.notes[0]


def test_an_mp3_cut_down_to_its_header_is_refused(tmp_path: Path, voice: Voice, encode: Encode) -> None:
    path = encode(tmp_path / "a.mp3", voice(1.0), 44_100, "mp3", "libmp3lame")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UnreadableAudio):
        read_mono(path, 40_000)


def test_a_recording_without_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), 44_100)
    with pytest.raises(UnreadableAudio, match="no sound"):
        read_mono(tmp_path / "a.wav", 40_000)


def test_a_recording_of_days_is_refused(tmp_path: Path, voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_SECONDS", 3600)
    soundfile.write(tmp_path / "a.flac", np.zeros(3601 * 1000, np.float32), 1000)
    with pytest.raises(UnreadableAudio, match="longer than 1 hours"):
        for _ in decode_mono(tmp_path / "a.flac", 1000):
            pass


def wav_header(channels: int = 1, rate: int = 44_100, data_size: int = 0xFFFFFFF0) -> bytes:
    block = 2 * channels & 0xFFFF
    return b"".join((
        b"RIFF", (0xFFFFFFFF).to_bytes(4, "little"), b"WAVEfmt ", (16).to_bytes(4, "little"), (1).to_bytes(2, "little"),
        channels.to_bytes(2, "little"), rate.to_bytes(4, "little"), (rate * block & 0xFFFFFFFF).to_bytes(4, "little"),
        block.to_bytes(2, "little"), (16).to_bytes(2, "little"), b"data", data_size.to_bytes(4, "little"),
    ))  # fmt: skip


def test_a_wav_written_to_a_pipe_is_read_to_its_end(tmp_path: Path, voice: Voice) -> None:
    """Programs that cannot seek leave the largest size in the header."""
    sound = (voice(1.0) * 32767).astype("<i2")
    for size in (0xFFFFFFFF, 0xFFFFFFF0, 0x7FFFFFFF):
        (tmp_path / "a.wav").write_bytes(wav_header(data_size=size) + sound.tobytes())
        assert len(read_mono(tmp_path / "a.wav", 44_100)) == 44_100


@proc
def test_headers_that_lie_cannot_make_us_allocate(tmp_path: Path, voice: Voice) -> None:
    noise = np.random.RandomState(0).bytes(3_000_000)
    (tmp_path / "channels").write_bytes(wav_header(channels=65_535) + noise)
    (tmp_path / "rate").write_bytes(wav_header(rate=2**31 - 1) + noise)
    (tmp_path / "size").write_bytes(wav_header() + noise[:1000])
    soundfile.write(tmp_path / "a.flac", voice(1.0), 44_100)
    flac = bytearray((tmp_path / "a.flac").read_bytes())
    flac[21:26] = bytes([flac[21] | 0x0F]) + b"\xff\xff\xff\xff"  # 2^36 samples
    (tmp_path / "flac").write_bytes(flac)
    program = """if True:
        import sys
        from pathlib import Path
        from rvc_engine.audio.reading import UnreadableAudio, decode_mono
        def peak():
            return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
        before = peak()
        for path in Path(sys.argv[1]).iterdir():
            try:
                print(path.name, sum(map(len, decode_mono(path, 40_000))))
            except UnreadableAudio as error:
                print(path.name, error)
        print("grown", peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True, timeout=60
    )
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert "header gives" in lines["rate"] or "not audio" in lines["rate"]
    assert int(lines["size"]) < 1000
    assert int(lines["flac"]) == 40_000
    assert "channels" in lines
    assert int(lines["grown"]) < 60_000  # kilobytes


def test_decoding_never_imports_torch_or_scipy() -> None:
    libraries = {"torch", "scipy", "faiss", "transformers"}
    program = f"import sys, rvc_engine.report.report; print(sorted({libraries} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

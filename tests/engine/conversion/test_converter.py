"""Converting speech with a voice: the steps one by one, then the whole with a small voice and a recording model."""

import dataclasses
from typing import get_args

import faiss
import numpy as np
import pytest
import soundfile
import torch
import typer
from typer.testing import CliRunner

from rvc_engine.checkpoints.io import load_file
from rvc_engine.cli.convert import convert
from rvc_engine.config import PitchEstimator as EstimatorName
from rvc_engine.config import TrainingConfig
from rvc_engine.conversion import converter as conversion
from rvc_engine.conversion.converter import Analysis, ConversionOptions, Converter, convert_file
from rvc_engine.errors import IncompatibleCheckpoint, InvalidConfig, InvalidDataset
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.index.retrieval import Retrieval
from rvc_engine.machine import Machine
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.pitch.curve import coarse_pitch
from rvc_engine.voices.export import VoiceDetails, write_voice
from rvc_engine.voices.voice import load_voice

CPU = torch.device("cpu")
RATE = 16_000


def make_voice(path, embedder="whisper-tiny.en-l2l3", f0=True):
    config = TrainingConfig(content="whisper-tiny", pretrained="none", width=24, f0=f0)
    torch.manual_seed(0)
    hparams = Hyperparameters.from_config(config)
    write_voice(path, Synthesizer(hparams).state_dict(), hparams, VoiceDetails("anna", 1, 1, embedder, 60.0))
    return path


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    return make_voice(tmp_path_factory.mktemp("voice") / "anna.pth")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    rows = np.random.default_rng(0).standard_normal((500, 768)).astype(np.float32)
    index = faiss.index_factory(768, "IVF4,Flat")
    index.train(rows)
    index.add(rows)
    path = tmp_path_factory.mktemp("index") / "anna.index"
    faiss.write_index(index, str(path))
    return path


def glide(seconds, low=150.0, high=250.0):
    """A voice-like tone that rises from low to high."""
    times = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(low + (high - low) * times / seconds) / RATE
    return sum(np.sin(n * phase) / n for n in range(1, 8)).astype(np.float32) * 0.2


@dataclasses.dataclass
class RecordingModel:
    """A fake synthesizer whose output is its pitch input, in Hz / 1000, and which keeps its inputs."""

    hparams: Hyperparameters
    given: list = dataclasses.field(default_factory=list)

    def infer(self, features, coarse, f0, lengths, speakers, prior, source):
        self.given.append({"features": features[0].numpy(), "coarse": coarse[0].numpy(), "f0": f0[0].numpy()})
        assert features.shape[1] == f0.shape[1] == int(lengths[0]) == prior.shape[2]
        assert source.shape[1] == f0.shape[1] * self.hparams.hop_length
        return f0.repeat_interleave(self.hparams.hop_length, dim=1)[:, None] / 1000


@pytest.fixture
def converter(voice):
    return Converter(voice, None, Analysis(Machine(num_threads=1), CPU))


@pytest.fixture
def recorded(converter):
    model = RecordingModel(converter._voice.hparams)
    converter._voice = dataclasses.replace(converter._voice, model=model)
    return converter, model


def test_the_nearest_rows_are_blended_by_one_over_the_squared_distance(index):
    own = np.random.default_rng(1).standard_normal((3, 768)).astype(np.float32)
    raw = faiss.read_index(str(index))
    distances, ids = raw.search(own, 8)
    rows = raw.reconstruct_n(0, raw.ntotal)
    weights = 1 / distances.astype(np.float64) ** 2
    weights /= weights.sum(1, keepdims=True)
    retrieved = (rows[ids] * weights[..., None]).sum(1)
    blended = Retrieval(index, 768).blend(own, 0.75)
    np.testing.assert_allclose(blended, 0.75 * retrieved + 0.25 * own, atol=1e-5)


def test_a_row_that_is_in_the_index_finds_itself_and_no_nan(index):
    row = faiss.read_index(str(index)).reconstruct_n(7, 1)
    np.testing.assert_allclose(Retrieval(index, 768).blend(row, 1.0), row, atol=1e-4)


def test_an_index_of_fewer_rows_than_neighbours_serves(tmp_path):
    rows = np.random.default_rng(0).standard_normal((3, 768)).astype(np.float32)
    small = faiss.index_factory(768, "IVF1,Flat")
    small.train(rows)
    small.add(rows)
    faiss.write_index(small, str(tmp_path / "small.index"))
    blended = Retrieval(tmp_path / "small.index", 768).blend(rows[:1] + 1, 1.0)
    assert np.isfinite(blended).all()
    assert np.abs(blended).max() <= np.abs(rows).max() + 1e-5


def test_without_a_share_the_index_changes_nothing(index):
    own = np.ones((2, 768), np.float32)
    assert Retrieval(index, 768).blend(own, 0) is own


def test_an_index_of_other_features_is_refused(index, tmp_path):
    with pytest.raises(IncompatibleCheckpoint, match="768 features, but the voice needs rows of 256"):
        Retrieval(index, 256)
    (tmp_path / "text.index").write_text("no index")
    with pytest.raises(IncompatibleCheckpoint, match="not a FAISS index"):
        Retrieval(tmp_path / "text.index", 768)


def test_protection_keeps_unvoiced_frames_mostly_as_they_were():
    own, blended = np.zeros((4, 2), np.float32), np.ones((4, 2), np.float32)
    mixed = conversion.protect_unvoiced(own, blended, np.array([True, False, False, True]), 0.3)
    np.testing.assert_allclose(mixed[:, 0], [1, 0.3, 0.3, 1], rtol=1e-6)


def test_short_input_is_not_cut_and_long_input_at_its_quietest():
    assert conversion.cut_points(np.zeros(40 * RATE, np.float32)) == []
    wave = np.random.default_rng(0).standard_normal(80 * RATE).astype(np.float32)
    for middle in (35.0, 79.0):
        wave[int(middle * RATE) - 800 : int(middle * RATE) + 800] = 0
    first, second = conversion.cut_points(wave)
    assert abs(first / RATE - 35) < 0.05
    assert abs(second / RATE - 79) < 0.05
    assert first % 160 == second % 160 == 0


def test_loudness_stays_ones_own_at_rate_one_and_is_the_inputs_at_rate_zero():
    quiet = 0.05 * np.sin(np.arange(4 * RATE) / 20).astype(np.float32)
    loud = 0.8 * np.sin(np.arange(4 * 40_000) / 50).astype(np.float32)
    assert conversion.mix_loudness(quiet, loud, 40_000, 1) is loud
    middle = slice(40_000, 120_000)
    for rate, expected in ((0.0, 0.05), (0.5, 0.2)):
        mixed = conversion.mix_loudness(quiet, loud, 40_000, rate)
        assert np.abs(mixed[middle]).max() == pytest.approx(expected, rel=0.02)
    assert np.isfinite(conversion.mix_loudness(quiet, np.zeros_like(loud), 40_000, 0.25)).all()


def test_too_loud_input_and_output_are_scaled_down_and_others_left():
    assert np.abs(conversion.limit_peak(np.full(500, 2.0, np.float32))).max() == pytest.approx(0.95)
    assert np.abs(conversion.limit_peak(np.full(500, 0.5, np.float32))).max() == 0.5
    assert conversion.to_int16(np.array([2.0, -1.0], np.float32)).tolist() == [32440, -16220]
    assert conversion.to_int16(np.array([0.5], np.float32)).tolist() == [16384]


def test_the_high_pass_takes_hum_and_shifts_nothing():
    hum, tone = (np.sin(2 * np.pi * hz * np.arange(RATE) / RATE).astype(np.float32) for hz in (15, 400))
    middle = slice(4000, 12_000)
    assert np.abs(conversion.high_pass(hum)[middle]).max() < 0.01
    np.testing.assert_allclose(conversion.high_pass(tone)[middle], tone[middle], atol=1e-3)


def test_pitch_arrives_shifted_by_the_key_and_in_coarse_bins_as_in_training(recorded):
    converter, model = recorded
    converter.convert(glide(3, 200, 200), ConversionOptions(key_shift=12, rms_mix_rate=1))
    [given] = model.given
    assert np.median(given["f0"]) == pytest.approx(400, rel=0.01)
    np.testing.assert_array_equal(given["coarse"], coarse_pitch(given["f0"].astype(np.float64)))


def test_nothing_is_lost_or_shifted_where_long_input_was_cut(recorded, monkeypatch):
    converter, model = recorded
    wave = glide(20)
    whole = converter.convert(wave, ConversionOptions(rms_mix_rate=1)).samples
    assert len(model.given) == 1
    monkeypatch.setattr(conversion, "LONGEST_WHOLE", 4 * RATE)
    monkeypatch.setattr(conversion, "CUT_EVERY", 3 * RATE)
    monkeypatch.setattr(conversion, "CUT_WITHIN", RATE // 2)
    in_pieces = converter.convert(wave, ConversionOptions(rms_mix_rate=1)).samples
    assert len(model.given) > 6
    assert len(in_pieces) == 20 * 40_000
    np.testing.assert_array_equal(in_pieces, whole)
    hz = whole.astype(np.float64) / 32768 * 1000
    expected = 150 + 100 * np.arange(len(hz)) / len(hz)
    assert np.abs(hz - expected)[40_000:-40_000].mean() < 1


def test_the_index_reaches_the_net_and_protection_spares_unvoiced_frames(recorded, index):
    converter, model = recorded
    noise = 0.05 * np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    wave = np.concatenate([glide(2, 200, 220), noise])
    options = ConversionOptions(index_rate=1, protect=0, rms_mix_rate=1)
    converter.convert(wave, options)
    converter._retrieval = Retrieval(index, 768)
    converter.convert(wave, options)
    converter.convert(wave, dataclasses.replace(options, protect=0.5))
    plain, spared, full = (given["features"] for given in model.given)
    voiced, unvoiced = slice(120, 250), slice(350, 480)
    assert np.abs(spared - plain)[voiced].mean() > 0.1
    np.testing.assert_allclose(spared[unvoiced][20:-20], plain[unvoiced][20:-20], atol=1e-6)
    assert np.abs(full - plain)[unvoiced].mean() > 0.1


def test_a_file_becomes_16_bit_sound_of_the_same_length_and_twice_the_same(converter, index, tmp_path):
    converter._retrieval = Retrieval(index, 768)
    soundfile.write(tmp_path / "in.ogg", np.stack([glide(1.5)] * 2, axis=1), RATE)
    seconds = convert_file(tmp_path / "in.ogg", tmp_path / "out" / "a.wav", converter, ConversionOptions())
    convert_file(tmp_path / "in.ogg", tmp_path / "out" / "b.wav", converter, ConversionOptions())
    info = soundfile.info(tmp_path / "out" / "a.wav")
    assert (info.samplerate, info.subtype, info.channels) == (40_000, "PCM_16", 1)
    assert info.duration == pytest.approx(seconds) == pytest.approx(1.5, abs=0.01)
    assert (tmp_path / "out" / "a.wav").read_bytes() == (tmp_path / "out" / "b.wav").read_bytes()
    assert np.abs(soundfile.read(tmp_path / "out" / "a.wav")[0]).max() > 0.001


def test_another_seed_gives_other_noise(converter):
    one, other = (converter.convert(glide(0.5), ConversionOptions(seed=seed)).samples for seed in (0, 1))
    assert (one != other).any()


def test_a_voice_without_pitch_converts_too(tmp_path):
    converter = Converter(make_voice(tmp_path / "flat.pth", f0=False), None, Analysis(Machine(), CPU))
    assert len(converter.convert(glide(0.5), ConversionOptions()).samples) == 20_000


@pytest.mark.parametrize("seconds", [0.03, 0.4])
def test_very_short_sounds_convert(converter, seconds):
    assert len(converter.convert(glide(seconds), ConversionOptions()).samples) == int(seconds * RATE) * 40_000 // RATE


def test_input_that_cannot_be_converted_is_an_error(converter, tmp_path):
    with pytest.raises(InvalidDataset, match="longer"):
        converter.convert(np.zeros(100, np.float32), ConversionOptions())
    (tmp_path / "text.wav").write_text("not sound")
    with pytest.raises(InvalidDataset, match=r"text\.wav cannot be read"):
        convert_file(tmp_path / "text.wav", tmp_path / "out.wav", converter, ConversionOptions())
    with pytest.raises(InvalidConfig, match=r"\.mp3 or \.opus"):
        convert_file(tmp_path / "text.wav", tmp_path / "out.ogg", converter, ConversionOptions())
    with pytest.raises(InvalidConfig, match="speakers 0 to 108"):
        converter.convert(glide(0.5), ConversionOptions(speaker=109))
    with pytest.raises(InvalidConfig, match="protect"):
        ConversionOptions(protect=0.6)


def test_a_voice_of_a_local_encoder_takes_no_other(tmp_path):
    voice = make_voice(tmp_path / "own.pth", embedder="local-" + "0" * 64)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"another encoder's weights")
    with pytest.raises(IncompatibleCheckpoint, match="was trained with the content encoder local-000"):
        Converter(voice, None, Analysis(Machine(content_folder=tmp_path), CPU))


def test_a_voice_of_an_unknown_encoder_is_refused_and_one_of_either_spelling_is_not(voice, tmp_path):
    with pytest.raises(IncompatibleCheckpoint, match="chinese-hubert"):
        load_voice(make_voice(tmp_path / "chinese-hubert.pth", embedder="chinese-hubert"), CPU)
    tree = load_file(voice)
    original = load_voice(voice, CPU).model.state_dict()
    spellings = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
    for old, new in spellings.items():
        tree["weight"] = {name.replace(old, new): value.float() for name, value in tree["weight"].items()}
    torch.save(tree, tmp_path / "new.pth")
    for name, value in load_voice(tmp_path / "new.pth", CPU).model.state_dict().items():
        torch.testing.assert_close(value, original[name])


@pytest.mark.parametrize("change", ["drop", "misshape", "checkpoint"])
def test_a_file_that_is_no_voice_is_refused(voice, tmp_path, change):
    tree = load_file(voice)
    if change == "drop":
        del tree["weight"]["dec.conv_pre.bias"]
    elif change == "misshape":
        tree["weight"]["dec.conv_pre.bias"] = torch.zeros(3)
    else:
        tree = {"model": tree["weight"], "iteration": 1}
    torch.save(tree, tmp_path / "wrong.pth")
    with pytest.raises(IncompatibleCheckpoint, match=r"wrong\.pth is not a voice"):
        load_voice(tmp_path / "wrong.pth", CPU)


def test_the_command_line_converts_and_reports_errors_in_a_sentence(voice, index, tmp_path):
    import typer

    app = typer.Typer()
    app.command()(convert)
    soundfile.write(tmp_path / "in.wav", glide(0.5), RATE)
    words = [str(tmp_path / "in.wav"), str(tmp_path / "out.flac"), "--voice", str(voice), "--index", str(index)]
    result = CliRunner().invoke(app, [*words, "--device", "cpu", "--key", "-3"])
    assert result.exit_code == 0, result.output
    assert "out.flac: 0.5 s at 40000 Hz" in result.output
    failed = CliRunner().invoke(app, [*words, "--protect", "0.7"])
    assert failed.exit_code == 1
    assert "protect is 0.7; it must be between 0 and 0.5" in failed.output


@dataclasses.dataclass
class SteadyEstimator:
    """An estimator that returns 123 Hz for all frames."""

    name: str
    batch_size: int = 1

    def estimate(self, waves_16k):
        return [np.full(len(wave) // 160, 123.0) for wave in waves_16k]


@pytest.mark.parametrize("name", get_args(EstimatorName))
def test_the_pitch_is_that_of_the_estimator_asked_for_which_is_loaded_once(recorded, monkeypatch, name):
    converter, model = recorded
    made = []
    monkeypatch.setattr(
        conversion, "create_estimator", lambda name, machine: made.append((name, machine)) or SteadyEstimator(name)
    )
    for _ in range(2):
        converter.convert(glide(0.3), ConversionOptions(pitch=name))
    assert made == [(name, converter._analysis._machine)]
    assert all((given["f0"] == 123.0).all() for given in model.given)


def test_an_estimator_without_its_weights_is_reported_in_a_sentence(voice, tmp_path):
    source = tmp_path / "speech.wav"
    soundfile.write(source, glide(0.5), RATE)
    app = typer.Typer()
    app.command()(convert)
    words = [str(source), str(tmp_path / "out.wav"), "--voice", str(voice), "--weights", str(tmp_path)]
    result = CliRunner().invoke(app, [*words, "--device", "cpu", "--pitch", "rmvpe"])
    assert result.exit_code == 1
    assert "rvc-engine weights fetch rmvpe" in result.output
    assert not (tmp_path / "out.wav").exists()

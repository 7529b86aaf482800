"""Encoders: their features, frame by frame, and the weights and configs that they refuse."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from transformers import HubertConfig, HubertModel

from rvc_engine.config import TrainingConfig
from rvc_engine.content.encoders import create_encoder
from rvc_engine.content.hubert import HubertEncoder
from rvc_engine.content.hubert_model import HubertSizes, weight_shapes
from rvc_engine.content.names import embedder_name, encoder_of, programs_note
from rvc_engine.content.whisper_model import log_mel
from rvc_engine.content.windows import num_content_frames
from rvc_engine.errors import IncompatibleCheckpoint, InvalidConfig, MissingWeights
from rvc_engine.machine import Machine
from rvc_engine.weights.catalogue import Weights

SAMPLES = Path(__file__).parents[3] / "samples"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whisper():
    return create_encoder("whisper-tiny", "v2", Machine())


@pytest.fixture(scope="module")
def speech():
    """138 s of the sample voice."""
    return np.concatenate([soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.flac"))])


@pytest.fixture
def hubert_folder(tmp_path):
    """A small HuBERT with random weights in the published layout: float16, with `final_proj`."""
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 12, "num_attention_heads": 2}
    convs = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    config = HubertConfig(**sizes, **convs, classifier_proj_size=8)
    torch.manual_seed(0)
    weights = HubertModel(config).state_dict()
    weights |= {f"final_proj.{name}": value for name, value in torch.nn.Linear(24, 8).state_dict().items()}
    torch.save({name: value.half() for name, value in weights.items()}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    return tmp_path


def reference_rows(folder, wave, block):
    net = HubertModel(HubertConfig(**json.loads((folder / "config.json").read_text()))).eval()
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    net.load_state_dict({name: value.float() for name, value in weights.items() if not name.startswith("final_proj")})
    with torch.no_grad():
        output = net(torch.from_numpy(wave)[None], output_hidden_states=True)
    return (output.last_hidden_state if block is None else output.hidden_states[block])[0], weights


def change_weights(folder, change):
    path = folder / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    torch.save(change(weights), path)


def features_alone(whisper, clip):
    """Output of the second and third block for one clip of at most a window, without any batch."""
    mel = log_mel(torch.from_numpy(clip)[None], 160, 2 * ((len(clip) - 80) // 320))
    return torch.cat(whisper._model(mel, (2, 3)), dim=-1)[0].numpy()


def middle_of_change(before, after):
    """The frame around which two sequences of features differ."""
    change = np.square(after - before).sum(-1)
    return float((change * np.arange(len(change))).sum() / change.sum())


def test_whispers_features_are_the_outputs_of_blocks_two_and_three_side_by_side(whisper, speech):
    wave = speech[:50_000]
    [rows] = whisper.encode([wave])
    [second, third] = whisper._model(log_mel(torch.from_numpy(wave)[None], 160, 2 * len(rows)), (2, 3))
    assert rows.shape == ((50_000 - 80) // 320, 768)
    np.testing.assert_allclose(rows[:, :384], second[0], atol=1e-5)
    np.testing.assert_allclose(rows[:, 384:], third[0], atol=1e-5)


def test_whisper_gives_the_same_rows_in_a_batch_as_alone(whisper, speech):
    clips = [speech[:52_000], speech[64_000:128_000], speech[:60_111]]
    for clip, rows in zip(clips, whisper.encode(clips), strict=True):
        np.testing.assert_allclose(rows, whisper.encode([clip])[0], atol=1e-4)
        np.testing.assert_allclose(rows, features_alone(whisper, clip), atol=1e-4)


def test_a_long_clip_has_the_rows_of_its_parts_and_no_seams(whisper, speech):
    clip = speech[: 20 * 16_000]
    [rows] = whisper.encode([clip])
    [slice_rows] = whisper.encode([clip[8 * 16_000 : 12 * 16_000]])
    part = rows[400 : 400 + len(slice_rows)]
    cosine = (part * slice_rows).sum(-1) / (np.linalg.norm(part, axis=-1) * np.linalg.norm(slice_rows, axis=-1))
    assert cosine.mean() > 0.95
    whole = whisper._encode_batch([clip])[0]  # one window, without seams
    steps, own_steps = (np.linalg.norm(np.diff(part, axis=0), axis=-1) for part in (rows, whole))
    assert (steps < 1.5 * own_steps + own_steps.mean()).all()
    assert steps.mean() < 1.05 * own_steps.mean()


def test_whispers_frames_describe_the_sound_between_their_two_pitch_frames(whisper, speech):
    wave, sample = speech[:48_000], 24_100
    clicked = wave.copy()
    clicked[sample] += 0.5
    frames = 2 * ((len(wave) - 80) // 320)
    before, after = (
        whisper._model(log_mel(torch.from_numpy(w)[None], 160, frames), [0])[0][0].numpy() for w in (wave, clicked)
    )
    assert abs(middle_of_change(before, after) - (sample - 160) / 320) < 0.25


def test_huberts_frames_describe_the_same_sound_within_half_a_frame(hubert_folder, speech):
    wave, sample = speech[:48_000], 24_100
    extract_features = HubertEncoder(hubert_folder, "v2", CPU)._hidden._extract_features
    clicked = wave.copy()
    clicked[sample] += 0.5
    before, after = (
        extract_features([torch.from_numpy(w)], num_content_frames(len(w)))[0].numpy() for w in (wave, clicked)
    )
    assert abs(middle_of_change(before, after) - (sample - 160) / 320) < 0.5


def test_whisper_is_refused_for_v1():
    with pytest.raises(InvalidConfig, match="version=v2"):
        create_encoder("whisper-tiny", "v1", Machine())


def test_contentvec_for_v2_is_the_last_block_on_the_wave_as_it_is(hubert_folder, speech):
    expected, _ = reference_rows(hubert_folder, speech[:20_000], 12)
    [rows] = HubertEncoder(hubert_folder, "v2", CPU).encode([speech[:20_000]])
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, atol=1e-4)


def test_contentvec_for_v1_is_the_ninth_block_through_the_files_own_projection(hubert_folder, speech):
    hidden, weights = reference_rows(hubert_folder, speech[:20_000], 9)
    expected = hidden @ weights["final_proj.weight"].float().T + weights["final_proj.bias"].float()
    encoder = HubertEncoder(hubert_folder, "v1", CPU)
    [rows] = encoder.encode([speech[:20_000]])
    assert rows.shape == (62, encoder.feature_size)
    np.testing.assert_allclose(rows, expected, atol=1e-4)


def test_contentvec_gives_the_same_rows_in_a_batch_as_alone(hubert_folder, speech):
    """Clips of any lengths, one of them silent; `transformers` encodes each alone."""
    encoder = HubertEncoder(hubert_folder, "v2", CPU)
    clips = [speech[:16_000], speech[16_000:31_837], speech[:9_000], np.zeros(12_345, np.float32), speech[:400]]
    for clip, rows in zip(clips, encoder.encode(clips), strict=True):
        np.testing.assert_allclose(rows, reference_rows(hubert_folder, clip, 12)[0], atol=1e-4)


def test_a_damaged_clip_spoils_no_other_of_its_batch(hubert_folder, speech):
    encoder = HubertEncoder(hubert_folder, "v2", CPU)
    damaged = np.full(16_000, np.nan, np.float32)
    for rows, is_whole in zip(
        encoder.encode([speech[:16_100], damaged, speech[:15_000]]), (True, False, True), strict=True
    ):
        assert np.isfinite(rows).all() == is_whole


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_bf16_products_leave_huberts_features_within_a_thousandth(hubert_folder, speech, version):
    clips = [speech[16_000 * n :][: 14_000 + 500 * n] for n in range(6)]
    bf16 = HubertEncoder(hubert_folder, version, CPU, dtype=torch.bfloat16).encode(clips)
    fp32 = HubertEncoder(hubert_folder, version, CPU).encode(clips)
    for one, other in zip(bf16, fp32, strict=True):
        assert one.dtype == np.float32
        cosine = (one * other).sum(-1) / (np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1))
        assert cosine.min() > 0.999


def test_a_hubert_of_another_form_goes_by_transformers(hubert_folder, speech):
    sizes = json.loads((hubert_folder / "config.json").read_text()) | {"do_stable_layer_norm": True}
    (hubert_folder / "config.json").write_text(json.dumps(sizes))
    clips = [speech[:16_000], speech[:9_000]]
    expected = [reference_rows(hubert_folder, clip, None)[0] for clip in clips]
    for rows, own in zip(HubertEncoder(hubert_folder, "v2", CPU).encode(clips), expected, strict=True):
        np.testing.assert_allclose(rows, own, atol=1e-5)


def test_the_weights_of_the_published_form_are_those_of_transformers():
    config = HubertConfig(num_hidden_layers=2, classifier_proj_size=8)
    sizes = HubertSizes.model_validate(config.to_dict())
    assert sizes.is_published_form
    with torch.device("meta"):
        expected = {name: value.shape for name, value in HubertModel(config).state_dict().items()}
    assert weight_shapes(sizes) == {name: shape for name, shape in expected.items() if name != "masked_spec_embed"}


def test_both_spellings_of_weight_norm_load_alike(hubert_folder, speech):
    [expected] = HubertEncoder(hubert_folder, "v2", CPU).encode([speech[:16_000]])
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}

    def rename(weights):
        spelled = list(weights)
        for new_part, old_part in old.items():
            spelled = [name.replace(new_part, old_part) for name in spelled]
        return dict(zip(spelled, weights.values(), strict=True))

    change_weights(hubert_folder, rename)
    np.testing.assert_array_equal(HubertEncoder(hubert_folder, "v2", CPU).encode([speech[:16_000]])[0], expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: {name: value for name, value in weights.items() if name != "encoder.layer_norm.bias"},
        lambda weights: weights | {"something.else": torch.zeros(1)},
        lambda weights: weights | {"final_proj.weight": torch.zeros(8, 25)},
        lambda weights: weights | {"final_proj.bias": torch.full((8,), torch.nan)},
        list,
    ],
    ids=["missing", "unknown", "misshapen", "not finite", "no weights at all"],
)
def test_weights_that_do_not_fit_are_refused(hubert_folder, change):
    change_weights(hubert_folder, change)
    with pytest.raises(IncompatibleCheckpoint, match=r"pytorch_model\.bin"):
        HubertEncoder(hubert_folder, "v2", CPU)


def test_weights_saved_as_parameters_load_alike(hubert_folder, speech):
    [expected] = HubertEncoder(hubert_folder, "v2", CPU, dtype=torch.bfloat16).encode([speech[:16_000]])
    change_weights(
        hubert_folder, lambda weights: {name: torch.nn.Parameter(value.float()) for name, value in weights.items()}
    )
    for version in ("v1", "v2"):
        [rows] = HubertEncoder(hubert_folder, version, CPU, dtype=torch.bfloat16).encode([speech[:16_000]])
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"hidden_size": "wide"}, "hidden_size: Input should be a valid integer"), ({"num_attention_heads": 0}, "heads")],
)
def test_a_config_that_describes_no_hubert_is_refused_in_a_sentence(hubert_folder, changed, reason):
    sizes = json.loads((hubert_folder / "config.json").read_text())
    (hubert_folder / "config.json").write_text(json.dumps(sizes | changed))
    with pytest.raises(
        IncompatibleCheckpoint, match=rf"config\.json does not describe a HuBERT: .*{reason}"
    ) as refused:
        HubertEncoder(hubert_folder, "v2", CPU)
    assert "\n" not in str(refused.value)


def test_code_in_a_weights_file_is_never_run(hubert_folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    (hubert_folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(IncompatibleCheckpoint):
        HubertEncoder(hubert_folder, "v2", CPU)
    assert not (tmp_path / "evil").exists()


@pytest.fixture
def own_hubert(tmp_path):
    """A user's HuBERT of the published width, with random weights and without a `final_proj`."""
    sizes = {"hidden_size": 768, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    convs = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 16}
    torch.manual_seed(0)
    net = HubertModel(HubertConfig(**sizes, **convs))
    folder = tmp_path / "own"
    folder.mkdir()
    torch.save(net.state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(net.config.to_dict()))
    return folder


def test_a_hubert_of_ones_own_is_the_last_block_too_and_is_named_by_its_weights(own_hubert, speech):
    encoder = create_encoder("local", "v2", Machine(content_folder=own_hubert))
    expected, _ = reference_rows(own_hubert, speech[:20_000], -1)
    np.testing.assert_allclose(encoder.encode([speech[:20_000]])[0], expected, atol=1e-4)
    digest = hashlib.sha256((own_hubert / "pytorch_model.bin").read_bytes()).hexdigest()
    assert encoder.name == f"local-{digest}"
    assert encoder_of(encoder.name) == "local"


def test_safetensors_and_the_names_of_a_transcribing_net_load_alike(own_hubert, speech):
    [expected] = create_encoder("local", "v2", Machine(content_folder=own_hubert)).encode([speech[:16_000]])
    weights = torch.load(own_hubert / "pytorch_model.bin", weights_only=True)
    weights = {f"hubert.{name}": value for name, value in weights.items()} | {"lm_head.bias": torch.zeros(3)}
    save_file(weights, own_hubert / "model.safetensors")
    (own_hubert / "pytorch_model.bin").unlink()
    encoder = create_encoder("local", "v2", Machine(content_folder=own_hubert))
    np.testing.assert_array_equal(encoder.encode([speech[:16_000]])[0], expected)
    (own_hubert / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(IncompatibleCheckpoint, match=r"model\.safetensors is damaged"):
        create_encoder("local", "v2", Machine(content_folder=own_hubert))


def test_a_voice_of_another_local_encoder_is_refused_with_both_names(own_hubert):
    other = embedder_name("local", "0" * 64)
    with pytest.raises(IncompatibleCheckpoint, match=rf"{other}.* holds local-(?!0)"):
        create_encoder("local", "v2", Machine(content_folder=own_hubert), embedder=other)


def test_a_local_encoder_without_a_folder_or_without_its_files_is_missing_weights(tmp_path):
    with pytest.raises(MissingWeights, match="RVC_TRAIN_CONTENT_FOLDER"):
        create_encoder("local", "v2", Machine())
    with pytest.raises(MissingWeights, match=r"has no config\.json or no weights"):
        create_encoder("local", "v2", Machine(content_folder=tmp_path))


def test_a_local_encoder_that_has_no_rows_for_the_version_is_refused(own_hubert):
    machine = Machine(content_folder=own_hubert)
    with pytest.raises(InvalidConfig, match="1 blocks and no final_proj; use version=v2"):
        create_encoder("local", "v1", machine)
    sizes = json.loads((own_hubert / "config.json").read_text())
    (own_hubert / "config.json").write_text(json.dumps(sizes | {"hidden_size": 1024}))
    with pytest.raises(IncompatibleCheckpoint, match="1024 features per frame, but a v2 voice needs 768"):
        create_encoder("local", "v2", machine)


@pytest.mark.parametrize("name", ["spin", "spin-v2"])
def test_spin_is_the_last_block_of_applios_file(monkeypatch, hubert_folder, speech, name):
    monkeypatch.setattr(Weights, "folder_of", lambda self, wanted: {f"embedder-{name}": hubert_folder}[wanted])
    encoder = create_encoder(name, "v2", Machine())
    expected, _ = reference_rows(hubert_folder, speech[:20_000], 12)
    np.testing.assert_allclose(encoder.encode([speech[:20_000]])[0], expected, atol=1e-4)
    assert encoder.name == name


def test_every_encoder_but_contentvec_has_a_note_on_the_programs_that_convert_correctly():
    assert programs_note("contentvec") is None
    assert "Applio does where spin-v2 is chosen" in programs_note("spin-v2")
    assert "only with `rvc-engine convert`" in programs_note("whisper-tiny")
    assert "--content-folder" in programs_note("local") == programs_note("local-" + "0" * 64)


@pytest.mark.parametrize("name", ["spin", "spin-v2", "whisper-tiny"])
def test_encoders_without_256_features_are_refused_for_v1(name):
    with pytest.raises(ValidationError, match=rf"content={name} gives 768 .* use version=v2"):
        TrainingConfig(content=name, version="v1", pretrained="none")


def test_contentvec_without_its_files_is_missing_weights(tmp_path):
    for name, files in (("contentvec", "hubert"), ("spin", "embedder-spin"), ("spin-v2", "embedder-spin-v2")):
        with pytest.raises(MissingWeights, match=f"weights fetch {files} "):
            create_encoder(name, "v2", Machine(weights_folder=tmp_path))


def test_a_voice_names_its_encoder_and_one_that_names_none_has_contentvec():
    for encoder in ("contentvec", "spin", "spin-v2", "whisper-tiny"):
        assert encoder_of(embedder_name(encoder)) == encoder
    assert embedder_name(TrainingConfig(content="whisper-tiny").content) == "whisper-tiny.en-l2l3"
    assert encoder_of(None) == "contentvec"
    with pytest.raises(IncompatibleCheckpoint, match="japanese-hubert"):
        encoder_of("japanese-hubert-base")

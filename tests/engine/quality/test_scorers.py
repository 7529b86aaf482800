"""The scorers' own parts: Whisper's decoder, the character error rate, and DNSMOS.

With `RVC_TRAIN_QUALITY_WEIGHTS`, a folder of published weights, also what the published files say of real speech.
"""

import os
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch
from onnx import TensorProto, helper
from transformers import WhisperConfig, WhisperForConditionalGeneration

from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.evaluation.speaker_similarity import ResemblyzerScorer
from rvc_engine.quality.naturalness import Dnsmos
from rvc_engine.quality.transcription import Transcriber, character_error_rate, plain_text
from rvc_engine.quality.whisper_decoder import WhisperDecoder, read_tensors
from rvc_engine.weights.assets import FOREIGN_SPEAKERS

NUM_TOKENS = 60


@pytest.fixture(scope="module")
def reference() -> WhisperForConditionalGeneration:
    """Whisper of two layers by another library, with weights of no meaning."""
    torch.manual_seed(0)
    sizes = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = WhisperConfig(
        vocab_size=NUM_TOKENS, d_model=128, encoder_ffn_dim=64, decoder_ffn_dim=64, max_target_positions=20,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=1, **sizes,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config).eval()


def tensors_of(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """Its decoder under the names of CTranslate2, which has the projections of one attention in one tensor."""
    found, state = {}, {name: value.numpy() for name, value in model.model.decoder.state_dict().items()}
    found["embeddings/weight"] = state["embed_tokens.weight"]
    found["position_encodings/encodings"] = state["embed_positions.weight"]
    norms = {"layer_norm": "layer_norm"}
    joined = {}
    for number in range(2):
        own, layer = f"layers.{number}", f"layer_{number}"
        norms |= {f"{own}.self_attn_layer_norm": f"{layer}/self_attention/layer_norm"}
        norms |= {f"{own}.encoder_attn_layer_norm": f"{layer}/attention/layer_norm"}
        norms |= {f"{own}.final_layer_norm": f"{layer}/ffn/layer_norm"}
        joined |= {
            f"{layer}/self_attention/linear_0": [f"{own}.self_attn.{part}_proj" for part in "qkv"],
            f"{layer}/self_attention/linear_1": [f"{own}.self_attn.out_proj"],
            f"{layer}/attention/linear_0": [f"{own}.encoder_attn.q_proj"],
            f"{layer}/attention/linear_1": [f"{own}.encoder_attn.{part}_proj" for part in "kv"],
            f"{layer}/attention/linear_2": [f"{own}.encoder_attn.out_proj"],
            f"{layer}/ffn/linear_0": [f"{own}.fc1"],
            f"{layer}/ffn/linear_1": [f"{own}.fc2"],
        }
    for theirs, ours in norms.items():
        found |= {f"{ours}/gamma": state[f"{theirs}.weight"], f"{ours}/beta": state[f"{theirs}.bias"]}
    for ours, parts in joined.items():
        found[f"{ours}/weight"] = np.concatenate([state[f"{part}.weight"] for part in parts])
        zeros = [np.zeros(len(state[f"{part}.weight"]), np.float32) for part in parts]
        found[f"{ours}/bias"] = np.concatenate(
            [state.get(f"{part}.bias", zero) for part, zero in zip(parts, zeros, strict=True)]
        )
    return {f"decoder/{name}": value for name, value in found.items()}


def write(path: Path, tensors: dict[str, np.ndarray], kind: str = "WhisperSpec") -> Path:
    """A file as CTranslate2 writes it, in float16."""

    def text(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    content = struct.pack("<I", 6) + text(kind) + struct.pack("<II", 3, len(tensors) + 1)
    content += text("decoder/num_heads") + struct.pack("<BBIh", 0, 2, 2, 2)
    for name, value in tensors.items():
        half = value.astype("<f2")
        content += (
            text(name) + struct.pack(f"<B{half.ndim}IBI", half.ndim, *half.shape, 4, half.nbytes) + half.tobytes()
        )
    path.write_bytes(content + struct.pack("<I", 0))
    return path


def test_the_decoder_is_that_of_another_library(reference: WhisperForConditionalGeneration, tmp_path: Path) -> None:
    decoder = WhisperDecoder(read_tensors(write(tmp_path / "model.bin", tensors_of(reference))))
    half = {name: value.half().float() for name, value in reference.state_dict().items()}
    reference.load_state_dict(half)
    encoded = torch.randn(2, 30, 128, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[1, 5, 9, 2], [1, 7, 7, 30]])
    with torch.no_grad():
        hidden = reference.model.decoder(input_ids=tokens, encoder_hidden_states=encoded).last_hidden_state
        theirs = hidden[:, -1] @ reference.model.decoder.embed_tokens.weight.T
    torch.testing.assert_close(decoder.next_logits(tokens, decoder.memory(encoded)), theirs, atol=1e-4, rtol=1e-4)
    assert decoder.max_tokens == 20


@pytest.mark.parametrize("fault", ["cut", "other kind", "no decoder", "empty"])
def test_another_file_is_told_of(reference: WhisperForConditionalGeneration, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "model.bin"
    write(
        path,
        {} if fault == "no decoder" else tensors_of(reference),
        "Other" if fault == "other kind" else "WhisperSpec",
    )
    if fault in {"cut", "empty"}:
        path.write_bytes(path.read_bytes()[: 3000 if fault == "cut" else 0])
    with pytest.raises(IncompatibleCheckpoint, match="fetch it again"):
        WhisperDecoder(read_tensors(path))


def test_texts_are_compared_by_their_letters() -> None:
    assert plain_text("ĠPrinting,Ġin theĠonly-sense'sĠ—Ġ1455.") == "printing in the only senses 1455"
    assert character_error_rate("kitten", "sitting") == 0.5
    assert character_error_rate("the same", "the same") == 0
    assert character_error_rate("ab", "a much longer text") == 1
    assert (character_error_rate("", ""), character_error_rate("", "a"), character_error_rate("a", "")) == (0, 1, 1)


def test_naturalness_is_calibrated_and_short_clips_are_repeated(tmp_path: Path) -> None:
    """A graph in the form of DNSMOS that answers with the mean square of its 9.01 s."""
    rows = [helper.make_tensor_value_info("input_1", TensorProto.FLOAT, ["n", 144_160])]
    out = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])]
    three = helper.make_tensor("three", TensorProto.INT64, [2], [1, 3])
    nodes = [
        helper.make_node("Mul", ["input_1", "input_1"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Tile", ["mean", "three"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "scores", rows, out, [three])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    scorer = Dnsmos(path, 1)
    expected = np.polyval((-0.06766283, 1.11546468, 0.04602535), 0.25)
    for seconds in (0.5, 4.0, 9.01, 12.0):
        assert scorer.score(np.full(int(seconds * 16_000), -0.5, np.float32)) == pytest.approx(expected, abs=1e-5)
    path.write_bytes(b"half of it")
    with pytest.raises(IncompatibleCheckpoint, match="DNSMOS"):
        Dnsmos(path, 1)


@pytest.mark.skipif("RVC_TRAIN_QUALITY_WEIGHTS" not in os.environ, reason="needs RVC_TRAIN_QUALITY_WEIGHTS")
def test_the_published_weights_know_speech() -> None:
    folder = Path(os.environ["RVC_TRAIN_QUALITY_WEIGHTS"], "quality")
    woman, man = (soundfile.read(path, dtype="float32")[0] for path in FOREIGN_SPEAKERS)
    assert Transcriber(folder / "model.bin", folder / "vocabulary.txt").transcribe([woman, man]) == [
        "produced the block books which were the immediate predecessors of the true printed book",
        "had he married a more amiable woman he might have been made still more respectable than he was",
    ]
    dnsmos, speaker = Dnsmos(folder / "sig_bak_ovr.onnx", 1), ResemblyzerScorer(folder / "pretrained.pt")
    noise = np.random.default_rng(0).normal(0, 0.1, len(woman)).astype(np.float32)
    assert dnsmos.score(woman) > 2.8
    assert dnsmos.score(woman + noise) < 1.8
    half = len(woman) // 2
    assert speaker.embed(woman[:half]) @ speaker.embed(woman[half:]) > speaker.embed(woman) @ speaker.embed(man) + 0.1

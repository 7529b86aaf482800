"""One training step in the best precision and in float32, each against a plain version of the reference's method.

The plain version runs the same models as RVC WebUI runs its own: separate discriminator passes for real and fake
segments, unused weight gradients of the discriminators in the generator's backward pass, autograd recording of the
second pass over real segments, one synchronizing read per gradient norm, and AdamW tensor by tensor; in float32, as
always on a CPU, with every convolution in PyTorch's default layout.
"""

import argparse
import os

import torch

from benchmarks.lines import cpu_name, in_turns, print_line
from rvc_engine.audio.mel import log_mel, spectrogram
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.precision import Precision
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.hyperparameters import BETAS, EPSILON, MEL_WEIGHT, WEIGHT_DECAY, Hyperparameters
from rvc_engine.models import losses
from rvc_engine.models.backend import PYTORCH, use_backend
from rvc_engine.models.losses import mel_distance
from rvc_engine.models.synthesizer import Noise, cut_segments
from rvc_engine.training.step import training_step

CLIP_FRAMES = 370


def made_up_batch(hparams: Hyperparameters, batch_size: int, device: torch.device) -> Batch:
    """Clips of 3.7 s of noise; their content does not affect the cost."""
    rng = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(batch_size, CLIP_FRAMES * hparams.hop_length, generator=rng).to(device)
    return Batch(
        features=torch.randn(batch_size, CLIP_FRAMES, hparams.feature_size, generator=rng).to(device),
        coarse_f0=torch.randint(1, 256, (batch_size, CLIP_FRAMES), generator=rng).to(device),
        f0=torch.full((batch_size, CLIP_FRAMES), 200.0, device=device),
        spec=spectrogram(wave, hparams.n_fft, hparams.hop_length),
        wave=wave,
        lengths=torch.full((batch_size,), CLIP_FRAMES, device=device),
        speakers=torch.zeros(batch_size, dtype=torch.long, device=device),
    )


def plain_nets(hparams: Hyperparameters, device: torch.device) -> GanTrainState:
    """Models whose optimizers update the tensors one by one."""
    state = GanTrainState.build(hparams, device, 1e-4)
    options = {"betas": BETAS, "eps": EPSILON, "weight_decay": WEIGHT_DECAY, "foreach": False, "fused": False}
    state.generator_optimizer = torch.optim.AdamW(state.synthesizer.parameters(), 1e-4, **options)
    state.discriminator_optimizer = torch.optim.AdamW(state.discriminators.parameters(), 1e-4, **options)
    use_backend(state.synthesizer, PYTORCH)
    use_backend(state.discriminators, PYTORCH)
    return state


def plain_step(state: GanTrainState, batch: Batch, starts: torch.Tensor, noise: Noise) -> None:
    """Take a step of the same mathematics with the plain method."""
    hparams, discriminators = state.hparams, state.discriminators
    out = state.synthesizer(
        batch.features, batch.coarse_f0, batch.f0, batch.spec, batch.lengths, batch.speakers, starts, noise
    )
    real = cut_segments(batch.wave.unsqueeze(1), starts * hparams.hop_length, hparams.segment_samples)
    pairs = zip(discriminators(real), discriminators(out.wave.detach()), strict=True)
    disc = losses.discriminator_loss([torch.cat([one[0], other[0]]) for one, other in pairs])
    state.discriminator_optimizer.zero_grad()
    disc.backward()
    sum(float(p.grad.norm()) for p in discriminators.parameters() if p.grad is not None)
    state.discriminator_optimizer.step()

    real_outputs, fake_outputs = discriminators(real), discriminators(out.wave)
    target = log_mel(cut_segments(batch.spec, starts, hparams.segment_frames), hparams.sample_rate, hparams.n_mels)
    kl = losses.kl_sum(out.latent_prior, out.log_std, out.prior_mean, out.prior_log_std, out.mask) / out.mask.sum()
    loss = losses.generator_loss(fake_outputs) + losses.feature_loss(real_outputs, fake_outputs)
    loss = loss + MEL_WEIGHT * mel_distance(hparams, out.wave, target) + kl
    state.generator_optimizer.zero_grad()
    loss.backward()
    sum(float(p.grad.norm()) for p in state.synthesizer.parameters() if p.grad is not None)
    state.generator_optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each, in turns")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    hparams = Hyperparameters.from_config(TrainingConfig())
    batch = made_up_batch(hparams, options.batch_size, device)
    starts = torch.full((options.batch_size,), 50, device=device)
    noise = Noise.draw(hparams, options.batch_size, CLIP_FRAMES, torch.Generator(device).manual_seed(1))
    plain = plain_nets(hparams, device)

    def work(state: GanTrainState | None) -> None:
        if state is None:
            plain_step(plain, batch, starts, noise)
        else:
            training_step(state, batch, starts, noise)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    best = Precision.choose("auto", device).name
    ours = {
        name: GanTrainState.build(hparams, device, 1e-4, Precision(name, device.type))
        for name in dict.fromkeys((best, "fp32"))
    }
    works = {name: (lambda state=state: work(state)) for name, state in {**ours, "plain": None}.items()}
    seconds = in_turns(works, options.steps)
    for name in ours:
        print_line(
            f"training step v2 40k f0 in {name}",
            seconds[name],
            seconds["plain"],
            "s",
            f"batch {options.batch_size}, median of {options.steps} steps each in turns; the reference is the plain "
            f"method with the same models in float32; {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}",
            torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        )


if __name__ == "__main__":
    main()

"""Decoding of recordings by libsndfile or FFmpeg, as a stream of blocks. No torch.

The format is detected from the content, never from the name. Memory stays bounded however long the recording is and
whatever its header claims. Files are untrusted: FFmpeg gets a file object and allow-lists of containers and audio
decoders, so no playlist that names other files, no network access and no video decoder.

    with open_audio(path) as stream:
        stream.info                      the header
        for block in stream.mono(40_000): ...
        stream.notes                     damage, where part of the audio could be read
        stream.survey.mix()              how the whole of it must be mixed to mono

    read_twice_if_needed(path, read)     calls `read(stream)`, a second time where the first was not with that mix

Parts of a recording that are left out are read as silence: they then count for nothing, neither for the mix and the
level of the rest nor for what is measured of it, and no filter carries them into the rest.
"""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import av
import av.error
import numpy as np
import soundfile
from numpy.typing import NDArray

from rvc_engine.audio.mixing import HOP_SECONDS, Mix, Survey, layout_mix
from rvc_engine.audio.parts import Parts
from rvc_engine.audio.resampling import Resampler
from rvc_engine.audio.silence import silenced

BLOCK_SAMPLES = 2**18
"""Largest block, in samples over all channels: 1 MB of float32."""
MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 768_000
MAX_CHANNELS = 64
MAX_SECONDS = 24 * 3600
"""Longest recording that is read; a small file can hold days of silence."""
LOUDEST = 2.0**32
"""Largest credible sample, full scale being 1: integers of 32 bits may be stored as floating-point numbers. Larger ones
and NaN are damage and are read as zero."""
LOST_SECONDS = 0.5
"""A recording is reported as cut off when it is shorter than in its header by more than this and by more than 2 %."""

_SNDFILE_SIGNATURES = (
    *(b"RIFF", b"RIFX", b"RF64", b"riff\x2e\x91\xcf\x11"),  # WAV and W64
    *(b"FORM", b".snd", b"caff"),  # AIFF, SVX, AU, CAF
    *(b"Creative Voice File", b"NIST_1A", b" paf", b"fap ", b"PVF1"),
)
"""Signatures of the files that are tried with libsndfile first: containers of PCM samples. libsndfile decodes FLAC, Ogg
and MP3 too, but stops at the first damage, where FFmpeg skips it; and it misdetects some other formats."""

_FFMPEG_CONTAINERS = (
    "3gp,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,asf_o,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,gsm,iff,loas,mov,matroska,"
    "mlp,mp3,mpc,mpc8,mpeg,mpegts,nut,oga,ogg,oma,qcp,qoa,rm,sox,tak,truehd,tta,voc,w64,wav,webm,wtv,wv,xwma"
)

_DECODING_FAULTS = (av.error.FFmpegError, ValueError, IndexError, MemoryError)
"""Errors that PyAV raises on damaged files (IndexError: a stream that appears after the header)."""


class UnreadableAudio(Exception):
    """Error for a file without readable audio. The message is the reason, without the file's name."""


@dataclass(frozen=True)
class AudioInfo:
    """The header of a file. It may be wrong; only decoding shows the real length and format."""

    container: str
    codec: str
    sample_rate: int
    channels: int
    seconds: float | None
    """None where the header has no length."""
    layout: tuple[str, ...] = ()
    """FFmpeg's name of each channel's loudspeaker; empty where the header has none."""


@dataclass(frozen=True)
class Block:
    """Consecutive decoded samples."""

    samples: NDArray[np.float32]
    """(num_samples, channels), full scale ±1, finite."""
    sample_rate: int
    """Hz."""


class _Decoder(Protocol):
    """A decoding library with one file open. `damage` counts the parts that could not be decoded."""

    info: AudioInfo
    damage: int

    def blocks(self) -> Iterator[Block]: ...
    def close(self) -> None: ...


class AudioStream:
    """An open recording, read once from start to end."""

    def __init__(self, decoder: _Decoder, mix: Mix | None = None, without: Parts = ()) -> None:
        """`mix`: the way to mono; by default that which the header implies. `without`: parts read as silence."""
        self.info = decoder.info
        self.notes: list[str] = []
        """Damage that was found; complete, like all below, once all blocks are read."""
        self.mix = layout_mix(self.info.channels, self.info.layout) if mix is None else mix
        self.survey = Survey(self.info.codec, self.mix)
        self.seconds = 0.0
        self.unreadable_seconds = 0.0
        """Time in the header's length that could not be decoded."""
        self.zeroed_seconds = 0.0
        """Time in which a sample is damaged (NaN, infinite, over LOUDEST) and read as zero."""
        self._zeroed_hops: list[NDArray[np.int64]] = []
        self._decoder = decoder
        self._without = without

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._decoder.close()

    def blocks(self) -> Iterator[Block]:
        """All audio at its own rate and channels. Raises UnreadableAudio if there is none or over MAX_SECONDS of it."""
        for block in self._decoder.blocks():
            _check_format(block.sample_rate, block.samples.shape[1])
            kept = silenced(block.samples, self.seconds, block.sample_rate, self._without)
            samples = self._finite(replace(block, samples=kept))
            self.seconds += len(samples) / block.sample_rate
            if self.seconds > MAX_SECONDS:
                raise UnreadableAudio(f"it is longer than {MAX_SECONDS // 3600} hours; split it into shorter files")
            self.survey.add(samples, block.sample_rate)
            yield Block(samples, block.sample_rate)
        self._note_damage(self._decoder.damage)

    def _finite(self, block: Block) -> NDArray[np.float32]:
        """Replace damaged samples by zeros. One NaN would spread through every filter."""
        is_sound = np.abs(block.samples) <= LOUDEST  # False for NaN
        if is_sound.all():
            return block.samples
        damaged = np.flatnonzero(~is_sound.all(axis=1))
        self.zeroed_seconds += len(damaged) / block.sample_rate
        self._zeroed_hops.append(np.unique(((self.seconds + damaged / block.sample_rate) / HOP_SECONDS).astype(int)))
        return np.where(is_sound, block.samples, np.float32(0))

    def zeroed_hops(self) -> NDArray[np.int64]:
        """Numbers of the hops of HOP_SECONDS in which a sample is read as zero."""
        return np.concatenate([np.zeros(0, np.int64), *self._zeroed_hops])

    def _note_damage(self, damage: int) -> None:
        seconds, declared = self.seconds, self.info.seconds or 0.0
        if seconds == 0:
            raise UnreadableAudio("damaged: none of its audio can be decoded" if damage else "it contains no sound")
        if declared - seconds > max(LOST_SECONDS, 0.02 * declared):
            if declared < MAX_SECONDS:
                self.unreadable_seconds = declared - seconds
                self.notes.append(f"cut off or damaged: {seconds:.1f} s of {declared:.1f} s could be read")
            else:
                self.notes.append(f"cut off or damaged: {seconds:.1f} s could be read")
        elif damage == 1:
            self.notes.append(f"damaged: one part could not be decoded; the rest, {seconds:.1f} s, was read")
        elif damage:
            self.notes.append(f"damaged: {damage} parts could not be decoded; the rest, {seconds:.1f} s, was read")
        if self.zeroed_seconds:
            shown = f"{self.zeroed_seconds:.1f} s" if self.zeroed_seconds >= 0.05 else "less than 0.1 s"
            self.notes.append(f"damaged: samples of {shown} are not numbers or far too large, and are read as silence")

    def mono(self, sample_rate: int) -> Iterator[NDArray[np.float32]]:
        """All audio as blocks (num_samples,), mixed to mono by `mix`, at `sample_rate` Hz. Raises as `blocks`."""
        resampler = Resampler(sample_rate)
        for block in self.blocks():
            yield from resampler.add(self.mix.mono(block.samples), block.sample_rate)
        yield from resampler.finish()


def open_audio(path: Path, mix: Mix | None = None, without: Parts = ()) -> AudioStream:
    """Open a recording; a context manager. `mix`, `without`: as for AudioStream. Raises UnreadableAudio."""
    try:
        # Opened by descriptor, so that neither library takes the suffix of the name for a hint.
        # Unbuffered, because libsndfile reads from the descriptor itself.
        file = os.fdopen(os.open(path, os.O_RDONLY), "rb", buffering=0)
    except OSError as error:
        raise UnreadableAudio(f"it cannot be opened: {error.strerror}") from error
    try:
        decoder = _open_decoder(file)
        _check_format(decoder.info.sample_rate, decoder.info.channels)
    except BaseException:
        file.close()
        raise
    return AudioStream(decoder, mix, without)


_Result = TypeVar("_Result")


def read_twice_if_needed(path: Path, read: Callable[[AudioStream], _Result], without: Parts = ()) -> _Result:
    """Call `read` with a recording, which it reads to the end; the result is that of the right mix.

    Only the whole recording shows its scale, and whether its channels are of opposite phase. So `read` is called a
    second time for the few that must not be mixed as their header implies. Raises UnreadableAudio.
    """
    with open_audio(path, without=without) as stream:
        result = read(stream)
    mix = stream.survey.mix()
    if mix == stream.mix:
        return result
    with open_audio(path, mix, without) as stream:
        return read(stream)


def probe(path: Path) -> AudioInfo:
    """Read the header of a recording. Raises UnreadableAudio."""
    with open_audio(path) as stream:
        return stream.info


def decode_mono(path: Path, sample_rate: int) -> Iterator[NDArray[np.float32]]:
    """Read a recording as blocks (num_samples,), mixed to mono, at `sample_rate` Hz. Raises UnreadableAudio."""
    with open_audio(path) as stream:
        yield from stream.mono(sample_rate)


def read_mono(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """Read a whole, short recording as (num_samples,), mixed to mono, at `sample_rate` Hz. Raises UnreadableAudio."""
    return np.concatenate(read_twice_if_needed(path, lambda stream: list(stream.mono(sample_rate))))


def _open_decoder(file: FileIO) -> _Decoder:
    if os.fstat(file.fileno()).st_size == 0:
        raise UnreadableAudio("the file is empty")
    with contextlib.suppress(UnreadableAudio):
        return _SndfileDecoder(file)
    file.seek(0)
    return _FfmpegDecoder(file)


def _check_format(sample_rate: int, channels: int) -> None:
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise UnreadableAudio(f"damaged: its header gives a sample rate of {sample_rate} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise UnreadableAudio(f"damaged: its header gives {channels} channels")


class _SndfileDecoder:
    """libsndfile, for containers of PCM samples."""

    def __init__(self, file: FileIO) -> None:
        self.damage = 0
        self._raw = file
        file.seek(0)
        signature = file.read(max(map(len, _SNDFILE_SIGNATURES)))
        file.seek(0)
        if not signature.startswith(_SNDFILE_SIGNATURES):
            raise UnreadableAudio("not audio")
        try:
            self._file = soundfile.SoundFile(file.fileno(), closefd=False)
        except (soundfile.LibsndfileError, MemoryError) as error:
            raise UnreadableAudio("not audio") from error
        if self._file.channels > 2:  # the library does not give their loudspeakers, as FFmpeg does
            self._file.close()
            raise UnreadableAudio("more than two channels")
        declared = self._file.frames / max(self._file.samplerate, 1)
        self.info = AudioInfo(
            container=self._file.format.lower(),
            codec=self._file.subtype.lower(),
            sample_rate=self._file.samplerate,
            channels=self._file.channels,
            # libsndfile gives streams without a length the largest number.
            seconds=declared if self._file.frames < 2**60 else None,
        )

    def blocks(self) -> Iterator[Block]:
        num_samples = max(1, BLOCK_SAMPLES // self.info.channels)
        while True:
            try:
                samples = self._file.read(num_samples, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError:
                self.damage += 1
                return
            if not len(samples):
                return
            yield Block(samples, self.info.sample_rate)

    def close(self) -> None:
        self._file.close()
        self._raw.close()


class _FfmpegFile:
    """A file for FFmpeg: seeks out of range, which damaged headers lead to, fail with -1 in place of an exception."""

    def __init__(self, file: FileIO) -> None:
        self.read = file.read
        self.tell = file.tell
        self._seek = file.seek

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._seek(offset, whence)
        except (OSError, OverflowError):
            return -1


class _FfmpegDecoder:
    """FFmpeg, through PyAV, for all other formats."""

    def __init__(self, file: FileIO) -> None:
        self.damage = 0
        self._raw = file
        try:
            container = av.open(
                _FfmpegFile(file),
                mode="r",
                options={
                    "format_whitelist": _FFMPEG_CONTAINERS,
                    "codec_whitelist": _sound_decoders(),
                    "protocol_whitelist": "none",
                },
            )
        except _DECODING_FAULTS as error:
            raise UnreadableAudio("not audio: the format of the file is not recognized") from error
        self._container: Any = container
        try:
            self._stream = self._sound_track()
            self.info = self._read_info()
        except _DECODING_FAULTS as error:
            self._container.close()
            raise UnreadableAudio("damaged: its header cannot be read") from error
        except UnreadableAudio:
            self._container.close()
            raise

    def _sound_track(self) -> Any:
        track = self._container.streams.best("audio")
        if track is None:
            raise UnreadableAudio("not audio: the file has no audio track")
        codec = track.codec_context
        if codec is None:
            raise UnreadableAudio("its audio codec is not supported; convert the file to WAV or FLAC")
        codec.thread_count = 1  # audio decoders gain nothing from threads, and each costs address space
        return track

    def _read_info(self) -> AudioInfo:
        codec = self._stream.codec_context
        seconds = self._seconds()
        return AudioInfo(
            container=self._container.format.name.partition(",")[0],
            codec=codec.name,
            sample_rate=codec.sample_rate or 0,
            channels=codec.channels or 0,
            seconds=seconds if seconds is not None and seconds > 0 else None,
            layout=tuple(channel.name for channel in codec.layout.channels) if codec.channels else (),
        )

    def _seconds(self) -> float | None:
        """The track's own length. That of a container is the longest track's, which may be a picture's."""
        if self._container.format.name.startswith("matroska"):  # for which FFmpeg gives tracks the container's length
            tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", self._stream.metadata.get("DURATION", ""))
            if tag:
                return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])
            if len(self._container.streams) > 1:
                return None
        if self._stream.duration is not None and self._stream.time_base:
            return float(self._stream.duration * self._stream.time_base)
        return float(self._container.duration / av.time_base) if self._container.duration is not None else None

    def blocks(self) -> Iterator[Block]:
        return _joined(self._frame_blocks())

    def _frame_blocks(self) -> Iterator[Block]:
        """A block per frame of FFmpeg, some hundred samples long; larger frames are split."""
        for frame in self._frames():
            samples = _scaled(frame.to_ndarray(), frame.format.is_planar, len(frame.layout.channels))
            step = max(1, BLOCK_SAMPLES // samples.shape[1])
            for start in range(0, len(samples), step):
                yield Block(samples[start : start + step], frame.sample_rate)

    def _frames(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                frames = packet.decode() if packet is not None else []
            except av.error.EOFError:
                continue
            except _DECODING_FAULTS:
                self.damage += 1
                continue
            if packet is None:
                return
            yield from frames

    def close(self) -> None:
        self._container.close()
        self._raw.close()


def _joined(blocks: Iterable[Block]) -> Iterator[Block]:
    """Join blocks of equal format to blocks of at most BLOCK_SAMPLES, since later steps have a cost per block."""
    sample_rate, channels, size = 0, 0, 0
    parts: list[NDArray[np.float32]] = []
    for block in blocks:
        is_same_format = (block.sample_rate, block.samples.shape[1]) == (sample_rate, channels)
        if parts and (not is_same_format or size + block.samples.size > BLOCK_SAMPLES):
            yield Block(np.concatenate(parts), sample_rate)
            parts, size = [], 0
        sample_rate, channels = block.sample_rate, block.samples.shape[1]
        parts.append(block.samples)
        size += block.samples.size
    if parts:
        yield Block(np.concatenate(parts), sample_rate)


@functools.cache
def _sound_decoders() -> str:
    """Names of FFmpeg's audio decoders, for its allow-list."""
    names = []
    for name in av.codecs_available:
        with contextlib.suppress(ValueError):
            if av.Codec(name, "r").type == "audio":
                names.append(name)
    return ",".join(names)


def _scaled(samples: NDArray[Any], is_planar: bool, channels: int) -> NDArray[np.float32]:
    """Convert decoded samples of any format to float32 (num_samples, channels), full scale ±1."""
    rows = samples.T if is_planar else samples.reshape(-1, channels)
    if rows.dtype == np.uint8:
        return (rows.astype(np.float32) - np.float32(128)) / np.float32(128)
    if rows.dtype.kind == "i":
        return (rows / float(2 ** (8 * rows.dtype.itemsize - 1))).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # damaged samples are found later
        return rows.astype(np.float32)

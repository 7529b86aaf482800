// A recording from the microphone: started, shown while it lasts, and ended by its user or by the longest time.

import { setText } from "../dom.js";
import { duration, t } from "../words.js";

/** Without what browsers do to a call: a conversion wants the voice as it is. */
const AS_IT_IS = { audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } };
/** In the order of preference; Safari has only the last. */
const TYPES = ["audio/webm;codecs=opus", "audio/ogg;codecs=opus", "audio/mp4"];
const BITS_PER_SECOND = 192_000;
/** The longest recording that the server takes: by its time, and by its bytes with room for what encoders add. */
export const longest = (limits) => Math.min(limits.max_conversion_seconds, (0.9 * 8 * limits.max_conversion_bytes) / BITS_PER_SECOND);

/** Below this share of the full scale nothing is heard. */
const SILENCE = 0.01;
const SILENT_SECONDS = 3;

/** The reason why this page may use no microphone, in words; null where it may. */
export function whyNoMicrophone() {
  if (!isSecureContext) return t("try.microphone.insecure");
  return navigator.mediaDevices?.getUserMedia && "MediaRecorder" in window ? null : t("try.microphone.none");
}

/** What `getUserMedia` failed for, in words. */
export function microphoneFault(fault) {
  if (fault.name === "NotAllowedError" || fault.name === "SecurityError") return t("try.microphone.denied");
  if (fault.name === "NotFoundError" || fault.name === "OverconstrainedError") return t("try.microphone.missing");
  return t("try.microphone.busy");
}

export class Take {
  /** `meter`, `clock`, `hint`: elements that show the level, the time, and that nothing is heard. */
  constructor({ meter, clock, hint }, maxSeconds) {
    Object.assign(this, { meter, clock, hint, maxSeconds });
    this.isWanted = true;
  }

  /** The recording as a File, once it has ended; null when it was given up. Throws what `getUserMedia` throws. */
  async run() {
    const context = new AudioContext(); // within the press of the button, or some browsers suspend it
    let stream = null;
    try {
      stream = await navigator.mediaDevices.getUserMedia(AS_IT_IS);
      context.resume();
      if (!this.isWanted) return null;
      const bytes = await this.record(stream, context);
      const type = this.recorder.mimeType.split(";")[0];
      const name = `${t("try.microphone.name")} ${new Date().toTimeString().slice(0, 8).replaceAll(":", "-")}.${type.split("/")[1]}`;
      return this.isWanted ? new File(bytes, name, { type }) : null; // without bytes it is refused as empty
    } finally {
      clearInterval(this.watching);
      for (const track of stream?.getTracks() ?? []) track.stop(); // the browser no longer shows that it listens
      context.close();
    }
  }

  record(stream, context) {
    const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
    this.recorder = new MediaRecorder(stream, { mimeType, audioBitsPerSecond: BITS_PER_SECOND });
    const bytes = [];
    this.recorder.addEventListener("dataavailable", (event) => event.data.size && bytes.push(event.data));
    const ended = new Promise((resolve) => { this.recorder.addEventListener("stop", () => resolve(bytes), { once: true }); });
    this.recorder.start();
    this.watch(stream, context);
    return ended;
  }

  /** Show level and time; end when the time is over. */
  watch(stream, context) {
    const analyser = context.createAnalyser();
    analyser.fftSize = 8192; // 170 ms at 48 kHz: no sound falls between two looks
    context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    const begin = performance.now();
    let heardAt = begin;
    const show = () => {
      analyser.getFloatTimeDomainData(samples);
      const level = samples.reduce((most, one) => Math.max(most, Math.abs(one)), 0);
      const now = performance.now();
      if (level > SILENCE || context.state !== "running") heardAt = now;
      this.meter.value = Math.sqrt(level); // as loudness is heard
      setText(this.clock, t("try.microphone.clock", { time: duration((now - begin) / 1000), most: duration(this.maxSeconds) }));
      this.hint.hidden = now - heardAt < 1000 * SILENT_SECONDS;
      if (now - begin >= 1000 * this.maxSeconds) this.end();
    };
    show();
    this.watching = setInterval(show, 100);
  }

  /** End the recording, and keep it. */
  end() {
    if (this.recorder?.state === "recording") this.recorder.stop();
  }

  /** End the recording, and forget it. */
  giveUp() {
    this.isWanted = false;
    this.end();
  }
}

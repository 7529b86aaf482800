// One sound in several renderings, such as a voice beside the recording: one of them plays, and another takes over where it is.

import { later, retryUnreachable } from "./api.js";
import { at, h } from "./dom.js";
import { t } from "./words.js";

const nonce = document.querySelector("meta[name=style-nonce]").content;
/** Beyond the end of any recording, in seconds. */
const BEYOND = 1e9;
let made = 0;

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input:not([type=radio]), select, textarea");
  if (event.key === "x" && !isTyping && !event.ctrlKey && !event.metaKey && Sides.last?.element.isConnected) Sides.last.next();
});

export class Sides {
  /** The last one to play. */
  static last = null;

  /** `sides`: by name, the first is shown first, each `{label, url}` or `{label, blob}`. */
  constructor(title, sides) {
    this.sides = sides;
    [this.side] = Object.keys(sides);
    this.position = 0; // at which one side takes over from another
    this.waves = {};
    this.frames = {};
    this.radios = {};
    this.button = h("button", { type: "button", onclick: () => this.toggle() }, t("job.play"));
    made += 1;
    const choices = Object.entries(sides).map(([side, { label }]) => this.choice(side, label, `sides-${made}`));
    this.element = h("figure", { class: "preview", "aria-label": title },
      Object.values(this.frames),
      h("div", { class: "deck" }, this.button,
        choices.length > 1 && h("div", { class: "segments", role: "radiogroup", "aria-label": t("job.side") }, choices)));
    this.ready = this.start();
  }

  choice(side, label, group) {
    this.frames[side] = h("div", { class: "wave", hidden: side !== this.side });
    const radio = h("input", { type: "radio", name: group, value: side, checked: side === this.side });
    this.radios[side] = radio;
    radio.addEventListener("change", () => this.choose(side));
    return h("label", {}, radio, h("span", {}, label));
  }

  async start() {
    const { default: WaveSurfer } = await retryUnreachable(() => later(import.meta.resolve("../vendor/wavesurfer/wavesurfer.esm.js")));
    const style = getComputedStyle(document.documentElement);
    for (const [side, { url, blob }] of this.isGone ? [] : Object.entries(this.sides)) {
      const wave = WaveSurfer.create({
        container: this.frames[side], height: 64, cspNonce: nonce, barWidth: 2, barGap: 1, barRadius: 2,
        waveColor: style.getPropertyValue("--muted"), progressColor: style.getPropertyValue("--accent"), cursorColor: style.getPropertyValue("--ink"),
      });
      this.waves[side] = wave;
      wave.on("play", () => { this.button.textContent = t("job.stop"); });
      wave.on("pause", () => { this.button.textContent = t("job.play"); });
      wave.on("ready", () => this.settle(side));
      (blob ? wave.loadBlob(blob) : wave.load(at(url))).catch(() => this.refuse(side));
    }
  }

  /**
   * What a browser's microphone recorded has no duration in its file, and no position can be set before the browser knows it:
   * it does once its end was looked for.
   */
  async settle(side) {
    const media = this.waves[side].getMediaElement();
    if (media.duration === Infinity) {
      await new Promise((resolve) => {
        media.addEventListener("seeked", resolve, { once: true });
        media.currentTime = BEYOND;
      });
      media.currentTime = side === this.side ? this.position : 0;
    }
    this.element.dataset[side] = "ready";
    this.element.dispatchEvent(new Event(`${side}-ready`));
  }

  /** A side that cannot be played, as the browser has no decoder for it, say. */
  refuse(side) {
    if (this.isGone) return;
    this.element.dataset[side] = "broken";
    this.frames[side].replaceChildren(h("p", { class: "muted" }, t("job.cannot_play")));
  }

  get isPlaying() {
    return Object.values(this.waves).some((wave) => wave.isPlaying());
  }

  /** Play as soon as the sound is there; any other stops. */
  async play() {
    if (Sides.last !== this) Sides.last?.pause();
    Sides.last = this;
    await this.ready;
    const { side } = this;
    const playThis = () => Sides.last === this && this.side === side && this.waves[side].play().catch(() => {});
    if (this.element.dataset[side] === "ready") playThis();
    else this.element.addEventListener(`${side}-ready`, playThis, { once: true });
  }

  pause() {
    for (const wave of Object.values(this.waves)) wave.pause();
  }

  toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  next() {
    const sides = Object.keys(this.sides);
    const side = sides[(sides.indexOf(this.side) + 1) % sides.length];
    this.radios[side].checked = true;
    this.choose(side);
  }

  choose(side) {
    const [old, now] = [this.waves[this.side], this.waves[side]];
    const isPlaying = old?.isPlaying();
    old?.pause();
    this.frames[this.side].hidden = true;
    this.frames[side].hidden = false;
    this.side = side;
    this.position = old?.getCurrentTime() ?? 0;
    now?.setTime(Math.min(this.position, now.getDuration() || 0));
    if (isPlaying) this.play();
  }

  destroy() {
    this.isGone = true;
    for (const wave of Object.values(this.waves)) wave.destroy();
  }
}

// Scores of each save, and its audio beside the recording.

import WaveSurfer from "../vendor/wavesurfer/wavesurfer.esm.js";
import { all } from "./api.js";
import { at, byId, h, keyed } from "./dom.js";
import { duration, figure, percent, t } from "./words.js";

const nonce = document.querySelector("meta[name=style-nonce]").content;

export class Saves {
  constructor(base) {
    this.base = base;
    this.step = null;
    this.players = [];
  }

  async load() {
    const [saves, previews] = await Promise.all([all(`${this.base}/checkpoints`, Infinity), all(`${this.base}/previews`, Infinity)]);
    byId("saves-table").hidden = saves.length === 0;
    if (saves.length) {
      const { held_out: isHeldOut, num_clips: n } = saves.at(-1);
      byId("saves-note").textContent = t(isHeldOut ? "job.saves_held_out" : "job.saves_trained", { n });
    }
    this.previews = previews;
    keyed(byId("saves"), [...saves].reverse(), (save) => save.step, (save) => this.row(save), (row, save) => {
      row.classList.toggle("best", save.is_best);
      row.querySelector(".pill").hidden = !save.is_best;
      row.querySelector("button").hidden = !previews.some((one) => one.step === save.step);
    });
    if (this.step === null && previews.length) this.open((previews.findLast((one) => one.is_best) ?? previews.at(-1)).step);
  }

  row(save) {
    const score = (key) => h("td", { class: "num" }, figure(save.scores[`eval/${key}`]));
    const voicing = save.scores["eval/voicing"];
    return h("tr", {},
      h("td", {}, `${t("job.save_name", { epoch: save.epoch, step: save.step })} `, h("span", { class: "pill succeeded" }, t("job.best"))),
      score("mel"), score("f0_cents"), h("td", { class: "num" }, voicing == null ? "–" : percent(voicing)), score("similarity"),
      h("td", { class: "num" }, h("button", { type: "button", onclick: () => this.open(save.step) }, t("job.listen"))));
  }

  /** Show the clips of one save. */
  open(step) {
    this.step = step;
    for (const player of this.players) player.destroy();
    const clips = this.previews.filter((one) => one.step === step);
    this.players = clips.map((clip) => new Player(clip));
    byId("previews").replaceChildren(...this.players.map((player) => player.element));
    for (const row of byId("saves").children) {
      row.querySelector("button").setAttribute("aria-pressed", String(row.dataset.key === String(step)));
    }
  }
}

/** One clip: voice and recording, one playing at a time, at the same position. */
class Player {
  constructor(clip) {
    this.sides = { voice: at(clip.audio.url), recording: at(clip.recording.url) };
    this.side = "voice";
    this.button = h("button", { type: "button", onclick: () => this.waves[this.side].playPause() }, t("job.play"));
    this.frames = { voice: h("div", { class: "wave" }), recording: h("div", { class: "wave", hidden: true }) };
    const choice = (side) => {
      const radio = h("input", { type: "radio", name: `side-${clip.step}-${clip.clip}`, value: side, checked: side === "voice" });
      radio.addEventListener("change", () => this.choose(side));
      return h("label", {}, radio, h("span", {}, t(`job.${side}_side`)));
    };
    const title = t("job.clip", { n: clip.clip, time: duration(clip.seconds) });
    this.element = h("figure", { class: "preview", "aria-label": title },
      h("h3", {}, `${title} · ${t("job.save_name", { epoch: clip.epoch, step: clip.step })}`),
      this.frames.voice, this.frames.recording,
      h("div", { class: "deck" }, this.button,
        h("div", { class: "segments", role: "radiogroup", "aria-label": t("job.side") }, choice("voice"), choice("recording"))),
      h("img", { src: clip.picture.url, alt: t("job.picture", { n: clip.clip }), loading: "lazy" }));
    const style = getComputedStyle(document.documentElement);
    this.waves = {};
    for (const side of ["voice", "recording"]) {
      const wave = WaveSurfer.create({
        container: this.frames[side], url: this.sides[side], height: 64, cspNonce: nonce, barWidth: 2, barGap: 1, barRadius: 2,
        waveColor: style.getPropertyValue("--muted"), progressColor: style.getPropertyValue("--accent"), cursorColor: style.getPropertyValue("--ink"),
      });
      wave.on("play", () => { this.button.textContent = t("job.stop"); });
      wave.on("pause", () => { this.button.textContent = t("job.play"); });
      wave.on("ready", () => { this.element.dataset[side] = "ready"; });
      wave.on("error", () => { this.element.dataset[side] = "broken"; });
      this.waves[side] = wave;
    }
  }

  choose(side) {
    const [old, now] = [this.waves[this.side], this.waves[side]];
    const isPlaying = old.isPlaying();
    old.pause();
    this.frames[this.side].hidden = true;
    this.frames[side].hidden = false;
    now.setTime(Math.min(old.getCurrentTime(), now.getDuration() || 0));
    this.side = side;
    if (isPlaying) now.play();
  }

  destroy() {
    for (const wave of Object.values(this.waves)) wave.destroy();
  }
}

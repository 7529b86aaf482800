// Scores of each save, and its audio beside the recording, another save, or another run.

import { all } from "./api.js";
import { byId, h, keyed } from "./dom.js";
import { showQuality } from "./quality.js";
import { Sides } from "./sides.js";
import { duration, figure, percent, t } from "./words.js";

const SCORES = ["mel", "f0_cents", "voicing", "similarity"];
/** A semitone, in cents: from here on a melody sounds wrong. */
const SEMITONE = 100;
/** Share of frames voiced wrongly from which the voice audibly breaks. */
const MUCH_VOICING = 0.15;
const FIRST_SHOWN = 10;

/** A save's sound in a word, by those scores that have an absolute scale. */
export function verdict(scores) {
  const cents = scores["eval/f0_cents"];
  const voicing = scores["eval/voicing"];
  if (cents >= SEMITONE) return "pitch_off";
  if (cents >= SEMITONE / 2) return "pitch_unsteady";
  if (voicing >= MUCH_VOICING) return "breaks";
  return cents == null && voicing == null ? null : "right";
}

/** A score as it is shown. */
export const scoreText = (scores, key) => {
  const value = scores[`eval/${key}`];
  return key === "voicing" && value != null ? percent(value) : figure(value);
};

export class Saves {
  /** `others()`: the other runs of a comparison, each `{id, name, previews}`. */
  constructor(base, others = () => []) {
    Object.assign(this, { base, others });
    this.step = null;
    this.isChosen = false;
    this.against = null;
    this.players = [];
    this.saves = [];
    this.previews = [];
    this.most = FIRST_SHOWN;
    byId("more-saves").addEventListener("click", () => {
      this.most = Infinity;
      this.draw();
    });
  }

  async load() {
    const [checkpoints, previews] = await Promise.all([all(`${this.base}/checkpoints`, Infinity), all(`${this.base}/previews`, Infinity)]);
    this.previews = previews;
    this.saves = checkpoints.filter((save) => Object.keys(save.scores).length); // others have the scores of conversions alone
    showQuality(checkpoints);
    const known = new Set(this.previews.map((one) => one.step));
    const wanted = [this.saves.find((one) => one.is_best)?.step, this.previews.at(-1)?.step].find((step) => known.has(step));
    if (!this.isChosen && wanted !== undefined && wanted !== this.step && !this.players.some((one) => one.isPlaying)) this.step = wanted;
    this.draw();
  }

  get count() {
    return this.saves.length;
  }

  draw() {
    const { saves } = this;
    byId("saves-table").hidden = saves.length === 0;
    byId("saves-help").hidden = saves.length === 0;
    byId("more-saves").hidden = saves.length <= this.most;
    if (saves.length) {
      const { held_out: isHeldOut, num_clips: n } = saves.at(-1);
      byId("saves-note").textContent = t(isHeldOut ? "job.saves_held_out" : "job.saves_trained", { n });
    }
    const measured = new Set(SCORES.filter((key) => saves.some((save) => save.scores[`eval/${key}`] != null)));
    for (const head of byId("saves-table").querySelectorAll("th[data-score]")) head.hidden = !measured.has(head.dataset.score);
    // The newest, the best, and the one that is open; in the row below it are its clips.
    const newest = [...saves].reverse();
    const shown = newest.filter((save, n) => n < this.most || save.is_best || save.step === this.step);
    const rows = shown.flatMap((save) => (save.step === this.step ?
      [save, { clips: save.step, n: this.previews.filter((one) => one.step === save.step).length }] : [save]));
    keyed(byId("saves"), rows, (row) => (row.clips === undefined ? row.step : `clips of ${row.clips}, ${row.n}`),
      (row) => (row.clips === undefined ? this.row(row) : this.clips(row.clips)),
      (element, row) => row.clips === undefined && this.update(element, row, measured));
  }

  row(save) {
    const play = h("button", { type: "button", class: "listen", onclick: () => this.listen(save.step) }, t("job.listen"));
    return h("tr", {},
      h("td", {}, play),
      h("td", {}, `${t("job.save_name", { epoch: save.epoch, step: save.step })} `, h("span", { class: "pill succeeded" }, t("job.best"))),
      h("td", { class: "verdict" }),
      SCORES.map((key) => h("td", { class: "num", dataset: { score: key } })));
  }

  update(row, save, measured) {
    row.classList.toggle("best", save.is_best);
    row.querySelector(".pill").hidden = !save.is_best;
    const word = verdict(save.scores);
    row.querySelector(".verdict").textContent = word ? t(`verdict.${word}`) : "";
    const play = row.querySelector("button");
    play.hidden = !this.previews.some((one) => one.step === save.step);
    play.setAttribute("aria-pressed", String(save.step === this.step));
    for (const cell of row.querySelectorAll("[data-score]")) {
      cell.hidden = !measured.has(cell.dataset.score);
      cell.textContent = scoreText(save.scores, cell.dataset.score);
    }
  }

  /** Open a save and play its first clip, or stop it. */
  listen(step) {
    this.isChosen = true;
    if (step !== this.step) {
      this.step = step;
      this.draw();
      this.players[0]?.play();
    } else {
      (this.players.find((one) => one.isPlaying) ?? this.players[0])?.toggle();
    }
  }

  /** The row with the clips of a save. */
  clips(step) {
    const place = h("div", { class: "previews" });
    const choices = [
      ...this.saves.filter((one) => one.step !== step && this.previews.some((clip) => clip.step === one.step))
        .map((one) => ({ label: t("job.save_name", { epoch: one.epoch, step: one.step }), clips: this.previews.filter((clip) => clip.step === one.step) })),
      ...this.others().map((one) => ({ label: one.name, clips: one.previews })),
    ].filter((one) => one.clips.length);
    const select = h("select", { "aria-label": t("job.against") },
      h("option", { value: "" }, t("job.against_none")), choices.map((one) => h("option", { value: one.label }, one.label)));
    select.value = choices.some((one) => one.label === this.against) ? this.against : "";
    const fill = () => {
      for (const player of this.players) player.destroy();
      const against = choices.find((one) => one.label === select.value);
      this.players = this.previews.filter((one) => one.step === step).map((clip) =>
        player(clip, against && { label: against.label, url: against.clips.find((one) => one.clip === clip.clip)?.audio.url }));
      place.replaceChildren(...this.players.map((player) => player.element));
    };
    select.addEventListener("change", () => {
      this.isChosen = true;
      this.against = select.value;
      fill();
    });
    fill();
    return h("tr", { class: "clips" }, h("td", { colspan: 3 + SCORES.length },
      h("div", { class: "against" }, choices.length > 0 && h("label", { class: "inline" }, t("job.against"), " ", select),
        h("span", { class: "muted" }, t("job.switch_key"))),
      place));
  }

  /** The clips again, with the present runs of the comparison to choose from. */
  renew() {
    byId("saves").querySelector(".clips")?.remove();
    this.draw();
  }
}

/** One clip: voice, recording and what they are compared with, and the picture of both. */
function player(clip, against) {
  const title = t("job.clip", { n: clip.clip, time: duration(clip.seconds) });
  const sides = {
    voice: { label: t("job.voice_side"), url: clip.audio.url },
    recording: { label: t("job.recording_side"), url: clip.recording.url },
    ...(against?.url && { against }),
  };
  const made = new Sides(title, sides);
  made.element.prepend(h("h3", {}, `${title} · ${t("job.save_name", { epoch: clip.epoch, step: clip.step })}`));
  made.element.append(h("img", { src: clip.picture.url, alt: t("job.picture", { n: clip.clip }), loading: "lazy" }),
    h("figcaption", { class: "muted" }, t("job.picture_caption")));
  return made;
}

// The recordings of a report one by one: to listen to, and to leave out, as a whole or in part.

import { post } from "../api.js";
import { at, byId, h } from "../dom.js";
import { reasonOf } from "./file_rules.js";
import { Parts } from "./parts.js";
import { attempt } from "../shell.js";
import { count, lengthOf, number, t } from "../words.js";

const audio = byId("player-audio");
const addressOf = (dataset, place) => `/v1/datasets/${dataset.id}/recordings/${place + 1}`;

/** The dataset without some of its recordings, and without parts of others; their files are shared. */
export const derive = (dataset, without, parts = []) =>
  post("/v1/datasets", { name: dataset.name, dataset_id: dataset.id, without, without_parts: parts });

/** What is marked is left out by a button of its own; until then it would be trained on, so no training is started. */
export function waitForMarked() {
  const n = Number(byId("leave-out").dataset.marked);
  if (!n) return;
  byId("submit").disabled = true;
  byId("submit-help").hidden = false;
  byId("submit-help").textContent = count("new.submit_marked", n);
}

export class Recordings {
  /** `onDerived(dataset)` is called with the dataset that is left; null: none may be left out. */
  constructor(dataset, files, overview, onDerived) {
    Object.assign(this, { dataset, files, overview, onDerived });
    this.playing = null;
    this.chosen = new Set();
    this.parts = new Parts(audio, () => this.showChosen());
    audio.pause();
    byId("player").hidden = true;
    audio.onplay = audio.onpause = audio.onended = () => this.mark();
    audio.onerror = () => this.playing !== null && this.refuse();
  }

  /** Play a recording by its place, from a share of its time on; or stop it. */
  play(place, share = null) {
    if (place === this.playing && share === null) {
      if (audio.paused) attempt(() => audio.play());
      else audio.pause();
      return;
    }
    this.playing = place;
    byId("player").hidden = false;
    byId("player-fault").hidden = true;
    byId("player-name").textContent = this.files[place].name;
    audio.hidden = false;
    audio.src = at(addressOf(this.dataset, place));
    audio.onloadedmetadata = () => { audio.currentTime = (share ?? 0) * audio.duration; };
    audio.play().catch(() => {}); // what can't be played is told by `onerror`
    attempt(() => this.parts.show(place, this.files[place], this.peaksOf(place), this.onDerived !== null));
  }

  /** Places of the recordings that the overview shows. */
  get readable() {
    return this.files.map((file, place) => place).filter((place) => !this.files[place].error);
  }

  /** The part of the overview that shows a recording; flat where the overview does not tell them apart. */
  peaksOf(place) {
    const { starts = [], peaks = [] } = this.overview ?? {};
    const n = this.readable.indexOf(place);
    const own = peaks.slice(Math.floor(starts[n] * peaks.length), Math.ceil((starts[n + 1] ?? 1) * peaks.length));
    return own.length ? own : [0];
  }

  /** Play what is at a share of the time of all recordings that could be read. */
  playAt(share, starts) {
    const { readable } = this;
    if (starts.length !== readable.length) return;
    const n = starts.findLastIndex((start) => start <= share);
    const end = starts[n + 1] ?? 1;
    this.play(readable[n], end > starts[n] ? (share - starts[n]) / (end - starts[n]) : 0);
  }

  /** The browser has no decoder for it, as for AIFF. */
  refuse() {
    audio.hidden = true;
    byId("player-wave").hidden = true;
    byId("player-fault").hidden = false;
    byId("player-fault").replaceChildren(t("new.cannot_play"), " ",
      h("a", { href: addressOf(this.dataset, this.playing), download: true }, t("job.download")));
  }

  mark() {
    for (const button of document.querySelectorAll("[data-recording]")) {
      const isPlaying = Number(button.dataset.recording) === this.playing && !audio.paused;
      button.setAttribute("aria-pressed", String(isPlaying));
      button.querySelector("span").textContent = isPlaying ? "❚❚" : "▶";
    }
  }

  button(place, name = null) {
    const label = name === null ? { "aria-label": t("new.play", { name: this.files[place].name }) } : {};
    return h("button", { type: "button", class: "play", dataset: { recording: place }, ...label, onclick: () => this.play(place) },
      h("span", { "aria-hidden": "true" }, "▶"), name !== null && ` ${name}`);
  }

  /** Buttons that play the first few of some names. */
  named(names) {
    const places = names.slice(0, 5).map((name) => this.files.findIndex((file) => file.name === name));
    return h("div", { class: "named" }, places.map((place, n) => (place < 0 || this.files[place].error ? h("small", { class: "mono" }, names[n]) : this.button(place, names[n]))),
      names.length > 5 && "…");
  }

  /** The table, with files that are left out already at its end. */
  show(leftOut, notesOf) {
    const isChangeable = this.onDerived !== null && this.files.length > 1;
    byId("files").hidden = this.files.length + leftOut.length === 0;
    byId("leave-out-head").hidden = !isChangeable;
    byId("files-list").replaceChildren(...this.files.map((file, place) => h("tr", {},
      h("td", {}, file.error ? "" : this.button(place)),
      h("td", {}, file.name),
      h("td", { class: "num" }, file.seconds == null ? "–" : lengthOf(file.seconds)),
      h("td", { class: "num" }, file.kept_seconds == null ? "–" : lengthOf(file.kept_seconds)),
      h("td", { class: "num" }, file.sample_rate == null ? "–" : `${number(file.sample_rate / 1000, 1)} kHz`),
      h("td", {}, notesOf(file)),
      isChangeable && h("td", {}, h("input", { type: "checkbox", "aria-label": t("new.leave_out.file", { name: file.name }),
        onchange: (event) => this.choose(file.name, event.target.checked) })))),
    ...leftOut.map((file) => h("tr", {}, h("td"), h("td", {}, file.name), ...["–", "–", "–"].map((dash) => h("td", { class: "num" }, dash)),
      h("td", {}, t("new.left_out.file", { reason: reasonOf(file) })), isChangeable && h("td"))));
    this.showChosen();
  }

  choose(name, isChosen) {
    if (isChosen) this.chosen.add(name);
    else this.chosen.delete(name);
    this.showChosen();
  }

  /** The button that leaves out what is marked. */
  showChosen() {
    const parts = this.parts.all(new Set([...this.files.keys()].filter((place) => this.chosen.has(this.files[place].name))));
    const place = byId("leave-out");
    place.dataset.marked = this.chosen.size + parts.length;
    place.hidden = this.chosen.size + parts.length === 0;
    byId(parts.length ? "player" : "files").append(place); // in sight of what is marked
    const isAll = this.files.every((file) => this.chosen.has(file.name));
    const labels = [this.chosen.size && count("new.leave_out", this.chosen.size), parts.length && count("new.leave_out.parts", parts.length)].filter(Boolean);
    place.replaceChildren(h("button", { type: "button", class: "primary", disabled: isAll,
      onclick: () => attempt(async () => this.onDerived(await derive(this.dataset, [...this.chosen], parts))) },
    isAll ? t("new.leave_out.all") : labels.join(" · ")));
    place.dispatchEvent(new Event("change"));
  }
}

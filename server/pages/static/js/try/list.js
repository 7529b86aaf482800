// Conversions of a voice, newest first: what they wait for, their progress, and their results beside the originals.

import { all, getBytes, post, remove, withQuery } from "../api.js";
import { h, keyed, setText } from "../dom.js";
import { attempt, copy, notify } from "../shell.js";
import { Sides } from "../sides.js";
import { ago, duration, figure, t, when } from "../words.js";
import { saveName, semitones } from "./options.js";

const isOpen = (conversion) => ["waiting", "running"].includes(conversion.status);
const path = (conversion, step = "") => `/v1/conversions/${conversion.id}${step}`;
const audioOf = (conversion, result) => withQuery(path(conversion, "/audio"), { name: result.name });
const done = (conversion) => conversion.results.filter((one) => !one.error);

export class Conversions {
  /** `onAgain(files, conversion)`: its recordings are to be converted again. `checkpoints()`: the job's, for names. */
  constructor(job, { onAgain, onChange, checkpoints, maySubmit }) {
    Object.assign(this, { job, onAgain, onChange, checkpoints, maySubmit });
    this.all = [];
    this.players = new Map();
    /** Ids of those that were submitted here, which open at their end. */
    this.fresh = new Set();
    this.list = h("ol", { class: "tries" });
    this.element = h("div", { hidden: true }, h("h3", {}, t("try.tries")), h("p", { class: "muted" }, t("try.tries_help")), this.list);
  }

  async load() {
    this.all = await all(withQuery("/v1/conversions", { voice: this.job.name }));
    this.element.hidden = this.all.length === 0;
    keyed(this.list, this.all, (one) => `${one.id} ${one.status}`, (one) => this.row(one), (row, one) => this.update(row, one));
    for (const id of [...this.players.keys()]) if (!this.all.some((one) => one.id === id)) this.close(id);
    for (const one of this.all) {
      if (this.fresh.has(one.id) && !isOpen(one)) {
        this.fresh.delete(one.id);
        if (done(one).length) this.open(one, done(one)[0]);
      }
    }
  }

  /** The list as that of another version of the voice. */
  show(job) {
    this.job = job;
    for (const id of [...this.players.keys()]) this.close(id);
    this.list.replaceChildren();
  }

  get areOpen() {
    return this.all.some(isOpen);
  }

  add(conversion) {
    this.fresh.add(conversion.id);
  }

  row(one) {
    const results = done(one);
    const name = one.inputs.length === 1 ? one.inputs[0].name : t("try.recordings", { n: one.inputs.length });
    const button = (key, work, looks = {}) => h("button", { type: "button", ...looks, onclick: (event) => this.run(event.currentTarget, work) }, t(key));
    return h("li", { class: "try" },
      h("div", { class: "heading small" }, h("strong", {}, name), h("span", { class: `pill ${one.status}` }, t(`try.status.${one.status}`))),
      h("p", { class: "muted" }, this.facts(one)),
      isOpen(one) && h("progress", { max: 1, value: one.progress, "aria-label": t("job.progress") }),
      h("p", { class: "state muted", role: "status", hidden: true }),
      one.error && h("p", { class: "fault" }, one.error.message),
      one.results.some((result) => result.error) && !one.error && this.faults(one),
      results.length > 1 && this.choice(one, results),
      h("div", { class: "player-place" }),
      h("div", { class: "actions" },
        results.length === 1 && h("button", { type: "button", class: "listen", onclick: () => this.listen(one, results[0]) }, t("job.listen")),
        results.length === 1 && h("a", { class: "button", href: audioOf(one, results[0]), download: results[0].name }, t("job.download")),
        results.length > 1 && h("a", { class: "button", href: path(one, "/audio.zip"), download: true }, t("try.zip")),
        this.maySubmit && isOpen(one) && button("action.cancel", () => post(path(one, "/cancel")), { class: "danger" }),
        this.maySubmit && !isOpen(one) && button("try.again", () => this.again(one)),
        this.maySubmit && !isOpen(one) && button("action.delete", () => remove(path(one)), { class: "danger" })),
      results.length > 0 && this.small(one, results));
  }

  facts(one) {
    const { options } = one;
    const shifts = [...new Set(done(one).map((result) => result.pitch_shift).filter((value) => value != null))];
    const shift = options.pitch_shift === "auto" && shifts.length !== 1 ? t("try.shift.auto") : semitones(shifts[0] ?? options.pitch_shift);
    const other = one.job_id !== this.job.id && h("a", { href: `/jobs/${one.job_id}` }, t("try.other_version"));
    return [saveName(one.save, other ? [] : this.checkpoints()), " · ", shift, " · ", options.format.toUpperCase(), " · ",
      h("time", { datetime: one.created_at, title: when(one.created_at) }, ago(one.created_at)), other && " · ", other].filter(Boolean);
  }

  faults(one) {
    return h("ul", { class: "fault" }, one.results.filter((result) => result.error)
      .map((result) => h("li", {}, `${result.input}: ${result.error}`)));
  }

  /** Which of several results is heard. */
  choice(one, results) {
    return h("ul", { class: "results" }, results.map((result) => h("li", {},
      h("button", { type: "button", class: "listen", "aria-label": t("try.listen_to", { name: result.input }), onclick: () => this.listen(one, result) }, "▶"),
      h("span", {}, result.input), h("small", { class: "muted" }, duration(result.seconds)),
      h("a", { href: audioOf(one, result), download: result.name, "aria-label": t("try.download_of", { name: result.name }) }, t("job.download")))));
  }

  /** Where it ran and why, until when it is kept, and its hash. */
  small(one, results) {
    const [{ sha256 }] = results;
    return h("small", { class: "muted" },
      one.device && [t("try.ran_on", { device: one.device.startsWith("cpu") ? t("try.cpu") : one.device }), one.device_reason ? ` (${one.device_reason})` : "", " · "],
      one.expires_at && t("try.kept_until", { time: when(one.expires_at) }),
      results.length === 1 && [" · SHA-256 ", h("button", { type: "button", class: "quiet mono", title: sha256, onclick: () => attempt(async () => {
        await copy(sha256);
        notify(t("job.copied"));
      }) }, h("span", { class: "hidden" }, t("job.copy", { name: results[0].name })), h("span", { class: "sha" }, sha256))]);
  }

  update(row, one) {
    setText(row.querySelector("time"), ago(one.created_at));
    const bar = row.querySelector("progress");
    if (bar) bar.value = one.progress;
    const state = row.querySelector(".state");
    state.hidden = !isOpen(one);
    setText(state, one.status === "waiting" ? one.waiting_for ?? t("try.waiting") : t("try.running", { share: figure(Math.round(100 * one.progress)) }));
  }

  async run(button, work) {
    button.disabled = true;
    await attempt(work);
    button.disabled = false;
    this.onChange();
  }

  /** The recordings of a conversion, to convert them with other options. */
  async again(one) {
    const files = [];
    for (const [n, { name }] of one.inputs.entries()) {
      const { bytes, headers } = await getBytes(path(one, `/recordings/${n + 1}`));
      files.push({ path: name, file: new File([bytes], name, { type: headers.get("Content-Type") ?? "" }) });
    }
    this.onAgain(files, one);
  }

  /** Play a result, or stop it. */
  listen(one, result) {
    const player = this.players.get(one.id);
    if (player?.result === result.name) player.toggle();
    else this.open(one, result).play();
  }

  open(one, result) {
    this.close(one.id);
    const number = one.inputs.findIndex((input, n) => one.results[n].name === result.name) + 1;
    const player = new Sides(result.name, {
      converted: { label: t("try.converted"), url: audioOf(one, result) },
      original: { label: t("try.original"), url: path(one, `/recordings/${number}`) },
    });
    player.result = result.name;
    this.players.set(one.id, player);
    const row = [...this.list.children].find((child) => child.dataset.key.startsWith(`${one.id} `));
    row.querySelector(".player-place").replaceChildren(player.element);
    if (done(one).length === 1) row.querySelector(".listen").hidden = true; // the player has its own
    return player;
  }

  close(id) {
    const player = this.players.get(id);
    player?.element.remove();
    player?.destroy();
    this.players.delete(id);
  }
}

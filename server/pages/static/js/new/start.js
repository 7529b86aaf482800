// What training starts from: published base weights, one's own, a save of an earlier voice, or nothing.

import { all, get, withQuery } from "../api.js";
import { byId, h, keyed, setText } from "../dom.js";
import { attempt, me } from "../shell.js";
import { ago, t } from "../words.js";
import { kindText } from "./kinds.js";
import { labelOf, wordOf } from "./settings.js";

const KIND = ["version", "sample_rate", "f0", "width"];
/** Jobs that may have a save. */
const STATUSES = ["succeeded", "failed", "cancelled", "paused", "running"];
const MOST = 50;

export class Start {
  /** `onChange()`: after another start was chosen here. */
  constructor(form, settings, choices, onChange) {
    Object.assign(this, { form, settings, choices, onChange });
    this.weights = null; // base weights of one's own, once they are loaded
    this.jobs = null;
    this.saves = []; // evaluated saves of the chosen job
    this.savesOf = null;
    this.state = { job: null, save: null }; // id of the job, number of its save
    byId("choice-start").addEventListener("change", (event) => event.target.name === "start" && attempt(() => this.load()));
    byId("start-search").addEventListener("input", () => attempt(() => this.loadJobs()));
    byId("start-search").addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault()); // it is in the voice's form
    byId("start-save").addEventListener("change", ({ target }) => {
      this.state.save = target.value === "" ? null : Number.isNaN(Number(target.value)) ? target.value : Number(target.value);
    });
  }

  get way() {
    return this.form.elements.start.value;
  }

  /** Whether something is chosen. */
  get isComplete() {
    return { own: this.choices.ownWeights, voice: this.state.job }[this.way] !== null;
  }

  /** The field `start_from` of a submission. */
  get request() {
    const { job, save } = this.state;
    return this.way === "voice" && job ? { start_from: { job_id: job, ...(save === null ? {} : { save }) } } : {};
  }

  /** Start from a job, its last save unless another is named. */
  fromJob(job, save = null) {
    this.state = { job, save };
    this.choices.select("start", "voice");
  }

  /** The base weights of a job's configuration. */
  take(config) {
    this.choices.ownWeights = ["auto", "none"].includes(config.pretrained ?? "auto") ? null : config.pretrained;
  }

  /** Base weights that were chosen among all settings. */
  follow() {
    const { pretrained } = this.settings.own;
    if (pretrained === undefined) return;
    this.settings.override(["pretrained"]);
    this.take({ pretrained });
    this.choices.select("start", { auto: "published", none: "nothing" }[pretrained] ?? "own");
    attempt(() => this.load());
  }

  /** Load what the present choice needs, and show it. */
  async load() {
    this.show();
    if (this.way === "own") {
      const { owner } = await me;
      this.weights = (await all("/v1/base-weights")).filter((one) => one.owner === owner);
    }
    if (this.way === "voice") await this.loadJobs();
    this.show();
  }

  async loadJobs() {
    const search = byId("start-search").value.trim();
    const { data } = await get(withQuery("/v1/jobs", { search, status: STATUSES, limit: MOST }));
    this.jobs = data.filter((job) => job.epoch);
    const { job } = this.state;
    if (job && !search && !this.jobs.some((one) => one.id === job)) {
      const chosen = await get(`/v1/jobs/${encodeURIComponent(job)}`).catch(() => null); // deleted: the estimate explains it
      if (chosen) this.jobs.unshift(chosen);
    }
    await this.loadSaves();
    this.show();
  }

  async loadSaves() {
    const { job } = this.state;
    if (!job || this.savesOf === job) return;
    this.saves = await all(`/v1/jobs/${encodeURIComponent(job)}/checkpoints`).catch(() => []);
    this.savesOf = job;
  }

  /** What a start is for; null fits everything. */
  entries() {
    if (this.way === "own") {
      return (this.weights ?? []).map((one) => {
        const kind = { sample_rate: null, f0: null, ...one.discriminator?.fits, ...one.generator?.fits };
        return { id: one.name, name: one.name, kind, about: kindText(kind, this.settings) };
      });
    }
    return (this.jobs ?? []).map((job) => {
      const kind = Object.fromEntries([...KIND, "content"].map((name) => [name, job.config[name] ?? this.settings.usual(name)]));
      return { id: job.id, name: job.name, kind, about: `${kindText(kind, this.settings)} · ${t("voices.submitted", { time: ago(job.created_at) })}` };
    });
  }

  /** The options in which a kind differs from the chosen settings. */
  differing(kind) {
    return Object.entries(kind).filter(([name, value]) => value != null && value !== this.settings.now(name));
  }

  show() {
    const { way } = this;
    const hasMore = way === "own" || way === "voice";
    byId("start-more").hidden = !hasMore;
    if (!hasMore || !this.settings.properties) return;
    byId("start-search-line").hidden = way !== "voice";
    const entries = this.entries();
    keyed(byId("start-list"), entries, (one) => `${way} ${one.id}`, (one) => this.row(one), (item, one) => this.update(item, one));
    byId("start-none").hidden = entries.length > 0 || { own: this.weights, voice: this.jobs }[way] === null;
    setText(byId("start-none-text"), t(`new.start.none.${way}`));
    byId("start-none-link").hidden = way !== "own";
    this.showSaves();
  }

  row({ id, name }) {
    const radio = h("input", { type: "radio", name: "start_of", value: id, onchange: () => attempt(() => this.choose(id)) });
    return h("li", {}, h("label", {}, radio, h("span", {}, h("strong", {}, name), h("small", { class: "about" }), h("small", { class: "why" }))),
      h("button", { type: "button", onclick: () => attempt(() => this.match(id)) }, t("new.start.match")));
  }

  update(item, { id, kind, about, name }) {
    const differing = this.differing(kind);
    const radio = item.querySelector("input");
    radio.checked = id === (this.way === "own" ? this.choices.ownWeights : this.state.job);
    radio.disabled = differing.length > 0 && !radio.checked;
    setText(item.querySelector(".about"), about);
    const what = differing.map(([option, value]) =>
      t("new.start.differs", { option: labelOf(option), theirs: wordOf(option, value), chosen: wordOf(option, this.settings.now(option)) })).join("; ");
    setText(item.querySelector(".why"), what ? t("new.start.misfit", { what }) : "");
    const button = item.querySelector("button");
    button.hidden = differing.length === 0;
    button.setAttribute("aria-label", t("new.start.match_of", { name }));
  }

  async choose(id) {
    if (this.way === "own") this.choices.ownWeights = id;
    else {
      this.state = { job: id, save: null };
      await this.loadSaves();
    }
    this.choices.show();
    this.show();
    this.onChange();
  }

  /** Choose a start, and the settings that it is for. */
  async match(id) {
    const { kind } = this.entries().find((one) => one.id === id);
    if (kind.content) this.choices.select("where", kind.content === "whisper-tiny" ? "here" : "everywhere");
    for (const [name, value] of this.differing(kind)) this.settings.set(name, value);
    await this.choose(id);
  }

  showSaves() {
    const job = this.way === "voice" && this.jobs?.find((one) => one.id === this.state.job);
    byId("start-save-line").hidden = !job;
    if (!job) return;
    const isEach = !job.config.save_only_latest && job.config.keep_saves !== "latest";
    const each = isEach && this.savesOf === job.id ? [...this.saves].reverse() : [];
    const best = this.savesOf === job.id && this.saves.some((save) => save.is_best) ? [["best", t("new.start.best")]] : [];
    const options = [["", t("new.start.last")], ...best, ...each.map((save) =>
      [String(save.step), `${t("job.save_name", { epoch: save.epoch, step: save.step })}${save.is_best ? ` · ${t("job.best")}` : ""}`])];
    const chosen = this.state.save === null ? "" : String(this.state.save);
    if (!options.some(([value]) => value === chosen)) options.push([chosen, t("new.start.number", { n: chosen })]);
    byId("start-save").replaceChildren(...options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
  }

  /** Show the server's errors on the start; returns the others. */
  blame(errors) {
    const isMine = ({ pointer }) => pointer === "/config/pretrained" || pointer?.startsWith("/start_from");
    const mine = errors.filter(isMine);
    byId("start-fault").hidden = mine.length === 0;
    setText(byId("start-fault"), mine.map((error) => error.detail).join(" "));
    return errors.filter((error) => !isMine(error));
  }
}

// How a recording is converted: the save, the pitch, and what only some change. Kept for this tab.

import { all } from "../api.js";
import { h } from "../dom.js";
import { labelOf, wordOf } from "../new/settings.js";
import { figure, number, t } from "../words.js";

const ESTIMATORS = ["swift", "rmvpe", "fcpe", "crepe", "crepe-tiny", "harvest", "dio"];
const FORMATS = ["wav", "flac", "mp3", "opus"];
const DEFAULTS = { index_rate: 0.75, protect: 0.33, rms_mix_rate: 0.25, pitch: "swift", format: "wav" };
const RANGES = { index_rate: 1, protect: 0.5, rms_mix_rate: 1 };
const SEMITONES = [12, 0, -12];

/** The semitones as they are written with a sign. */
export const semitones = (value) => t("try.semitones", { n: value > 0 ? `+${number(value, 1)}` : number(value, 1).replace("-", "−") });

/** A conversion's save in words; null is the finished voice. */
export function saveName(save, checkpoints = []) {
  if (save === null || save === "best" || save === "latest") return t(`try.save.${save ?? "finished"}`);
  const known = checkpoints.find((one) => one.step === save);
  return known ? t("job.save_name", known) : t("job.at_step", { step: number(save) });
}

export class Options {
  constructor(job) {
    this.key = `rvc-try:${job.id}`;
    this.checkpoints = [];
    this.save = h("select", {});
    this.shift = h("input", { type: "number", min: -36, max: 36, step: "any", value: 0 });
    this.mode = h("select", { "aria-label": t("try.shift") }, ["auto", ...SEMITONES, "own"].map((value) => h("option", { value }, t(`try.shift.${value}`.replace("-", "minus_")))));
    this.shiftField = h("label", { class: "field", hidden: true }, h("span", {}, t("try.shift.semitones")), this.shift);
    this.fields = {
      pitch: h("select", {}, ESTIMATORS.map((value) => h("option", { value }, wordOf("pitch", value)))),
      format: h("select", {}, FORMATS.map((value) => h("option", { value }, t(`try.format.${value}`)))),
    };
    const { speakers } = job.config;
    if (typeof speakers === "object" && speakers) this.fields.speaker = h("select", {}, Object.keys(speakers).map((value) => h("option", { value }, value)));
    else if (speakers === "folders") this.fields.speaker = h("input", { type: "text" });
    for (const [name, max] of Object.entries(RANGES)) this.fields[name] = h("input", { type: "range", min: 0, max, step: 0.01 });
    this.element = h("div", { class: "try-options" },
      h("div", { class: "settings" },
        h("label", { class: "field" }, h("span", {}, t("try.save")), this.save),
        h("label", { class: "field" }, h("span", {}, t("try.shift")), this.mode, h("small", {}, t("try.shift.help"))),
        this.shiftField, "speaker" in this.fields && this.field("speaker", t("try.speaker"))),
      h("details", {}, h("summary", {}, t("try.more")), h("div", { class: "settings" },
        this.field("format", t("try.format")), this.field("pitch", labelOf("pitch")),
        Object.keys(RANGES).map((name) => this.field(name, t(`try.${name}`))))));
    this.put(this.stored());
    this.element.addEventListener("input", () => this.changed());
  }

  field(name, label) {
    const input = this.fields[name];
    const value = name in RANGES && h("output", {});
    return h("label", { class: "field", dataset: { name } }, h("span", {}, label, value && " ", value), input,
      name in RANGES && h("small", {}, t(`try.${name}.help`)));
  }

  stored() {
    try {
      return JSON.parse(sessionStorage.getItem(this.key)) ?? {};
    } catch {
      return {}; // no storage, or foreign content
    }
  }

  put({ save = "", mode = "auto", shift = 0, ...rest }) {
    this.wantedSave = save;
    this.mode.value = mode;
    this.shift.value = shift;
    for (const [name, input] of Object.entries(this.fields)) input.value = rest[name] ?? DEFAULTS[name] ?? input.value;
    this.showValues();
  }

  changed() {
    this.wantedSave = this.save.value;
    this.showValues();
    const fields = Object.fromEntries(Object.entries(this.fields).map(([name, input]) => [name, input.value]));
    try {
      sessionStorage.setItem(this.key, JSON.stringify({ save: this.save.value, mode: this.mode.value, shift: this.shift.value, ...fields }));
    } catch {
      // Storage is full or forbidden: nothing is kept.
    }
  }

  askForSemitones() {
    this.mode.value = "own";
    this.changed();
    this.shift.focus();
  }

  showValues() {
    this.shiftField.hidden = this.mode.value !== "own";
    for (const name of Object.keys(RANGES)) this.fields[name].parentElement.querySelector("output").value = figure(Number(this.fields[name].value));
  }

  /** The saves that can be had of a job as it is now. A job without any yet has no choice. */
  async showSaves(job) {
    this.checkpoints = await all(`/v1/jobs/${job.id}/checkpoints`, Infinity);
    const hasBegun = (job.step ?? 0) > 0;
    const values = [
      job.status === "succeeded" && "",
      this.checkpoints.some((one) => one.is_best) && "best",
      job.status !== "succeeded" && hasBegun && "latest",
      ...keptSteps(job, this.checkpoints),
    ].filter((value) => value !== false).map(String);
    const present = values.join();
    if (this.save.dataset.present === present) return;
    this.save.dataset.present = present;
    this.save.replaceChildren(...values.map((value) => h("option", { value }, saveName(asSave(value), this.checkpoints))));
    this.save.value = values.includes(this.wantedSave) ? this.wantedSave : values[0] ?? "";
  }

  get hasSaves() {
    return this.save.options.length > 0;
  }

  /** The fields of the request. */
  get request() {
    const { mode } = this;
    const shift = mode.value === "auto" ? "auto" : Number(mode.value === "own" ? this.shift.value : mode.value);
    const rates = Object.fromEntries(Object.keys(RANGES).map((name) => [name, Number(this.fields[name].value)]));
    const words = Object.fromEntries(["pitch", "format", "speaker"].flatMap((name) => (name in this.fields ? [[name, this.fields[name].value]] : [])));
    return { save: asSave(this.save.value), pitch_shift: shift, ...rates, ...words };
  }
}

const asSave = (value) => (value === "" ? null : /^\d+$/.test(value) ? Number(value) : value);

/** Steps of the saves whose files a job keeps, the newest first. */
function keptSteps({ config, training_end: end }, checkpoints) {
  if (config.save_only_latest || config.keep_saves === "latest") return [];
  const evaluated = [...checkpoints].reverse().filter((one) => one.epoch % config.save_every_epochs === 0 || one.epoch === (end?.epoch ?? config.total_epochs));
  if (config.keep_saves !== "best") return evaluated.map((one) => one.step);
  const best = [...evaluated].sort((one, other) => (one.scores["eval/mel"] ?? Infinity) - (other.scores["eval/mel"] ?? Infinity)).slice(0, config.num_best_saves);
  return evaluated.filter((one) => best.includes(one)).map((one) => one.step);
}

// The simple choices above all settings.

import { byId, h } from "../dom.js";
import { number, t } from "../words.js";

const EFFORTS = {
  try: { max_train_seconds: 600, save_every_epochs: 25, keep_saves: "latest" },
  normal: { total_epochs: 200 },
  best: { total_epochs: 500, save_every_epochs: 25, evaluate: "always" },
  auto: { total_epochs: "auto" },
};
/** For singing, the most robust estimator that is on the server; without one, the first is downloaded. */
const FOR_SINGING = ["rmvpe", "fcpe", "crepe"];
/** The options that a choice governs: its values are theirs, or else the defaults. */
const GOVERNED = {
  effort: ["total_epochs", "stop_share", "max_epochs", "max_train_seconds", "save_every_epochs", "keep_saves", "evaluate"],
  kind: ["pitch"],
  where: ["content", "width"],
  people: ["speakers"],
  start: ["pretrained"],
};
const BEFORE = "before";

export class Choices {
  constructor(form, settings) {
    Object.assign(this, { form, settings });
    this.present = new Set(); // ids of the weights on the server
    this.ownWeights = null; // name of the base weights of one's own to start from
    this.before = {}; // of a job taken over: the options that no card has, by choice
    this.reached = null; // epochs that are trained already
    for (const name of Object.keys(GOVERNED)) {
      byId(`choice-${name}`).addEventListener("change", () => this.press(name));
    }
    form.elements.more.addEventListener("input", () => this.press("effort"));
  }

  get governed() {
    return Object.values(GOVERNED).flat();
  }

  /** Select a card, as by a press. */
  select(name, value) {
    this.form.elements[name].value = value;
    this.press(name);
  }

  /** A choice takes precedence over what was set by hand before. */
  press(name) {
    this.settings.override(GOVERNED[name]);
    if (name === "where") this.startFor(this.form.elements.where.value);
    this.show();
  }

  /** The published base weights know ContentVec only. */
  startFor(where) {
    const { start } = this.form.elements;
    if (where === "here" && start.value === "published") this.select("start", "nothing");
    if (where === "everywhere" && start.value === "nothing") this.select("start", "published");
  }

  show() {
    this.settings.setChoices(this.config);
  }

  get config() {
    return Object.assign({}, ...Object.keys(GOVERNED).map((name) => this.options(name, this.form.elements[name].value)));
  }

  options(name, value) {
    if (name === "effort" && this.reached !== null) {
      const more = Math.max(1, Math.round(Number(this.form.elements.more.value)) || 1);
      const forAuto = { stop_share: this.settings.usual("stop_share"), max_epochs: this.settings.usual("max_epochs") };
      return { ...this.before.effort, ...forAuto, total_epochs: this.reached + more, max_train_seconds: null };
    }
    if (value === BEFORE) return this.before[name];
    if (name === "effort") return EFFORTS[value];
    if (name === "kind") return { pitch: value === "singing" ? FOR_SINGING.find((one) => this.present.has(one)) ?? FOR_SINGING[0] : "swift" };
    if (name === "where") return value === "here" ? { content: "whisper-tiny" } : {};
    if (name === "start") return this.start(value);
    return value === "folders" ? { speakers: "folders" } : {};
  }

  start(value) {
    if (value === "own" && this.ownWeights !== null) return { pretrained: this.ownWeights };
    const usual = this.settings.usual("width");
    const width = this.settings.own.width ?? this.options("where", this.form.elements.where.value).width ?? usual;
    return value === "nothing" || (value === "voice" && width !== usual) ? { pretrained: "none" } : {}; // none are published for other widths
  }

  /** Select the cards that another job's options fit; where none does, a card of its own. */
  take(config) {
    const usual = (option) => this.settings.usual(option);
    for (const [name, options] of Object.entries(GOVERNED)) {
      const theirs = Object.fromEntries(options.map((option) => [option, config[option] ?? usual(option)]));
      const fits = (value) => {
        const ours = this.options(name, value);
        return options.every((option) => JSON.stringify(ours[option] ?? usual(option)) === JSON.stringify(theirs[option]));
      };
      const values = [...byId(`choice-${name}`).querySelectorAll(`input[name=${name}]`)].map((radio) => radio.value);
      const fitting = values.find((value) => ![BEFORE, "voice"].includes(value) && fits(value)); // a job names the voice that it starts from
      if (!fitting) this.addBefore(name, theirs);
      this.form.elements[name].value = fitting ?? BEFORE;
    }
    this.show();
  }

  addBefore(name, theirs) {
    this.before[name] = theirs;
    const text = name === "effort" && theirs.total_epochs === "auto"
      ? t("new.before.auto", { n: number(theirs.max_epochs) })
      : name === "effort" ? t(theirs.max_train_seconds ? "new.before.time" : "new.before.epochs", { n: number(theirs.total_epochs), minutes: number((theirs.max_train_seconds ?? 0) / 60, 1) })
      : Object.entries(theirs).map(([option, value]) => `${option} ${JSON.stringify(value)}`).join(", ");
    byId(`choice-${name}`).querySelector(".options").append(h("label", {},
      h("input", { type: "radio", name, value: BEFORE }), h("span", {}, h("strong", {}, t("new.before")), h("small", {}, text))));
  }

  /** Continue the training of a job: only its length, and what is set by hand, can change. */
  goOnFrom(job) {
    this.before.effort = Object.fromEntries(GOVERNED.effort.map((option) => [option, job.config[option] ?? this.settings.usual(option)]));
    this.reached = job.epoch ?? job.total_epochs ?? 0;
    for (const name of Object.keys(GOVERNED)) byId(`choice-${name}`).hidden = true;
    byId("more").hidden = false;
    byId("more-help").textContent = t("new.more_help", { n: number(this.reached) });
    this.show();
  }
}

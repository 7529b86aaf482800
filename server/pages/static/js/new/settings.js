// Every option of the training, from the configuration's own schema: only the groups are listed here.

import { get } from "../api.js";
import { byId, h } from "../dom.js";
import { has, number, t } from "../words.js";

const GROUPS = {
  voice: ["version", "sample_rate", "f0", "pitch", "content", "pretrained", "speakers", "speaker_id"],
  recordings: ["slicing", "slice_seconds", "slice_overlap_seconds", "normalize"],
  length: ["total_epochs", "stop_share", "max_epochs", "max_train_seconds", "batch_size", "accumulate_steps", "learning_rate", "lr_decay", "seed"],
  saves: ["save_every_epochs", "save_only_latest", "save_every_weights", "keep_saves", "num_best_saves", "evaluate", "evaluate_every_epochs", "checkpoint_every_steps"],
  machine: ["precision", "tf32", "graphs", "compile", "gradient_checkpointing", "cache_data_on_device", "width"],
};
/** Groups that are open at first: the others are for those who know them. */
const OPEN = ["voice", "length"];

export class Settings {
  constructor(onChange) {
    this.onChange = onChange;
    this.own = {}; // options set by hand
    this.chosenConfig = {}; // options from the simple settings above
  }

  async start() {
    const schema = await get("/v1/config-schema");
    this.properties = schema.properties;
    const own = await get("/v1/base-weights?limit=100").catch(() => ({ data: [] }));
    this.properties.pretrained.enum = ["auto", "none", ...new Set(own.data.map((weights) => weights.name))];
    const grouped = new Set(Object.values(GROUPS).flat());
    const rest = Object.keys(this.properties).filter((name) => !grouped.has(name));
    const children = [];
    for (const [group, names] of Object.entries({ ...GROUPS, other: rest })) {
      const fields = names.filter((name) => name in this.properties);
      if (fields.length) children.push(h("details", { class: "group", open: OPEN.includes(group) },
        h("summary", {}, t(`new.group.${group}`)), h("div", { class: "settings" }, fields.map((name) => this.field(name)))));
    }
    byId("settings").replaceChildren(...children);
    byId("settings-search").addEventListener("input", (event) => this.search(event.target.value));
    this.show();
  }

  /** Set the options of the simple settings; an option set by hand takes precedence. */
  setChoices(chosenConfig) {
    this.chosenConfig = chosenConfig;
    this.show();
  }

  /** Set an option, as if by hand. */
  set(name, value) {
    this.own[name] = value;
    this.show();
  }

  /** Forget what was set by hand of these options. */
  override(names) {
    for (const name of names) delete this.own[name];
  }

  /** Set the options of another job that the simple settings do not have, as if by hand. */
  take(config, except) {
    for (const [name, value] of Object.entries(config)) { // a job has all options, also those of the simple settings
      const present = JSON.stringify(this.chosenConfig[name] ?? this.usual(name));
      if (name in this.properties && !except.includes(name) && JSON.stringify(value) !== present) this.own[name] = value;
    }
    this.show();
  }

  /** The config to submit: only what differs from the defaults. */
  get config() {
    const all = { ...this.chosenConfig, ...this.own };
    return Object.fromEntries(Object.entries(all).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(this.usual(name))));
  }

  /** An option as it is set now. */
  now(name) {
    const all = { ...this.chosenConfig, ...this.own };
    return name in all ? all[name] : this.usual(name);
  }

  /** What differs from another job's options, those set back to their defaults with them. */
  changedFrom(config) {
    const names = Object.keys(this.properties).filter((name) => JSON.stringify(this.now(name)) !== JSON.stringify(config[name] ?? this.usual(name)));
    return Object.fromEntries(names.map((name) => [name, this.now(name)]));
  }

  usual(name) {
    return this.properties[name].default ?? null;
  }

  field(name) {
    const property = this.properties[name];
    const input = control(name, property);
    input.addEventListener("change", () => {
      const value = read(input, property);
      if (JSON.stringify(value) === JSON.stringify(this.chosenConfig[name] ?? this.usual(name))) delete this.own[name];
      else this.own[name] = value;
      this.show();
      this.onChange();
    });
    return h("label", { class: "field", dataset: { name } },
      h("span", { title: name }, labelOf(name)), input,
      h("p", { class: "fault", role: "alert", hidden: true }),
      h("small", {}, has(`config.${name}.help`) ? t(`config.${name}.help`) : property.description ?? ""));
  }

  show() {
    if (!this.properties) return;
    for (const field of byId("settings").querySelectorAll("[data-name]")) {
      const { name } = field.dataset;
      const value = name in this.own ? this.own[name] : this.chosenConfig[name] ?? this.usual(name);
      write(field.querySelector("input, select"), value);
      field.classList.toggle("own", JSON.stringify(value) !== JSON.stringify(this.usual(name)));
    }
    const n = Object.keys(this.own).length;
    byId("changed").textContent = n ? t("new.changed", { n: number(n) }) : "";
    this.showDifferences();
  }

  /** What differs from the defaults, above all settings; a press leads to the field. */
  showDifferences() {
    const differing = Object.entries(this.config);
    byId("differing").hidden = differing.length === 0;
    byId("differing").replaceChildren(h("span", { class: "muted" }, t("new.differing")), ...differing.map(([name, value]) =>
      h("button", { type: "button", class: name in this.own ? "own" : null, title: name, onclick: () => this.reveal(name) },
        t("page.pair", { name: labelOf(name), value: wordOf(name, value) }))));
  }

  /** Open a field's group and go there; returns its control. */
  reveal(name) {
    byId("all-settings").open = true;
    const field = byId("settings").querySelector(`[data-name="${CSS.escape(name)}"]`);
    field.closest("details").open = true;
    const control = field.querySelector("input, select");
    control.scrollIntoView({ block: "center" });
    control.focus();
    return control;
  }

  search(text) {
    const wanted = text.toLowerCase();
    for (const field of byId("settings").querySelectorAll("[data-name]")) {
      field.hidden = !`${field.textContent} ${field.dataset.name}`.toLowerCase().includes(wanted);
    }
    for (const group of byId("settings").querySelectorAll(".group")) {
      group.hidden = !group.querySelector("[data-name]:not([hidden])");
      if (wanted) group.open = true;
    }
  }

  /** A range's fault in the page's language; the server's words for any other. */
  faultOf(name, detail) {
    const numeric = kinds(this.properties[name]).find((kind) => kind.type === "integer" || kind.type === "number");
    const value = this.own[name] ?? this.chosenConfig[name];
    if (typeof value !== "number" || !numeric) return detail;
    const { minimum, exclusiveMinimum, maximum } = numeric;
    if (value < minimum) return t("new.at_least", { n: number(minimum, 6) });
    if (value <= exclusiveMinimum) return t("new.more_than", { n: number(exclusiveMinimum, 6) });
    if (value > maximum) return t("new.at_most", { n: number(maximum, 6) });
    return detail;
  }

  /** Show the server's errors beside their fields; returns those without a field. */
  blame(errors) {
    for (const fault of byId("settings").querySelectorAll(".fault")) fault.hidden = true;
    const rest = [];
    for (const error of errors) {
      const name = /^\/config\/([^/]+)/.exec(error.pointer)?.[1];
      const field = name && byId("settings").querySelector(`[data-name="${CSS.escape(name)}"]`);
      if (!field) {
        rest.push(error);
        continue;
      }
      const fault = field.querySelector(".fault");
      fault.textContent = this.faultOf(name, error.detail);
      fault.hidden = false;
      byId("all-settings").open = true;
      field.closest("details").open = true;
    }
    return rest;
  }
}

/** An option's name in the page's words. */
export const labelOf = (name) => (has(`config.${name}`) ? t(`config.${name}`) : name);

/** An option's value in the page's words. */
export function wordOf(name, value) {
  if (has(`config.${name}.${value}`)) return t(`config.${name}.${value}`);
  if (value === null) return t("job.none");
  if (typeof value === "boolean") return value ? t("job.yes") : t("job.no");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** The types that a property may have; null: it may be empty. */
const kinds = (property) => property.anyOf ?? [property];

function control(name, property) {
  const [first] = kinds(property).filter((kind) => kind.enum);
  if (kinds(property).some((kind) => kind.type === "boolean")) return h("input", { type: "checkbox" });
  if (first && kinds(property).length === 1) {
    return h("select", {}, first.enum.map((value) => h("option", { value: String(value) }, wordOf(name, value))));
  }
  const [numeric] = kinds(property).filter((kind) => kind.type === "integer" || kind.type === "number");
  if (numeric && !kinds(property).some((kind) => kind.const || kind.type === "object")) {
    return h("input", { type: "number", min: numeric.minimum, max: numeric.maximum, step: numeric.type === "integer" ? 1 : "any", inputmode: "decimal" });
  }
  const choices = kinds(property).flatMap((kind) => kind.enum ?? (kind.const ? [kind.const] : []));
  return h("input", { type: "text", spellcheck: "false", placeholder: choices.join(", ") });
}

function read(input, property) {
  if (input.type === "checkbox") return input.checked;
  const text = input.value.trim();
  if (text === "") return null;
  const isNumber = kinds(property).some((kind) => ["integer", "number"].includes(kind.type) || typeof kind.enum?.[0] === "number");
  if (isNumber && !Number.isNaN(Number(text))) return Number(text);
  if (text.startsWith("{")) {
    try {
      return JSON.parse(text);
    } catch {
      return text; // the server explains the error
    }
  }
  return text;
}

function write(input, value) {
  if (input.type === "checkbox") input.checked = Boolean(value);
  else if (document.activeElement !== input) input.value = value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
}

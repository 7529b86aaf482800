// Parts of recordings that are to be left out: drawn in the waveform of the recording that plays, and listed below it.

import { later, retryUnreachable } from "../api.js";
import { byId, h } from "../dom.js";
import { attempt } from "../shell.js";
import { number, t } from "../words.js";

const nonce = document.querySelector("meta[name=style-nonce]").content;
/** Longer recordings, in seconds, are not decoded in the browser; their waveform is that of the overview. */
const LONG = 1800;
/** Length of a part that a button marks, until its end is set. */
const FIRST_SECONDS = 1;
const round = (seconds) => Math.round(seconds * 100) / 100;
const list = byId("parts-list");
const button = byId("parts-mark");
/** The waveform that is shown, of whichever report, and how often another was asked for. */
let wave = null;
let turn = 0;

export class Parts {
  /** `onChange()` is called when parts are marked, changed or taken back. */
  constructor(audio, onChange) {
    Object.assign(this, { audio, onChange });
    /** By the place of the recording: parts `{from, to}` in seconds. */
    this.marked = new Map();
    this.regions = new Map();
    this.hide();
    button.onclick = () => this.mark();
    audio.ontimeupdate = () => this.stopAtEnd();
  }

  /** All parts, as the server takes them; without those of recordings whose places are in `but`. */
  all(but) {
    return [...this.marked].filter(([place]) => !but.has(place)).flatMap(([place, parts]) =>
      parts.map(({ from, to }) => ({ recording: place + 1, from_seconds: from, to_seconds: to })));
  }

  hide() {
    wave?.destroy();
    wave = this.plugin = this.open = null;
    turn += 1;
    this.stopAt = Infinity;
    for (const id of ["parts", "player-wave"]) byId(id).hidden = true;
    delete byId("player-wave").dataset.state;
  }

  /** Show the recording at a place. `peaks`: of the overview; `isChangeable`: whether parts may be marked. */
  async show(place, file, peaks, isChangeable) {
    this.hide();
    const mine = turn;
    const left = file.without_parts ?? [];
    Object.assign(this, { place, left, name: file.name, isChangeable });
    this.seconds = round(file.seconds + left.reduce((sum, part) => sum + part.to_seconds - part.from_seconds, 0));
    byId("parts").hidden = !isChangeable;
    this.list();
    const load = (path) => retryUnreachable(() => later(import.meta.resolve(path)));
    const [{ default: WaveSurfer }, { default: Regions }] = await Promise.all(
      ["wavesurfer", "regions"].map((name) => load(`../../vendor/wavesurfer/${name}.esm.js`)));
    if (mine !== turn || this.audio.error) return;
    byId("player-wave").hidden = false;
    const style = getComputedStyle(document.documentElement);
    const plugin = Regions.create();
    wave = WaveSurfer.create({ // of what the player has loaded
      container: byId("player-wave"), media: this.audio, ...(this.seconds > LONG ? { peaks: [peaks], duration: this.seconds } : {}), height: 72, cspNonce: nonce, barWidth: 2, barGap: 1, barRadius: 2, plugins: [plugin],
      waveColor: style.getPropertyValue("--muted"), progressColor: style.getPropertyValue("--accent"), cursorColor: style.getPropertyValue("--ink"),
    });
    const own = wave;
    own.once("ready", () => this.startDrawing(plugin));
    own.on("error", () => { // the list does without
      if (own === wave) byId("player-wave").hidden = true;
    });
  }

  startDrawing(plugin) {
    this.plugin = plugin;
    byId("player-wave").dataset.state = "ready";
    this.draw();
    if (!this.isChangeable) return;
    plugin.enableDragSelection({ color: this.color("--bad") });
    plugin.on("region-created", (region) => {
      if (this.isDrawing) return;
      const part = this.add(round(region.start), round(region.end));
      this.regions.set(region, part);
    });
    plugin.on("region-updated", (region) => {
      const part = this.regions.get(region);
      Object.assign(part, { from: round(region.start), to: round(region.end) });
      this.list();
      this.onChange();
    });
  }

  color(name) {
    return `color-mix(in srgb, ${getComputedStyle(document.documentElement).getPropertyValue(name)} 30%, transparent)`;
  }

  /** What is left out already, and what is marked. */
  draw() {
    if (!this.plugin) return;
    this.isDrawing = true;
    this.plugin.clearRegions();
    this.regions.clear();
    for (const { from_seconds: start, to_seconds: end } of this.left) this.plugin.addRegion({ start, end, drag: false, resize: false, color: this.color("--ink") });
    for (const part of this.marked.get(this.place) ?? []) {
      this.regions.set(this.plugin.addRegion({ start: part.from, end: part.to, color: this.color("--bad") }), part);
    }
    this.isDrawing = false;
  }

  add(from, to) {
    const part = { from, to };
    this.marked.set(this.place, [...(this.marked.get(this.place) ?? []), part]);
    this.list();
    this.onChange();
    return part;
  }

  /** A part from where it plays; a second press ends it there. */
  mark() {
    const now = round(this.audio.currentTime);
    if (this.open && now > this.open.from) this.change(this.open, { to: now });
    else if (!this.open) {
      const part = this.add(now, round(Math.min(now + FIRST_SECONDS, this.seconds)));
      this.draw();
      this.open = part;
      this.list();
      return;
    }
    this.open = null;
    this.list();
  }

  change(part, values) {
    Object.assign(part, values);
    this.draw();
    this.onChange();
  }

  takeBack(part) {
    const parts = this.marked.get(this.place).filter((one) => one !== part);
    if (parts.length) this.marked.set(this.place, parts);
    else this.marked.delete(this.place);
    if (this.open === part) this.open = null;
    this.draw();
    this.list();
    this.onChange();
    button.focus();
  }

  play({ from, to }) {
    this.audio.currentTime = from;
    this.stopAt = to;
    attempt(() => this.audio.play());
  }

  stopAtEnd() {
    if (this.audio.currentTime < this.stopAt) return;
    this.stopAt = Infinity;
    this.audio.pause();
  }

  list() {
    button.textContent = t(this.open ? "new.parts.end" : "new.parts.mark");
    const parts = this.marked.get(this.place) ?? [];
    list.replaceChildren(...parts.map((part, n) => {
      const field = (key) => h("label", {}, h("span", {}, t(`new.parts.${key}`)), h("input", {
        type: "number", min: 0, max: this.seconds, step: "any", inputmode: "decimal", value: part[key], required: true,
        onchange: ({ target }) => this.change(part, { [key]: round(Number(target.value)) }),
      }));
      return h("li", {}, h("div", { role: "group", "aria-label": t("new.parts.part", { n: number(n + 1), name: this.name }) }, field("from"), field("to"),
        h("button", { type: "button", onclick: () => this.play(part) }, t("new.parts.play")),
        h("button", { type: "button", onclick: () => this.takeBack(part) }, t("new.parts.take_back"))));
    }));
  }
}

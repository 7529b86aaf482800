// Other runs beside this one, named in the address: their settings, scores and sound; the charts show their curves.

import { all, get, withQuery } from "./api.js";
import { byId, h } from "./dom.js";
import { labelOf, wordOf } from "./new/settings.js";
import { scoreText, verdict } from "./saves.js";
import { attempt } from "./shell.js";
import { ago, count, t } from "./words.js";

/** The most jobs to compare with: the number of colours. */
const MOST_OTHERS = 4;
const SCORES = ["mel", "f0_cents", "voicing", "similarity"];

export class Compared {
  /** `own()`: this job; `onChange`: called after each change of the others. */
  constructor(own, onChange) {
    Object.assign(this, { own, onChange });
    this.others = [];
    const [menu, search] = [byId("compare"), byId("compare-search")];
    menu.addEventListener("toggle", () => menu.open && attempt(() => this.offer()));
    search.addEventListener("input", () => {
      clearTimeout(this.seeking);
      this.seeking = setTimeout(() => attempt(() => this.offer()), 200);
    });
  }

  /** The runs named in the address; those that are gone are left out. */
  async start() {
    const ids = (new URLSearchParams(location.search).get("compare") ?? "").split(",").filter(Boolean);
    const found = await Promise.all(ids.slice(0, MOST_OTHERS).map((id) => this.run(id).catch(() => null)));
    this.set(found.filter(Boolean));
  }

  /** All jobs, this one first. */
  get jobs() {
    return [{ id: this.own().id, name: this.own().name }, ...this.others];
  }

  async run(id) {
    const path = `/v1/jobs/${encodeURIComponent(id)}`;
    const [job, saves, previews] = await Promise.all([get(path), all(`${path}/checkpoints`, Infinity), all(`${path}/previews`, Infinity)]);
    const best = saves.find((save) => save.is_best) ?? saves.at(-1);
    return { id: job.id, name: job.name, job, best, previews: previews.filter((clip) => clip.step === best?.step) };
  }

  set(others) {
    this.others = others;
    const address = new URL(location.href);
    if (others.length) address.searchParams.set("compare", others.map((one) => one.id).join(","));
    else address.searchParams.delete("compare");
    history.replaceState(null, "", address.href.replaceAll("%2C", ","));
    attempt(() => this.show());
    this.onChange();
  }

  /** The runs to choose from, by name. */
  async offer() {
    const page = await get(withQuery("/v1/jobs", { search: byId("compare-search").value.trim(), limit: 100 }));
    const found = page.data.filter((job) => job.id !== this.own().id && job.step);
    const line = (job) => {
      const isIn = this.others.some((one) => one.id === job.id);
      const box = h("input", { type: "checkbox", checked: isIn, disabled: !isIn && this.others.length >= MOST_OTHERS });
      box.addEventListener("change", () => attempt(async () => {
        this.set(box.checked ? [...this.others, await this.run(job.id)] : this.others.filter((one) => one.id !== job.id));
        await this.offer();
      }));
      const about = [t(`status.${job.status}`), job.config.total_epochs === "auto" ? count("job.epochs", job.epoch ?? 0) : t("voices.epoch", { epoch: job.epoch ?? 0, total: job.total_epochs ?? 0 }), ago(job.created_at)];
      return h("label", {}, box, h("span", {}, job.name, h("small", { class: "muted" }, about.join(" · "))));
    };
    byId("compare-list").replaceChildren(...(found.length ? found.map(line) : [h("p", { class: "muted" }, t("job.compare_none"))]));
  }

  /** The legend, the scores of each run's best save, and the settings that differ. */
  async show() {
    byId("compared").hidden = this.others.length === 0;
    if (!this.others.length) return;
    const runs = [await this.run(this.own().id), ...this.others];
    const leave = (one) => h("button", {
      type: "button", class: "quiet", "aria-label": t("job.compare_leave", { name: one.name }),
      onclick: () => this.set(this.others.filter((other) => other.id !== one.id)),
    }, "×");
    byId("compared-head").replaceChildren(h("tr", {}, h("th"), runs.map((one, place) => h("th", { scope: "col" },
      h("span", { class: `key key-${place}` }), " ", place ? h("a", { href: `/jobs/${one.id}` }, one.name) : one.name,
      h("small", { class: "muted" }, ` ${ago(one.job.created_at)}`), place > 0 && leave(one)))));
    const rows = [
      [t("job.compare_save"), (one) => (one.best ? t("job.save_name", one.best) : "–")],
      ...SCORES.map((key) => [t(`score.${key}`), (one) => (one.best ? scoreText(one.best.scores, key) : "–")]),
      [t("job.verdict"), (one) => { const word = one.best && verdict(one.best.scores); return word ? t(`verdict.${word}`) : "–"; }],
      ...this.differing(runs).map((key) => [labelOf(key), (one) => wordOf(key, one.job.config[key] ?? null)]),
    ].map(([name, value]) => [name, runs.map(value)]).filter(([, values]) => values.some((value) => value !== "–"));
    byId("compared-rows").replaceChildren(...rows.map(([name, values]) =>
      h("tr", {}, h("th", { scope: "row" }, name), values.map((value) => h("td", {}, value)))));
  }

  differing(runs) {
    const keys = [...new Set(runs.flatMap((one) => Object.keys(one.job.config)))];
    return keys.filter((key) => new Set(runs.map((one) => JSON.stringify(one.job.config[key] ?? null))).size > 1);
  }
}

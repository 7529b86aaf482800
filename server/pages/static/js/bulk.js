// Several voices chosen in the list, and one action on all of them.

import { fits, requestOf } from "./actions.js";
import { ApiError } from "./api.js";
import { byId, h, setText } from "./dom.js";
import { attempt, confirm, notify } from "./shell.js";
import { count, size, t } from "./words.js";

const ACTIONS = ["pause", "resume", "cancel", "delete"];
const ASKED = ["cancel", "delete"];

export class Bulk {
  /** `jobs()`: the jobs that are shown; `after`: called after an action. */
  constructor(jobs, after) {
    Object.assign(this, { jobs, after });
    this.chosen = new Set();
    byId("bulk-all").addEventListener("click", () => {
      for (const job of this.jobs()) this.chosen.add(job.id);
      this.after();
    });
    byId("bulk-none").addEventListener("click", () => {
      this.chosen.clear();
      this.after();
    });
    byId("bulk-actions").append(...ACTIONS.map((name) =>
      h("button", { type: "button", class: ASKED.includes(name) ? "danger" : null, dataset: { name }, onclick: () => attempt(() => this.run(name)) }, t(`action.${name}`))));
  }

  /** The checkbox of a job. */
  box(job) {
    const box = h("input", { type: "checkbox", class: "pick", "aria-label": t("voices.choose", { name: job.name }) });
    box.addEventListener("change", () => {
      if (box.checked) this.chosen.add(job.id);
      else this.chosen.delete(job.id);
      this.show();
    });
    return box;
  }

  get picked() {
    return this.jobs().filter((job) => this.chosen.has(job.id));
  }

  show() {
    const { picked } = this;
    byId("bulk").hidden = picked.length === 0;
    setText(byId("bulk-count"), count("voices.chosen", picked.length));
    for (const button of byId("bulk-actions").children) button.disabled = !picked.some((job) => fits(button.dataset.name, job));
  }

  async run(name) {
    const jobs = this.picked.filter((job) => fits(name, job));
    const question = { title: count(`ask.${name}_several`, jobs.length), text: t(`ask.${name}.text`), button: t(`action.${name}`) };
    if (ASKED.includes(name) && !(await confirm(question))) return;
    let [done, freed] = [0, 0];
    for (const job of jobs) {
      try {
        await requestOf(name, job);
        this.chosen.delete(job.id);
        done += 1;
        freed += job.disk_bytes;
      } catch (fault) {
        if (!(fault instanceof ApiError) || ![404, 409].includes(fault.status)) throw fault; // it has moved on meanwhile
      }
    }
    const said = count("said.several", done);
    notify(name === "delete" && freed ? `${said} ${t("said.freed", { size: size(freed) })}` : said);
    this.after();
  }
}

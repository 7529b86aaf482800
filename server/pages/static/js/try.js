// "Try it": recordings are converted with a voice, or with one of its saves, and listened to beside the originals.

import { post, repeat, retryUnreachable } from "./api.js";
import { h } from "./dom.js";
import { Sending, UploadBody } from "./new/sending.js";
import { attempt, may } from "./shell.js";
import { Conversions } from "./try/list.js";
import { Options } from "./try/options.js";
import { Sources } from "./try/sources.js";
import { percent, t } from "./words.js";

/** Seconds between two looks while a conversion is open, and while none is. */
const [SOON, SELDOM] = [1, 15];

/**
 * The panel of a voice: `section` is filled, and hidden while nothing can be tried. `job` is the version of the voice;
 * `update(job)` passes on what has changed about it.
 */
export function tryPanel(section, job) {
  const panel = new Panel(section, job);
  panel.start();
  return panel;
}

class Panel {
  constructor(section, job) {
    Object.assign(this, { section, job });
    this.sending = null;
    section.hidden = true;
  }

  async start() {
    const maySubmit = await may("submit");
    this.options = new Options(this.job);
    this.sources = maySubmit ? new Sources(() => this.showButton()) : null;
    this.conversions = new Conversions(this.job, {
      onAgain: (files, before) => this.useAgain(files, before), onChange: () => this.ticking.again(), checkpoints: () => this.options.checkpoints, maySubmit,
    });
    this.button = h("button", { type: "button", class: "primary", disabled: true, onclick: () => this.convert() }, t("try.convert"));
    this.stop = h("button", { type: "button", hidden: true, onclick: () => this.sending?.stop() }, t("action.cancel"));
    this.state = h("span", { class: "muted", role: "status" });
    this.fault = h("p", { class: "fault", role: "alert", hidden: true });
    this.training = h("p", { class: "muted", hidden: true }, t("try.training"));
    this.title = h("h2", { id: "try-title" }, t("try.title"));
    this.section.setAttribute("aria-labelledby", this.title.id);
    this.section.replaceChildren(this.title, ...(maySubmit ? [h("p", { class: "muted" }, t("try.help")), this.sources.element, this.options.element,
      this.training, h("div", { class: "deck" }, this.button, this.stop, this.state), this.fault] : []), this.conversions.element);
    this.ticking = repeat(() => this.look(), () => (this.conversions.areOpen ? SOON : SELDOM));
  }

  async look() {
    await this.options.showSaves(this.job);
    await this.conversions.load();
    this.training.hidden = this.job.status !== "running";
    this.section.hidden = !(this.sources && this.options.hasSaves) && this.conversions.all.length === 0;
    this.showButton();
  }

  /** The job as it is now, or that of another version: the first save and the finished voice show at once. */
  update(job) {
    const isNew = job.status !== this.job.status || Boolean(job.step) !== Boolean(this.job.step);
    const isOther = job.id !== this.job.id;
    this.job = job;
    if (isOther && this.options) {
      const { element } = this.options;
      this.options = new Options(job);
      element.replaceWith(this.options.element);
      this.conversions.show(job);
    }
    if (isNew || isOther) this.ticking?.again();
  }

  showButton() {
    if (this.sources) this.button.disabled = this.sending !== null || !this.sources.files.length || !this.options.hasSaves;
  }

  /** The recordings of a conversion; where its voice has no pitch of its own, with semitones to be given. */
  useAgain(files, before) {
    this.sources.clear();
    this.sources.add(files);
    this.sources.drop.scrollIntoView({ block: "center" });
    if (before.error?.code === "invalid_options" && before.options.pitch_shift === "auto") this.options.askForSemitones();
  }

  async convert() {
    const { files } = this.sources;
    const { request } = this.options;
    this.fault.hidden = true;
    try {
      const ids = await this.send(files);
      if (ids === null) return;
      const body = { ...request, job_id: this.job.id, ...(ids.length === 1 ? { upload_id: ids[0] } : { upload_ids: ids }) };
      const key = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      const address = `/v1/voices/${encodeURIComponent(this.job.name)}/conversions`;
      const made = await retryUnreachable(() => post(address, body, { "Idempotency-Key": key }));
      this.conversions.add(made);
      for (const one of files) one.isSent = true;
      this.ticking.again();
    } catch (fault) {
      this.fault.textContent = fault.message;
      this.fault.hidden = false;
    } finally {
      this.sending = null;
      this.stop.hidden = true;
      this.state.textContent = "";
      this.showButton();
    }
  }

  /** Ids of the uploads of all files; null when it was cancelled. */
  async send(files) {
    const total = files.reduce((sum, { file }) => sum + file.size, 0);
    let before = 0;
    const ids = [];
    for (const one of files) {
      this.sending = new Sending(new UploadBody([one]), {
        onProgress: (bytes) => { this.state.textContent = t("try.sending", { share: percent((before + bytes) / total) }); },
        onWait: (isWaiting) => { if (isWaiting) this.state.textContent = t("page.reconnecting"); },
      });
      this.stop.hidden = false;
      this.showButton();
      const id = await this.sending.run();
      if (id === null) return null;
      this.sending.done();
      ids.push(id);
      before += one.file.size;
    }
    return ids;
  }
}

// Weights that the chosen settings need and the server lacks: their download, and files from an installation in its place.

import { all, post } from "../api.js";
import { byId, h } from "../dom.js";
import { attempt, may, notify } from "../shell.js";
import { list, percent, size, t, weightsName } from "../words.js";
import { chosen, Sending, UploadBody } from "./sending.js";

const SECONDS = 1.5;
const isUnderWay = (one) => ["waiting", "fetching"].includes(one.fetch_state);
const sum = (values) => values.reduce((total, value) => total + value, 0);

export class Needs {
  /** `ask()` estimates again; `avoid()` chooses settings without downloads. */
  constructor({ ask, avoid }) {
    Object.assign(this, { ask, avoid });
    this.missing = [];
    this.timer = null;
    this.shown = null;
    this.taking = null; // share of the files that are being sent, 0..1
  }

  async show(missing) {
    this.missing = missing;
    clearTimeout(this.timer);
    if (missing.some(isUnderWay)) this.timer = setTimeout(() => attempt(() => this.ask()), 1000 * SECONDS);
    const failure = missing.find((one) => one.fetch_state === "failed");
    const isFetching = missing.some(isUnderWay);
    const key = JSON.stringify([missing.map((one) => one.id), isFetching, failure?.fetch_error ?? null, this.taking !== null]);
    byId("needs").hidden = missing.length === 0;
    if (key !== this.shown) {
      this.shown = key;
      const isAdmin = await may("admin");
      byId("needs").replaceChildren(...this.parts(failure, isFetching, isAdmin));
    }
    this.showShare();
  }

  parts(failure, isFetching, isAdmin) {
    const names = list(this.missing.map((one) => weightsName(one.id)));
    const text = h("p", {}, h("strong", {}, t("new.needs", { names, size: size(sum(this.missing.map((one) => one.size_bytes))) })));
    const bar = h("progress", { id: "needs-bar", max: 1, value: 0, "aria-label": t("new.needs.progress") });
    const state = h("span", { id: "needs-state", class: "muted", role: "status" });
    if (isFetching || this.taking !== null) return [text, bar, state];
    const files = h("label", { class: "button" }, t("new.needs.files"), h("input", { id: "needs-files", class: "hidden", type: "file", webkitdirectory: true, multiple: true,
      onchange: (event) => {
        const found = chosen(event.target.files);
        event.target.value = "";
        attempt(() => this.take(found));
      } }));
    const fetchLabel = t(failure ? "new.needs.again" : "new.needs.fetch");
    return [text,
      failure ? this.failure(failure) : h("p", { class: "muted" }, t(isAdmin ? "new.needs.help" : "new.needs.help_job")),
      h("div", { class: "actions" },
        isAdmin && h("button", { id: "needs-fetch", type: "button", class: failure ? "button primary" : null, onclick: () => attempt(() => this.fetch()) }, fetchLabel),
        files,
        failure && h("button", { type: "button", onclick: () => this.avoid() }, t("new.needs.avoid"))),
      isAdmin && failure && this.mirror()].filter(Boolean);
  }

  failure({ fetch_error: error }) {
    const host = /https?:\/\/([^/\s:]+)/.exec(error)?.[1] ?? "";
    return h("div", {}, h("p", { class: "fault", role: "alert" }, t("new.needs.failed", { host })),
      h("details", {}, h("summary", {}, t("new.needs.details")), h("small", { class: "mono" }, error)));
  }

  mirror() {
    const fetch = () => attempt(() => this.fetch(input.value.trim() || input.placeholder));
    const input = h("input", { id: "needs-mirror", type: "text", inputmode: "url", spellcheck: "false", placeholder: t("new.needs.mirror_address"), "aria-label": t("new.needs.mirror"),
      onkeydown: (event) => {
        if (event.key !== "Enter") return;
        event.preventDefault(); // the form is that of the voice
        fetch();
      } });
    return h("details", {}, h("summary", {}, t("new.needs.mirror")), h("div", { class: "actions" }, input,
      h("button", { type: "button", onclick: fetch }, t("new.needs.from_mirror"))));
  }

  showShare() {
    const bar = byId("needs-bar");
    if (!bar) return;
    const share = this.taking ?? sum(this.missing.map((one) => one.downloaded_bytes)) / Math.max(1, sum(this.missing.map((one) => one.size_bytes)));
    bar.value = share;
    byId("needs-state").textContent = `${t(this.taking === null ? "new.needs.fetching" : "new.needs.taking")} ${percent(share)}`;
  }

  async fetch(mirror = null) {
    for (const one of this.missing) {
      for (const file of one.files) await post(`/v1/weights/${one.id}/fetch`, { mirror, file });
    }
    await this.ask();
  }

  /** The files among some that are wanted here: by size, and by name where one of the size has it. */
  async among(files) {
    const ids = new Map(this.missing.map((one) => [one.id, one.files]));
    if (!ids.size) return [];
    const wanted = (await all("/v1/weights")).flatMap((one) => one.files.filter((file) => ids.get(one.id)?.includes(file.name)));
    return [...new Set(wanted.flatMap((file) => {
      const alike = files.filter((one) => one.file.size === file.size);
      const named = alike.filter((one) => one.file.name === file.name);
      return named.length ? named.slice(0, 1) : alike;
    }))];
  }

  /** Send the wanted files among some to the server. */
  async take(files) {
    const found = await this.among(files);
    if (!found.length) throw new Error(t("new.needs.none_found"));
    const total = sum(found.map((one) => one.file.size));
    let before = 0;
    this.taking = 0;
    try {
      for (const one of found) {
        await this.show(this.missing);
        const onProgress = (bytes) => {
          this.taking = (before + bytes) / total;
          this.showShare();
        };
        const sending = new Sending(new UploadBody([one]), { onProgress, onWait: () => {} });
        const uploadId = await sending.run();
        sending.done();
        await post("/v1/weights:import", { upload_id: uploadId }).catch((fault) => notify(`${one.file.name}: ${fault.message}`, { bad: true }));
        before += one.file.size;
      }
    } finally {
      this.taking = null;
      await this.ask();
    }
  }
}

// The consent of the speaker to the use of the recordings: who agreed to what and when, and a document that shows it.

import { ApiError, get, put, Unreachable } from "../api.js";
import { at, byId } from "../dom.js";
import { attempt, notify } from "../shell.js";
import { language, t } from "../words.js";

export class ConsentForm {
  /** `onChange`: called when a consent was recorded. */
  constructor(onChange) {
    this.dataset = null;
    this.isRequired = false;
    this.form = byId("consent-form");
    this.form.elements.date.value = new Date(Date.now() - new Date().getTimezoneOffset() * 60_000).toISOString().slice(0, 10);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(() => this.#record(onChange));
    });
  }

  /** Ask whether the server takes jobs without a consent. */
  async start() {
    this.isRequired = (await get("/v1/system")).requires_consent;
    byId("consent-required").hidden = !this.isRequired;
    if (this.dataset) this.show(this.dataset);
  }

  /** Whether the recordings lack the consent that the server asks for. */
  get isMissing() {
    return this.isRequired && this.dataset !== null && !this.dataset.consent;
  }

  /** Show the consent of a dataset; its fields hold it, to be changed. */
  show(dataset) {
    const isSame = this.dataset?.id === dataset.id;
    this.dataset = dataset;
    byId("consent").hidden = false;
    byId("consent-given").textContent = dataset.consent ? t("new.consent.given", dataset.consent) : "";
    if (isSame) return;
    const { speaker, statement, date } = this.form.elements;
    speaker.value = dataset.consent?.speaker ?? "";
    statement.value = dataset.consent?.statement ?? "";
    if (dataset.consent) date.value = dataset.consent.date;
    byId("consent").open = this.isMissing;
  }

  async #record(onChange) {
    const { speaker, statement, date, document } = this.form.elements;
    const button = byId("consent-record");
    button.disabled = true;
    try {
      const body = { speaker: speaker.value.trim(), statement: statement.value.trim(), date: date.value };
      const [file] = document.files;
      if (file) Object.assign(body, { upload_id: await send(file), document_name: file.name.slice(0, 200) });
      const dataset = await put(`/v1/datasets/${this.dataset.id}/consent`, body);
      document.value = "";
      this.show(dataset);
      byId("consent").open = false;
      notify(t("new.consent.recorded"));
      onChange();
    } finally {
      button.disabled = false;
    }
  }
}

/** Upload a document whole; the id of its upload. */
async function send(file) {
  const headers = {
    "Accept-Language": language, "Tus-Resumable": "1.0.0", "Upload-Length": String(file.size), "Content-Type": "application/offset+octet-stream",
  };
  const answer = await fetch(at("/v1/uploads"), { method: "POST", headers, body: file, credentials: "same-origin" })
    .catch(() => { throw new Unreachable(); });
  if (!answer.ok) throw new ApiError(answer.status, await answer.json().catch(() => ({})));
  return answer.headers.get("Location").split("/").at(-1);
}

// Base weights of one's own: what each fits, added by upload or by address, deleted.

import { all, ApiError, get, post, remove, repeat } from "../api.js";
import { byId, h, keyed, setText } from "../dom.js";
import { kindText } from "../new/kinds.js";
import { Sending, UploadBody } from "../new/sending.js";
import { confirm, notify } from "../shell.js";
import { ago, percent, size, t } from "../words.js";
import { button } from "./parts.js";

const ROLES = ["generator", "discriminator"];
let ticking = null;
let shown = [];
let properties = {};
let sending = null;

const usual = { usual: (name) => properties[name]?.default };
const form = () => byId("base_weights-form");
const fieldOf = (name) => form().querySelector(`[data-field="${name}"]`);

export async function startBaseWeights() {
  ticking = repeat(async () => {
    properties = (await get("/v1/config-schema")).properties;
    show(await all("/v1/base-weights"));
  }, () => 20);
  form().addEventListener("submit", (event) => {
    event.preventDefault();
    add();
  });
  byId("base_weights-stop").addEventListener("click", () => sending?.stop());
  window.addEventListener("beforeunload", (event) => sending && event.preventDefault());
}

function show(weights) {
  shown = weights;
  byId("no-base_weights").hidden = weights.length > 0;
  keyed(byId("base_weights-list"), weights, (one) => one.id, make, () => {});
}

function make(one) {
  const fits = [["g", one.generator], ["d", one.discriminator]].filter(([, file]) => file);
  const fault = h("p", { class: "fault", role: "alert", hidden: true });
  return h("li", {},
    h("h3", {}, h("code", {}, one.name)),
    h("div", { class: "facts-line" },
      fits.map(([letter, file]) => h("span", { title: file.sha256 }, t(`server.base_weights.fits_${letter}`, { kind: kindText(file.fits, usual) }))),
      h("span", {}, size(one.size_bytes)), h("span", {}, ago(one.created_at))),
    h("div", { class: "actions" }, button(t("action.delete"), () => erase(one, fault), { danger: true, name: t("server.base_weights.delete_of", { name: one.name }) })),
    fault);
}

async function erase(one, fault) {
  fault.hidden = true;
  const text = t("server.base_weights.delete_text", { size: size(one.size_bytes) });
  if (!(await confirm({ title: t("ask.delete.title", { name: one.name }), text, button: t("action.delete") }))) return;
  try {
    await remove(`/v1/base-weights/${one.id}`);
  } catch (error) {
    if (error.status !== 409) throw error; // a job needs them: it is named where one looks
    setText(fault, error.message);
    fault.hidden = false;
    return;
  }
  notify(t("said.deleted_freed", { name: one.name, size: size(one.size_bytes) }));
  ticking.again();
}

/** Show an error beside its field, or above the button. */
function blame(name, text) {
  const place = fieldOf(name) ?? form();
  const fault = place.querySelector(":scope > .fault");
  setText(fault, text);
  fault.hidden = false;
  place.querySelector("input")?.setAttribute("aria-invalid", "true");
  if (place !== form()) place.querySelector("input").focus();
}

function clear() {
  for (const fault of form().querySelectorAll(".fault")) fault.hidden = true;
  for (const input of form().querySelectorAll("input")) input.removeAttribute("aria-invalid");
}

/** The chosen file and address of each role; null where the form is not right, which is then shown. */
function chosen() {
  const { elements } = form();
  const sources = {};
  for (const role of ROLES) {
    const [file, url] = [elements[role].files[0], elements[`${role}_url`].value.trim()];
    if (file && url) {
      blame(role, t("server.base_weights.add_both"));
      return null;
    }
    if (file || url) sources[role] = { file, url };
  }
  if (shown.some((one) => one.name === elements.name.value.trim())) blame("name", t("server.base_weights.taken"));
  else if (!Object.keys(sources).length) blame("generator", t("server.base_weights.add_none"));
  else return sources;
  return null;
}

async function add() {
  if (sending) return;
  clear();
  const sources = chosen();
  if (!sources) return;
  const name = form().elements.name.value.trim();
  isBusy(true);
  const sent = [];
  try {
    const request = { name };
    for (const role of ROLES.filter((one) => sources[one])) {
      const { file, url } = sources[role];
      request[role] = file ? { upload_id: await upload(file, sent) } : { url };
      if (file && request[role].upload_id === null) return; // stopped
    }
    byId("base_weights-stop").hidden = true;
    byId("base_weights-bar").removeAttribute("value"); // how long a check takes is not known
    setText(byId("base_weights-state"), t(ROLES.some((one) => sources[one]?.url) ? "server.base_weights.fetching" : "server.base_weights.checking"));
    const made = await post("/v1/base-weights", request);
    for (const one of sent) one.done();
    form().reset();
    notify(t("server.base_weights.added", { name, kind: kindText((made.generator ?? made.discriminator).fits, usual) }), { seconds: 15 });
    ticking.again();
  } catch (error) {
    isBusy(false); // a field that is at fault takes the focus
    await refused(error, sent);
  } finally {
    isBusy(false);
  }
}

/** Upload a file; its id, or null when it was stopped. */
async function upload(file, sent) {
  const onProgress = (bytes) => {
    byId("base_weights-bar").value = file.size ? bytes / file.size : 0;
    setText(byId("base_weights-state"), t("server.base_weights.sending", { name: file.name, share: percent(file.size ? bytes / file.size : 0) }));
  };
  const onWait = (isWaiting) => isWaiting && setText(byId("base_weights-state"), t("page.reconnecting"));
  sending = new Sending(new UploadBody([{ path: file.name, file }]), { onProgress, onWait });
  sent.push(sending);
  byId("base_weights-stop").hidden = false;
  return sending.run();
}

/** Show why files were not taken; those that are no weights are deleted on the server. */
async function refused(error, sent) {
  if (error.name === "AbortError") return;
  const faults = error.problem?.errors ?? [];
  const isOfFiles = error instanceof ApiError && [410, 422].includes(error.status) && !faults.some(({ pointer }) => pointer === "/name");
  if (isOfFiles) await Promise.all(sent.map((one) => one.discard()));
  const placed = faults.filter(({ pointer }) => fieldOf(pointer.split("/")[1]));
  for (const { pointer, detail } of placed) blame(pointer.split("/")[1], detail);
  if (!placed.length) blame(error.status === 409 ? "name" : "", [error.message, ...faults.map(({ detail }) => detail)].join(" – "));
}

function isBusy(busy) {
  byId("base_weights-sending").hidden = !busy;
  for (const field of form().querySelectorAll("input, button[type=submit]")) field.disabled = busy;
  if (!busy) sending = null;
}

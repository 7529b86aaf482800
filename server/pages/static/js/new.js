// From recordings to a submitted job.

import { all, get, retryUnreachable, post, ApiError, remove } from "./api.js";
import { at, byId, h, keyed } from "./dom.js";
import { admit, chosen, collected, forgetBegun, isBegun, numBegun, UploadBody, same, Sending } from "./new/sending.js";
import { recordingsAmong } from "./new/file_rules.js";
import { isUnderWay, showReport } from "./new/report.js";
import { Settings } from "./new/settings.js";
import { attempt, confirm, may, notify } from "./shell.js";
import { ago, duration, number, percent, size, span, t } from "./words.js";

const form = byId("new-job");
const settings = new Settings(() => estimateSoon());
const query = new URLSearchParams(location.search);
let dataset = null;
let report = null;
let sending = null;
/** The job whose last checkpoint training continues from. */
let retryOf = null;
let present = new Set();
/** One for each submission: a double click, or a retry after a lost answer, creates no second job. */
let idempotencyKey = freshKey();

/** A unique key. (`crypto.randomUUID` is missing over plain http beyond loopback.) */
function freshKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// --- recordings

async function send(chosenFiles) {
  const files = await recordingsAmong(chosenFiles);
  if (!files.length) return;
  const uploadBody = new UploadBody(files);
  const name = nameOf(files);
  byId("drop").hidden = true;
  byId("unfinished").hidden = true;
  byId("sending").hidden = false;
  byId("sending-name").textContent = `${name} · ${size(uploadBody.size)}`;
  byId("sending-pause").textContent = t("new.pause");
  sending = new Sending(uploadBody, { onProgress, onWait });
  sending.size = uploadBody.size;
  onProgress(0);
  try {
    const known = await alreadyThere(uploadBody);
    if (known) attempt(() => use(known));
    else if (isBegun(uploadBody)) notify(t("new.resumed"));
    const uploadId = known || sending.isStopped ? null : await sending.run();
    if (uploadId) {
      byId("sending-state").textContent = t("new.admitting");
      const made = await admit(name, uploadId);
      sending.done();
      attempt(() => use(made));
    }
  } catch (fault) {
    if (fault.name !== "AbortError") notify(fault.message, { bad: true, seconds: 20 });
    // After errors that may pass (signed out, rate limit, no space) the upload can be resumed.
    if (fault instanceof ApiError && ![401, 403, 429, 507].includes(fault.status)) sending.done();
  }
  sending = null;
  byId("sending").hidden = true;
  byId("drop").hidden = false;
}

/** The dataset of the same bytes, if there is one: then nothing is uploaded. */
async function alreadyThere(uploadBody) {
  byId("sending-pause").hidden = true;
  const looked = (bytes) => { byId("sending-state").textContent = `${t("new.looking")} ${percent(bytes / uploadBody.size)}`; };
  try {
    const found = await same(uploadBody, looked, () => !sending.isStopped);
    if (found) notify(t("new.already_there", { name: found.name }));
    return found;
  } finally {
    byId("sending-pause").hidden = false;
    onProgress(0);
  }
}

async function showUnfinished() {
  const n = await numBegun();
  const discard = h("button", { type: "button", onclick: () => attempt(async () => { await forgetBegun(); await showUnfinished(); }) }, t("new.discard"));
  byId("unfinished").hidden = n === 0 || sending !== null || retryOf !== null;
  byId("unfinished").replaceChildren(h("span", {}, t("new.unfinished")), " ", discard);
}

function nameOf(files) {
  const [first] = files[0].path.split("/");
  const common = files.every(({ path }) => path.startsWith(`${first}/`)) ? first : files[0].path;
  return files.length === 1 || common === first ? common.replace(/\.[^.]+$/, "") : t("new.some", { n: number(files.length) });
}

function onProgress(bytes) {
  byId("sending-bar").value = sending.size ? bytes / sending.size : 0;
  byId("sending-state").textContent = `${size(bytes)} · ${percent(sending.size ? bytes / sending.size : 0)}`;
}

function onWait(isWaiting) {
  if (isWaiting) byId("sending-state").textContent = t("page.reconnecting");
}

function startSending() {
  const drop = byId("drop");
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (!sending && !retryOf) attempt(async () => send(await collected(event.dataTransfer)));
  });
  for (const name of ["choose-files", "choose-folder"]) {
    byId(name).addEventListener("change", (event) => {
      const files = chosen(event.target.files);
      event.target.value = "";
      attempt(() => send(files));
    });
  }
  byId("sending-pause").addEventListener("click", (event) => {
    if (sending.isPaused) sending.go();
    else sending.pause();
    event.target.textContent = t(sending.isPaused ? "new.go_on" : "new.pause");
  });
  byId("sending-cancel").addEventListener("click", () => sending.stop());
  window.addEventListener("beforeunload", (event) => sending && event.preventDefault());
}

/** Select a dataset and wait for its report. */
async function use(found) {
  dataset = found;
  if (!form.elements.name.value) form.elements.name.value = found.name.replace(/[\\/]/g, " ").slice(0, 100);
  const { id } = found;
  for (;;) {
    report = await retryUnreachable(() => showReport(dataset));
    ready();
    if (dataset.id !== id || !isUnderWay(dataset)) break;
    await new Promise((resolve) => { setTimeout(resolve, 700); });
    const newer = await retryUnreachable(() => get(`/v1/datasets/${id}`));
    if (dataset.id !== id) return;
    dataset = newer;
  }
  estimateSoon();
}

async function showKnown() {
  const wanted = byId("known-search").value.toLowerCase();
  const found = (await all("/v1/datasets")).filter((one) => one.name.toLowerCase().includes(wanted)).slice(0, 100);
  keyed(byId("known-list"), found, (one) => one.id, (one) => h("li", {},
    h("span", {}, h("strong", {}, one.name), " ", h("small", { class: "muted" },
      [one.seconds == null ? null : duration(one.seconds), size(one.size), ago(one.created_at)].filter(Boolean).join(" · "))),
    h("span", { class: `pill ${one.status}` }, t(`dataset.${one.status}`)),
    h("button", { type: "button", onclick: () => attempt(() => use(one)) }, t("new.use")),
    h("button", { type: "button", class: "danger", onclick: () => attempt(() => erase(one)) }, t("action.delete"))), () => {});
  if (!found.length) byId("known-list").replaceChildren(h("li", { class: "muted" }, t("new.none_known")));
}

async function erase(one) {
  const question = { title: t("ask.delete.title", { name: one.name }), text: t("new.ask_delete"), button: t("action.delete") };
  if (!(await confirm(question))) return;
  await remove(`/v1/datasets/${one.id}`);
  await showKnown();
}

// --- settings

const EFFORTS = {
  try: { max_train_seconds: 600, save_every_epochs: 25 },
  normal: { total_epochs: 200 },
  best: { total_epochs: 500, save_every_epochs: 25, keep_saves: "best", evaluate: "always" },
};
/** For singing, the most robust estimator on the server. */
const FOR_SINGING = ["rmvpe", "fcpe", "crepe"];

function choose() {
  const { effort, kind, where, people } = Object.fromEntries(new FormData(form));
  const pitch = kind === "singing" ? FOR_SINGING.find((name) => present.has(name)) ?? "swift" : "swift";
  settings.setChoices({
    ...EFFORTS[effort],
    pitch,
    ...(where === "here" ? { content: "whisper-tiny", pretrained: "none" } : {}),
    ...(people === "folders" ? { speakers: "folders" } : {}),
  });
  estimateSoon();
}

function setChoices() {
  const labels = {};
  for (const part of form.elements.labels.value.split(",").map((one) => one.trim()).filter(Boolean)) {
    const [key, ...value] = part.split("=");
    labels[key.trim()] = value.join("=").trim();
  }
  return { dataset_id: dataset.id, config: settings.config, priority: Number(form.elements.priority.value) || 0, labels };
}

// --- estimate

let timer = null;
let asked = 0;

function estimateSoon() {
  idempotencyKey = freshKey();
  clearTimeout(timer);
  timer = setTimeout(() => attempt(estimate), 350);
}

async function estimate() {
  ready();
  if (!dataset || dataset.status !== "ready") return;
  asked += 1;
  const mine = asked;
  try {
    const found = await post("/v1/jobs:estimate", setChoices());
    if (mine === asked) showEstimate(found);
    settings.blame([]);
    blame(null);
  } catch (fault) {
    if (!(fault instanceof ApiError)) throw fault;
    if (mine === asked) blame(fault);
  }
}

function showEstimate(found) {
  const sizes = (range) => (size(range.low) === size(range.high) ? size(range.low) : `${size(range.low)} – ${size(range.high)}`);
  const facts = [
    ["time", found.seconds && span(found.seconds)], ["steps", found.steps && number(found.steps.high)],
    ["disk", found.disk_bytes && sizes(found.disk_bytes)], ["memory", found.gpu_memory_bytes && sizes(found.gpu_memory_bytes)],
    ["wait", found.starts_in && found.starts_in.high > 0 ? span(found.starts_in) : null],
  ];
  byId("estimate").replaceChildren(...facts.filter(([, value]) => value).map(([key, value]) =>
    h("div", {}, h("dt", {}, t(`new.estimate.${key}`)), h("dd", {}, value))));
  byId("estimate-basis").textContent = t(`new.basis.${found.basis ?? "unknown"}`);
  byId("estimate-basis").title = found.basis_detail;
  const shown = new Set(report?.warnings); // shown as findings
  byId("warnings").replaceChildren(...found.warnings.filter((text) => !shown.has(text)).map(warning));
  if (found.warnings.some((text) => text.includes("weights fetch"))) {
    byId("warnings").append(h("li", {}, h("a", { href: "/server#weights" }, t("new.fetch_weights"))));
  }
}

/** A warning; a long one is folded after its beginning. */
function warning(text) {
  if (text.length < 200) return h("li", { class: "warning" }, text);
  const end = text.indexOf(",", 40);
  return h("li", { class: "warning" }, h("details", {}, h("summary", {}, `${text.slice(0, end > 0 ? end : 120)} …`), text));
}

function blame(fault) {
  const rest = fault ? settings.blame(fault.problem.errors ?? []) : [];
  const isName = rest.find((error) => error.pointer === "/name");
  byId("name-fault").hidden = !isName;
  byId("name-fault").textContent = isName?.detail ?? "";
  const words = fault && !isName ? rest.map((error) => error.detail).join(" ") || (fault.problem.errors?.length ? "" : fault.message) : "";
  byId("fault").hidden = !words;
  byId("fault").textContent = words;
}

function ready() {
  const isReady = dataset?.status === "ready" && form.elements.name.value.trim() !== "";
  byId("submit").disabled = !isReady;
  byId("submit-help").hidden = isReady;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (byId("submit").disabled) return;
  byId("submit").disabled = true;
  try {
    const made = retryOf
      ? await post(`/v1/jobs/${retryOf.id}/retry`, { config: settings.changedFrom(retryOf.config) }, { "Idempotency-Key": idempotencyKey })
      : await post("/v1/jobs", { name: form.elements.name.value.trim(), ...setChoices() }, { "Idempotency-Key": idempotencyKey });
    location.assign(at(`/jobs/${made.id}`));
  } catch (fault) {
    byId("submit").disabled = false;
    if (fault instanceof ApiError) blame(fault);
    else notify(fault.message, { bad: true });
  }
});

/** `?clone=` copies a job's settings, `?retry=` also continues from its checkpoint, `?dataset=` selects recordings only. */
async function takeOver() {
  const other = query.get("retry") ?? query.get("clone");
  if (query.get("dataset")) await use(await get(`/v1/datasets/${encodeURIComponent(query.get("dataset"))}`));
  if (!other) return;
  const job = await get(`/v1/jobs/${encodeURIComponent(other)}`);
  form.elements.name.value = job.name;
  form.elements.priority.value = job.priority;
  form.elements.labels.value = Object.entries(job.labels).map(([key, value]) => (value ? `${key}=${value}` : key)).join(", ");
  if (job.config.content === "whisper-tiny" && job.config.pretrained === "none") form.elements.where.value = "here";
  if (job.config.speakers === "folders") form.elements.people.value = "folders";
  choose();
  settings.take(job.config);
  byId("all-settings").open = true;
  byId("about").hidden = false;
  if (query.get("retry")) {
    retryOf = job;
    for (const name of ["name", "priority", "labels"]) form.elements[name].disabled = true; // a retry keeps them
    byId("drop").hidden = true;
    byId("known").hidden = true;
    byId("unfinished").hidden = true;
    byId("submit").textContent = t("new.train_on");
  }
  byId("about").textContent = t(retryOf ? "new.about_retry" : "new.about_clone", { name: job.name });
  await use(await get(`/v1/datasets/${job.dataset_id}`));
}

async function start() {
  if (!(await may("submit"))) {
    byId("main").replaceChildren(h("p", { class: "notice" }, t("new.may_not")));
    return;
  }
  startSending();
  attempt(showUnfinished);
  await settings.start();
  present = new Set((await all("/v1/weights")).filter((one) => one.is_present).map((one) => one.id));
  for (const name of ["effort", "kind", "where", "people"]) {
    for (const radio of form.elements[name]) radio.addEventListener("change", choose);
  }
  form.elements.name.addEventListener("input", () => {
    idempotencyKey = freshKey(); // another name is another submission
    blame(null);
    ready();
  });
  for (const name of ["priority", "labels"]) form.elements[name].addEventListener("change", estimateSoon);
  byId("known").addEventListener("toggle", () => byId("known").open && attempt(showKnown));
  byId("known-search").addEventListener("input", () => attempt(showKnown));
  choose();
  await takeOver();
}

attempt(start);

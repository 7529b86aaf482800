// From recordings to a submitted job.

import { all, freshKey, get, retryUnreachable, post, ApiError, remove, withQuery } from "./api.js";
import { at, byId, h, keyed } from "./dom.js";
import { showFetch, startAddresses } from "./new/addresses.js";
import { Choices } from "./new/choices.js";
import { ConsentForm } from "./new/consent.js";
import { Draft } from "./new/draft.js";
import { forgetEstimate, showEstimate } from "./new/estimate.js";
import { proposedName, sameName } from "./new/names.js";
import { Needs } from "./new/needs.js";
import { admit, chosen, collected, forgetBegun, isBegun, numBegun, UploadBody, same, Sending } from "./new/sending.js";
import { loadRules, recordingsAmong } from "./new/file_rules.js";
import { waitForMarked } from "./new/recordings.js";
import { isUnderWay, showReport } from "./new/report.js";
import { Settings } from "./new/settings.js";
import { Start } from "./new/start.js";
import { attempt, confirm, may, notify } from "./shell.js";
import { about, ago, count, duration, percent, size, t } from "./words.js";

const GB = 1e9;
const form = byId("new-job");
const settings = new Settings(() => changed());
const choices = new Choices(form, settings);
const begin = new Start(form, settings, choices, () => changed());
const query = new URLSearchParams(location.search);
/** The parameter of the address that names a job, and its id: settings are taken over from it. */
const [purpose, other] = ["retry", "clone", "start"].map((name) => [name, query.get(name)]).find(([, id]) => id) ?? [null, null];
const draft = new Draft(form, settings, purpose === null ? "" : purpose === "clone" ? other : `${purpose}=${other}`);
const needs = new Needs({ ask: () => estimate(), avoid: () => { choices.select("where", "here"); changed(); } });
const consent = new ConsentForm(() => { dataset = { ...dataset, consent: consent.dataset.consent }; changed(); });
/** Whether the name was typed; else it follows the recordings. */
let isNameOwn = false;
let isValid = true;
let dataset = null;
let report = null;
let sending = null;
/** The job whose last checkpoint training continues from. */
let retryOf = null;
/** One for each submission: a double click, or a retry after a lost answer, creates no second job. */
let idempotencyKey = freshKey();

// --- recordings

async function send(chosenFiles) {
  const files = await recordingsAmong(chosenFiles);
  if (!files.length) return;
  const uploadBody = new UploadBody(files);
  const zipNames = byId("zip-names").value;
  const name = proposedName(files);
  byId("drop").hidden = true;
  byId("unfinished").hidden = true;
  byId("sending").hidden = false;
  byId("sending-name").textContent = `${name} · ${size(uploadBody.size)}`;
  byId("sending-pause").textContent = t("new.pause");
  sending = new Sending(uploadBody, { onProgress, onWait });
  sending.size = uploadBody.size;
  onProgress(0);
  try {
    const known = await alreadyThere(uploadBody, zipNames);
    if (known) attempt(() => use(known));
    else if (isBegun(uploadBody)) notify(t("new.resumed"));
    const uploadId = known || sending.isStopped ? null : await sending.run();
    if (uploadId) {
      byId("sending-state").textContent = t("new.admitting");
      const made = await admit(name, uploadId, zipNames);
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
async function alreadyThere(uploadBody, zipNames) {
  byId("sending-pause").hidden = true;
  const looked = (bytes) => { byId("sending-state").textContent = `${t("new.looking")} ${percent(bytes / uploadBody.size)}`; };
  try {
    const found = await same(uploadBody, zipNames, looked, () => !sending.isStopped);
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

/** The bytes sent so far, how fast, and how long the rest takes. */
function onProgress(bytes) {
  const share = sending.size ? bytes / sending.size : 0;
  byId("sending-bar").value = share;
  const now = performance.now();
  sending.sent = [...(sending.sent ?? []), [now, bytes]].filter(([at]) => now - at < 10_000).slice(-200);
  const [[began, before]] = sending.sent;
  const rate = now - began > 1500 ? (bytes - before) / ((now - began) / 1000) : 0;
  const pace = rate > 0 ? [`${size(rate)}/s`, about({ low: (sending.size - bytes) / rate, high: (sending.size - bytes) / rate })] : [];
  byId("sending-state").textContent = [size(bytes), percent(share), ...pace].join(" · ");
}

function onWait(isWaiting) {
  if (isWaiting) byId("sending-state").textContent = t(sending.isElsewhere ? "new.elsewhere" : "page.reconnecting");
}

/** Files that were dropped: weights that are missing, or else recordings. */
async function dropped(files) {
  const weights = await needs.among(files);
  if (weights.length) await needs.take(weights);
  const others = files.filter((one) => !weights.includes(one));
  if (others.length && !sending && !retryOf) await send(others);
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
    attempt(async () => dropped(await collected(event.dataTransfer)));
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
  window.addEventListener("beforeunload", (event) => (sending || needs.taking !== null) && event.preventDefault());
}

/** Select a dataset and wait for its report. */
async function use(found) {
  dataset = found;
  if (!isNameOwn) form.elements.name.value = found.name.replace(/[\\/]/g, " ").slice(0, 100);
  keepInAddress(found.id);
  byId("chosen").hidden = false;
  byId("chosen").replaceChildren(t("new.chosen", { name: found.name }), " ", found.derived_from && !retryOf
    ? h("button", { type: "button", onclick: () => attempt(async () => use(await get(`/v1/datasets/${found.derived_from}`))) }, t("new.put_back")) : "");
  byId("drop").classList.add("small");
  consent.show(found);
  save();
  const { id } = found;
  for (;;) {
    showFetch(dataset);
    report = await retryUnreachable(() => showReport(dataset, retryOf ? null : advices, retryOf ? null : use));
    ready();
    if (dataset?.id !== id || !isUnderWay(dataset)) break;
    await new Promise((resolve) => { setTimeout(resolve, 700); });
    if (dataset?.id !== id) return;
    const newer = await retryUnreachable(() => get(`/v1/datasets/${id}`)).catch((fault) => {
      if (dataset?.id === id) throw fault; // else it was cancelled meanwhile
    });
    if (dataset?.id !== id) return;
    dataset = newer;
  }
  await chooseForMachine(); // the worker may have come later than the page
  estimateSoon();
}

/** The download of a dataset was cancelled: other recordings can be chosen. */
function forget(id) {
  if (dataset?.id !== id) return;
  dataset = report = null;
  showFetch(null);
  for (const one of ["report", "chosen", "consent"]) byId(one).hidden = true;
  byId("drop").classList.remove("small");
  if (purpose === null) history.replaceState(history.state, "", location.pathname);
  query.delete("dataset");
  save();
  ready();
}

/** The advices of the report: a sample rate, or a voice for each folder. */
const advices = {
  isTaken: (advice) => (advice === "folders" ? form.elements.people.value === "folders" : settings.config.sample_rate === advice),
  take(advice) {
    if (advice === "folders") choices.select("people", "folders");
    else settings.set("sample_rate", advice);
    changed();
  },
};

/** A reload, or Back from another page, finds the recordings again. */
function keepInAddress(id) {
  if (purpose !== null) return; // the draft has them
  query.set("dataset", id);
  history.replaceState(history.state, "", withQuery(location.pathname, { dataset: id }));
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
  const { data: jobs } = await get(withQuery("/v1/jobs", { dataset: one.id, limit: 100 }));
  const text = jobs.length ? count("new.ask_delete.voices", jobs.length) : t("new.ask_delete");
  const question = { title: t("ask.delete.title", { name: one.name }), text, button: t("action.delete") };
  if (!(await confirm(question))) return;
  await remove(`/v1/datasets/${one.id}`);
  await showKnown();
}

// --- settings

function setChoices() {
  const { labels, priority, worker_labels: workerLabels, gpu_memory: memory } = form.elements;
  const resources = { labels: pairs(workerLabels.value) };
  if (memory.value !== "") resources.gpu_memory_bytes = Math.round(Number(memory.value) * GB);
  return { dataset_id: dataset.id, config: settings.config, ...begin.request, priority: Number(priority.value) || 0, labels: pairs(labels.value), resources, fetch_weights: true };
}

/** "team=a, take=2" as an object. */
function pairs(text) {
  return Object.fromEntries(text.split(",").map((one) => one.trim()).filter(Boolean).map((one) => {
    const [key, ...value] = one.split("=");
    return [key.trim(), value.join("=").trim()];
  }));
}

const asPairs = (labels) => Object.entries(labels).map(([key, value]) => (value ? `${key}=${value}` : key)).join(", ");

// --- estimate

let timer = null;
let asked = 0;

/** After any change: keep it, and estimate again. */
function changed() {
  begin.follow();
  begin.show();
  save();
  estimateSoon();
}

function save() {
  draft.save({ dataset: dataset?.id ?? null, isNameOwn, start: { ...begin.state, weights: choices.ownWeights } });
}

function estimateSoon() {
  idempotencyKey = freshKey(); // other settings are another submission
  clearTimeout(timer);
  timer = setTimeout(() => attempt(estimate), 350);
}

async function estimate() {
  ready();
  if (!begin.isComplete) blame(null);
  if (!dataset || dataset.status !== "ready" || !begin.isComplete) return;
  asked += 1;
  const mine = asked;
  const name = form.elements.name.value.trim();
  try {
    const found = await post("/v1/jobs:estimate", { ...setChoices(), ...(name ? { name } : {}) });
    if (mine !== asked) return;
    isValid = true;
    blame(null);
    showEstimate(found, { config: settings.config, known: new Set(report?.warnings), hurry: retryOf ? null : () => { choices.select("effort", "try"); changed(); } }); // more epochs are chosen by number
    await needs.show(found.missing_weights);
    showSubmit();
    await showSameName(name);
  } catch (fault) {
    if (!(fault instanceof ApiError)) throw fault;
    if (mine !== asked) return;
    isValid = false;
    forgetEstimate();
    blame(fault);
  }
  ready();
}

async function showSameName(name) {
  const text = retryOf ? null : await sameName(name, dataset.id, settings);
  byId("same-name").hidden = !text;
  byId("same-name").textContent = text ?? "";
}

/** The button's label: with what it downloads first. */
function showSubmit() {
  const [plain, download] = retryOf ? ["new.train_on", "new.train_on.download"] : ["new.submit", "new.submit.download"];
  byId("submit").textContent = t(needs.missing.length ? download : plain);
}

/** Show a fault beside its field, and above the button a way there; null: there is none. */
function blame(fault) {
  const errors = fault?.problem.errors ?? [];
  const rest = settings.blame(begin.blame(errors));
  const isStart = !byId("start-fault").hidden;
  const isName = rest.find((error) => error.pointer === "/name");
  byId("name-fault").hidden = !isName;
  byId("name-fault").textContent = isName?.detail ?? "";
  form.elements.name.setAttribute("aria-invalid", String(Boolean(isName)));
  const field = fault && (isName ? form.elements.name : isStart ? byId("choice-start").querySelector("input:checked") : byId("settings").querySelector(".fault:not([hidden])")?.closest("label").querySelector("input, select"));
  const words = fault && !field ? rest.map((error) => error.detail).join(" ") || fault.message : "";
  byId("fault").hidden = !fault;
  byId("fault").replaceChildren(...(field
    ? [t("new.faulty"), h("button", { type: "button", onclick: () => show(field) }, t("new.faulty.show"))]
    : [words]));
  return field;
}

function show(field) {
  field.scrollIntoView({ block: "center" });
  field.focus();
}

function ready() {
  byId("name-hint").hidden = !/[^\x00-\x7f]/.test(form.elements.name.value);
  const hasAll = dataset?.status === "ready" && form.elements.name.value.trim() !== "";
  const isReady = hasAll && begin.isComplete;
  byId("submit").disabled = !isReady || !isValid;
  byId("submit-help").hidden = isReady;
  const isConsentMissing = isReady && consent.isMissing;
  if (isConsentMissing) {
    byId("submit").disabled = true;
    byId("submit-help").hidden = false;
  }
  const missing = isConsentMissing ? "consent" : dataset && isUnderWay(dataset) ? "wait" : hasAll ? "start" : "help";
  byId("submit-help").textContent = t(`new.submit_${missing}`);
  if (isReady && !isConsentMissing) waitForMarked();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (byId("submit").disabled) return;
  byId("submit").disabled = true;
  try {
    const made = retryOf
      ? await post(`/v1/jobs/${retryOf.id}/retry`, { config: settings.changedFrom(retryOf.config), fetch_weights: true }, { "Idempotency-Key": idempotencyKey })
      : await post("/v1/jobs", { name: form.elements.name.value.trim(), ...setChoices() }, { "Idempotency-Key": idempotencyKey });
    draft.close();
    location.assign(at(`/jobs/${made.id}`));
  } catch (fault) {
    byId("submit").disabled = false;
    if (fault instanceof ApiError) {
      const field = blame(fault);
      if (field) show(field);
    } else notify(fault.message, { bad: true });
  }
});

window.addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  draft.isClosed = false; // Back after a submission: the next one is another job
  estimateSoon();
});

/**
 * `?clone=` copies a job's settings, `?retry=` also continues from its checkpoint, `?start=` begins with its last save and other
 * recordings, `?dataset=` selects recordings only.
 */
async function takeOver() {
  if (purpose === null) return;
  const job = await get(`/v1/jobs/${encodeURIComponent(other)}`);
  isEffortOpen = false;
  form.elements.name.value = job.name;
  isNameOwn = true;
  form.elements.priority.value = job.priority;
  form.elements.labels.value = asPairs(job.labels);
  form.elements.worker_labels.value = asPairs(job.resources.labels);
  if (job.resources.gpus > 0 && job.resources.gpu_memory_bytes) form.elements.gpu_memory.value = job.resources.gpu_memory_bytes / GB;
  begin.take(job.config);
  choices.take(job.config);
  if (purpose === "start") begin.fromJob(job.id);
  else if (job.start_from && purpose === "clone") begin.fromJob(job.start_from.job_id, job.start_from.save);
  if (purpose === "retry") {
    retryOf = job;
    choices.goOnFrom(job);
    for (const name of ["name", "priority", "labels", "gpu_memory", "worker_labels"]) form.elements[name].disabled = true; // a retry keeps them
    for (const id of ["drop", "zip-names-choice", "addresses", "known", "unfinished"]) byId(id).hidden = true;
  }
  settings.take(job.config, choices.governed);
  byId("about").hidden = false;
  byId("about").textContent = t(`new.about_${purpose}`, { name: job.name });
  showSubmit();
  if (purpose !== "start") await useIfThere(job.dataset_id, job);
}

/** Select recordings, if they have not been deleted. `job`: the one that was made from them. */
async function useIfThere(id, job = null) {
  try {
    if (!job?.dataset_deleted) {
      await use(await get(`/v1/datasets/${encodeURIComponent(id)}`));
      return;
    }
  } catch (fault) {
    if (!(fault instanceof ApiError) || fault.status !== 404) throw fault;
  }
  byId("about").hidden = false;
  byId("about").replaceChildren(t(retryOf ? "new.gone_retry" : "new.gone"), " ",
    retryOf ? h("a", { href: withQuery("/new", { clone: job.id }) }, t("action.clone")) : "");
}

/** Put back what was typed and chosen in this tab before. */
async function restore() {
  const { stored } = draft;
  if (draft.restore()) {
    isEffortOpen = false;
    isNameOwn = retryOf !== null || Boolean(stored.isNameOwn);
    const { weights = null, job = null, save: number = null } = stored.start ?? {};
    choices.ownWeights = weights;
    begin.state = { job, save: number };
    byId("start-over").hidden = false;
    choices.show();
  }
  const id = query.get("dataset") ?? stored?.dataset;
  if (id && id !== dataset?.id) await useIfThere(id);
}

/** Whether the amount of training is still the default: no worker was there yet to fit it to, and nobody chose one. */
let isEffortOpen = true;

/** Without a GPU hours become days: a quick try is the choice that fits. */
async function chooseForMachine() {
  if (!isEffortOpen) return;
  const workers = (await all("/v1/workers")).filter((one) => ["idle", "busy"].includes(one.status));
  isEffortOpen = workers.length === 0;
  if (isEffortOpen || workers.some((one) => one.device.startsWith("cuda"))) return;
  form.elements.effort.value = "try";
  choices.show();
}

async function start() {
  if (!(await may("submit"))) {
    byId("main").replaceChildren(h("p", { class: "notice" }, t("new.may_not")));
    return;
  }
  startSending();
  startAddresses(use, forget);
  attempt(loadRules);
  await consent.start();
  attempt(showUnfinished);
  await settings.start();
  choices.present = new Set((await all("/v1/weights")).filter((one) => one.is_present).map((one) => one.id));
  choices.show();
  await chooseForMachine();
  form.addEventListener("change", ({ target }) => {
    if (target.name === "effort") isEffortOpen = false;
    changed();
  });
  form.elements.name.addEventListener("input", () => {
    isNameOwn = form.elements.name.value !== "";
    changed();
  });
  form.elements.more.addEventListener("input", () => changed());
  byId("start-over").addEventListener("click", () => {
    draft.close();
    location.assign(purpose === null ? at("/new") : location.href);
  });
  byId("leave-out").addEventListener("change", ready);
  byId("known").addEventListener("toggle", () => byId("known").open && attempt(showKnown));
  byId("known-search").addEventListener("input", () => attempt(showKnown));
  await takeOver();
  await restore();
  await begin.load();
}

attempt(start);

// The list of voices, updated without a reload: one line for each, with its newest job. The other filters list jobs, which are versions.

import { all, get, repeat, withQuery } from "./api.js";
import { OVER, isOver, showActions, statusOf } from "./actions.js";
import { Bulk } from "./bulk.js";
import { at, byId, h, keyed, setText } from "./dom.js";
import { listenButton } from "./listening.js";
import { QueueOrder } from "./queue_order.js";
import { may } from "./shell.js";
import { startTakingIn } from "./take_in.js";
import { factsOf, pageOf, VoiceInfos } from "./voice_infos.js";
import { ago, count, duration, figure, has, number, percent, size, span, t } from "./words.js";

const RUNNING = ["running", "pausing", "cancelling"];
const WAITING = ["validating", "paused"];
const GROUPS = {
  all: [...RUNNING, "queued", ...WAITING, ...OVER],
  active: [...RUNNING, "queued", ...WAITING],
  ready: ["succeeded"],
  failed: ["failed"],
  cancelled: ["cancelled"],
};
const PAGE = 25;
const LABEL = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$/;
const form = byId("filters");
const list = byId("voices");
let shown = PAGE;
let jobs = [];
let mayChange = false;
const infos = new VoiceInfos();

const bulk = new Bulk(() => jobs, () => renew());
const order = new QueueOrder(list, () => jobs.filter((job) => job.status === "queued"), () => ticking.again());

// --- the filter, which the address keeps

for (const [name, value] of new URLSearchParams(location.search)) {
  if (name === "group" && !(value in GROUPS)) continue;
  if (["group", "search", "label"].includes(name)) form.elements[name].value = value;
}

function keepFilter() {
  const kept = Object.fromEntries(new FormData(form));
  if (kept.group === "all") kept.group = "";
  history.replaceState(null, "", withQuery(location.pathname, kept));
}

/** Whether the label can be asked for; else the page says what a label is. */
const isLabelRight = () => LABEL.test(form.elements.label.value.trim().split("=")[0] || "any");

const isFiltered = () => Boolean(form.elements.search.value.trim() || form.elements.label.value.trim());

/** The filter as the API has it: a label without a value is a keyword. */
function query() {
  const [key, ...value] = form.elements.label.value.trim().split("=");
  const label = key ? `&label.${encodeURIComponent(key)}=${encodeURIComponent(value.join("="))}` : "";
  return (more) => `${withQuery("/v1/jobs", { search: form.elements.search.value.trim(), limit: 1, ...more })}${label}`;
}

/** Up to `most` jobs of a list that `isWanted`. */
async function pages(address, words, most, isWanted) {
  const found = [];
  let after = null;
  do {
    const page = await get(address({ ...words, limit: Math.min(100, Math.max(1, most - found.length)), after }));
    found.push(...page.data.filter(isWanted));
    after = page.has_more ? page.next_cursor : null;
  } while (after && found.length < most);
  return { found: found.slice(0, most), hasMore: after !== null || found.length > most };
}

/** Running jobs, queued ones in their order, others that wait, and those that have ended, newest first; for all, one of each voice. */
async function load() {
  byId("label-fault").hidden = isLabelRight();
  if (!isLabelRight()) return;
  mayChange = await may("submit");
  const statuses = GROUPS[form.elements.group.value];
  const address = query();
  const wanted = [
    { status: RUNNING }, { status: ["queued"], sort: "queue" }, { status: WAITING }, { status: OVER },
  ].map((words) => ({ ...words, status: words.status.filter((one) => statuses.includes(one)) })).filter((words) => words.status.length);
  const isByVoice = form.elements.group.value === "all";
  const seen = new Set(); // one may have moved on between two requests
  const isNew = (job) => {
    const key = isByVoice ? JSON.stringify([job.owner, job.name]) : job.id;
    return !seen.has(key) && seen.add(key);
  };
  const found = [];
  let hasMore = false;
  for (const { status, sort } of wanted) {
    const part = await pages(address, { sort, status: sort ? null : status }, shown - found.length, isNew);
    found.push(...part.found);
    hasMore = part.hasMore;
    if (found.length >= shown && hasMore) break;
  }
  if (isByVoice) await infos.load(found);
  jobs = found.map((job) => ({ ...job, voice: isByVoice ? infos.of(job) : null }));
  show(hasMore);
}

let counts = {};
/** True numbers of all jobs that match, however many are shown. */
async function loadCounts() {
  if (!isLabelRight()) return;
  ({ counts } = await get(query()({ counts: true })));
  for (const [group, statuses] of Object.entries(GROUPS)) {
    setText(byId(`count-${group}`), number(statuses.reduce((sum, status) => sum + (counts[status] ?? 0), 0)));
  }
  summarize();
}

function summarize() {
  const sum = (statuses) => statuses.reduce((total, status) => total + (counts[status] ?? 0), 0);
  const parts = [count("voices.count", sum(GROUPS.all)), count("voices.running", sum(RUNNING)), count("voices.waiting", sum(["queued", ...WAITING]))];
  setText(byId("summary"), jobs.length === 0 && form.elements.group.value + isFiltered() !== "allfalse" ? t("voices.none") : parts.join(" · "));
}

function show(hasMore) {
  keyed(list, jobs, (job) => job.id, make, update);
  list.setAttribute("aria-busy", "false");
  byId("more").hidden = !hasMore;
  byId("empty").hidden = jobs.length > 0 || isFiltered() || form.elements.group.value !== "all";
  form.hidden = !byId("empty").hidden;
  byId("summary").hidden = !byId("empty").hidden;
  summarize();
  bulk.show();
}

function make(job) {
  return h("li", { class: "voice" },
    h("h2", {}, mayChange && bulk.box(job), h("a", {}, job.name), h("span", { class: "pill" })),
    h("div", { class: "actions" }),
    h("div", { class: "facts-line" }),
    h("p", { class: "notes", hidden: true }),
    h("p", { class: "why", hidden: true }),
    h("progress", { max: 1, value: 0, "aria-label": t("job.progress") }));
}

function update(item, job) {
  const pill = item.querySelector(".pill");
  pill.className = `pill ${job.status}`;
  setText(pill, statusOf(job));
  if (mayChange) item.querySelector(".pick").checked = bulk.chosen.has(job.id);
  item.draggable = mayChange && job.status === "queued" && !isFiltered();
  const moves = item.querySelector(".moves");
  if (item.draggable && !moves) item.querySelector("h2").append(order.buttons(job));
  else if (!item.draggable) moves?.remove();
  const { voice } = job;
  item.querySelector("h2 a").href = at(voice ? pageOf(voice) : `/jobs/${job.id}`);
  item.version = voice?.current;
  const listen = item.querySelector(".listen");
  if (voice?.current && !listen) pill.before(listenButton(job.name, () => item.version));
  else if (!voice?.current) listen?.remove();
  const labelled = { ...voice?.labels, ...job.labels };
  const labels = Object.entries(labelled).map(([key, value]) => h("span", { class: "tag" }, value ? `${key}=${value}` : key));
  const line = item.querySelector(".facts-line");
  const facts = [...(voice ? factsOf(voice, job) : []), ...describe(job)];
  const present = JSON.stringify([facts.map((fact) => fact.textContent ?? fact), labelled]);
  if (line.dataset.present !== present) {
    line.dataset.present = present;
    line.replaceChildren(...facts.map((fact) => h("span", {}, fact)), ...labels);
  }
  const notes = item.querySelector(".notes");
  notes.hidden = !voice?.notes;
  setText(notes, voice?.notes ?? "");
  const why = item.querySelector(".why");
  why.hidden = !job.error;
  setText(why, job.error ? whyOf(job.error) : "");
  const bar = item.querySelector("progress");
  bar.hidden = isOver(job) || isWaiting(job) || job.status === "queued" || (job.status === "validating" && job.weights_progress === null);
  bar.value = job.weights_progress ?? job.progress;
  showActions(item.querySelector(".actions"), job, () => renew());
}

/** Whether the job was paused before it began. */
const isWaiting = (job) => job.status === "paused" && !job.stage;

/** A row's text about a job, by its status. */
function describe(job) {
  if (job.status === "queued") {
    const facts = job.queue_position ? [t("voices.position", { n: job.queue_position })] : [];
    facts.push(...job.lacking);
    if (job.starts_in) facts.push(t("voices.starts_in", { time: span(job.starts_in) }));
    return [...facts, t("voices.submitted", { time: ago(job.created_at) })];
  }
  if (isOver(job)) {
    const facts = [t("voices.ended", { time: ago(job.finished_at) })];
    if (job.epoch) facts.push(epochOf(job));
    if (job.losses["loss/mel"] != null) facts.push(`mel ${figure(job.losses["loss/mel"])}`);
    if (job.disk_bytes) facts.push(t("voices.disk", { size: size(job.disk_bytes) }));
    return facts;
  }
  if (job.weights_progress !== null) return [percent(job.weights_progress), t("voices.submitted", { time: ago(job.created_at) })];
  const facts = [job.stage ? `${t(`stage.${job.stage}`)} ${percent(job.progress)}` : t(isWaiting(job) ? "voices.submitted" : "voices.preparing", { time: ago(job.created_at) })];
  if (job.stage === "train" && job.epoch) facts.push(epochOf(job));
  if (job.eta_seconds != null && job.status === "running") facts.push(t("voices.left", { time: duration(job.eta_seconds) }));
  if (job.losses["loss/mel"] != null) facts.push(`mel ${figure(job.losses["loss/mel"])}`);
  if (job.worker_id && workers.has(job.worker_id)) facts.push(t("voices.on", { worker: workers.get(job.worker_id) }));
  return facts;
}

/** Why a job failed: first in a few words, as a narrow screen shows no more. */
const whyOf = ({ code, message }) => (has(`failure.${code}`) ? t("page.pair", { name: t(`failure.${code}`), value: message }) : message);

/** How far training is: where it ends before the last epoch, by time or by itself, without their number. */
const epochOf = (job) => (job.config.max_train_seconds == null && job.config.total_epochs !== "auto" ? t("voices.epoch", { epoch: job.epoch, total: job.total_epochs }) : count("job.epochs", job.epoch));

const workers = new Map();
async function loadWorkers() {
  for (const worker of await all("/v1/workers")) workers.set(worker.id, worker.name);
}

/** Load the list and its numbers at once. */
function renew() {
  ticking.again();
  counting.again();
}

form.addEventListener("input", () => {
  shown = PAGE;
  keepFilter();
  renew();
});
form.addEventListener("submit", (event) => event.preventDefault());
byId("more").addEventListener("click", () => {
  shown += 50;
  ticking.again();
});
startTakingIn();
repeat(loadWorkers, () => 30);
const counting = repeat(loadCounts, () => 10);
const ticking = repeat(load, () => (jobs.some((job) => !isOver(job)) ? 2 : 10));

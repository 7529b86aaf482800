// The list of voices, updated without a reload.

import { all, get, repeat, withQuery } from "./api.js";
import { isOver, showActions, statusOf } from "./actions.js";
import { byId, h, keyed, setText } from "./dom.js";
import "./shell.js";
import { ago, count, duration, figure, percent, span, t } from "./words.js";

const GROUPS = {
  all: [],
  active: ["validating", "queued", "running", "pausing", "paused", "cancelling"],
  ready: ["succeeded"],
  failed: ["failed", "cancelled"],
};
const PAGE = 25;
const form = byId("filters");
const list = byId("voices");
let shown = PAGE;
let jobs = [];

function query() {
  const words = { status: GROUPS[form.elements.group.value], search: form.elements.search.value.trim() };
  const [key, ...value] = form.elements.label.value.trim().split("=");
  if (key && value.length) words[`label.${key}`] = value.join("=");
  return words;
}

async function load() {
  const words = query();
  const found = [];
  let after = null;
  let hasMore = true;
  while (hasMore && found.length < shown) {
    const limit = Math.min(100, shown - found.length);
    const page = await get(withQuery("/v1/jobs", { ...words, limit, after }));
    found.push(...page.data);
    [after, hasMore] = [page.next_cursor, page.has_more];
  }
  jobs = found;
  show(hasMore);
}

function show(hasMore) {
  keyed(list, jobs, (job) => job.id, make, update);
  list.setAttribute("aria-busy", "false");
  byId("more").hidden = !hasMore;
  const isFiltered = form.elements.group.value !== "all" || form.elements.search.value || form.elements.label.value;
  byId("empty").hidden = jobs.length > 0 || Boolean(isFiltered);
  form.hidden = !byId("empty").hidden;
  const working = jobs.filter((job) => !isOver(job)).length;
  const total = count("voices.count", jobs.length) + (hasMore ? "+" : "");
  setText(byId("summary"), jobs.length === 0 && isFiltered ? t("voices.none") : `${total} · ${count("voices.working", working)}`);
  byId("summary").hidden = !byId("empty").hidden;
}

function make(job) {
  return h("li", { class: "voice" },
    h("h2", {}, h("a", { href: `/jobs/${job.id}` }, job.name), h("span", { class: "pill" })),
    h("div", { class: "actions" }),
    h("div", { class: "facts-line" }),
    h("p", { class: "why", hidden: true }),
    h("progress", { max: 1, value: 0, "aria-label": t("job.progress") }));
}

function update(item, job) {
  const pill = item.querySelector(".pill");
  pill.className = `pill ${job.status}`;
  setText(pill, statusOf(job));
  const labels = Object.entries(job.labels).map(([key, value]) => h("span", { class: "tag" }, value ? `${key}=${value}` : key));
  const line = item.querySelector(".facts-line");
  const facts = describe(job);
  const present = JSON.stringify([facts, job.labels]);
  if (line.dataset.present !== present) {
    line.dataset.present = present;
    line.replaceChildren(...facts.map((fact) => h("span", {}, fact)), ...labels);
  }
  const why = item.querySelector(".why");
  why.hidden = !job.error;
  setText(why, job.error?.message ?? "");
  const bar = item.querySelector("progress");
  bar.hidden = isOver(job) || isWaiting(job) || job.status === "queued" || (job.status === "validating" && job.weights_progress === null);
  bar.value = job.weights_progress ?? job.progress;
  showActions(item.querySelector(".actions"), job, () => ticking.again());
}

/** Whether the job was paused before it began. */
const isWaiting = (job) => job.status === "paused" && !job.stage;

/** A row's text about a job, by its status. */
function describe(job) {
  if (job.status === "queued") {
    const facts = job.queue_position ? [t("voices.position", { n: job.queue_position })] : [];
    if (job.starts_in) facts.push(t("voices.starts_in", { time: span(job.starts_in) }));
    return [...facts, t("voices.submitted", { time: ago(job.created_at) })];
  }
  if (isOver(job)) {
    const facts = [t("voices.ended", { time: ago(job.finished_at) })];
    if (job.epoch) facts.push(t("voices.epoch", { epoch: job.epoch, total: job.total_epochs }));
    if (job.losses["loss/mel"] != null) facts.push(`mel ${figure(job.losses["loss/mel"])}`);
    return facts;
  }
  if (job.weights_progress !== null) return [percent(job.weights_progress), t("voices.submitted", { time: ago(job.created_at) })];
  const facts = [job.stage ? `${t(`stage.${job.stage}`)} ${percent(job.progress)}` : t(isWaiting(job) ? "voices.submitted" : "voices.preparing", { time: ago(job.created_at) })];
  if (job.stage === "train" && job.epoch) facts.push(t("voices.epoch", { epoch: job.epoch, total: job.total_epochs }));
  if (job.eta_seconds != null && job.status === "running") facts.push(t("voices.left", { time: duration(job.eta_seconds) }));
  if (job.losses["loss/mel"] != null) facts.push(`mel ${figure(job.losses["loss/mel"])}`);
  if (job.worker_id && workers.has(job.worker_id)) facts.push(t("voices.on", { worker: workers.get(job.worker_id) }));
  return facts;
}

const workers = new Map();
async function loadWorkers() {
  for (const worker of await all("/v1/workers")) workers.set(worker.id, worker.name);
}

form.addEventListener("input", () => {
  shown = PAGE;
  ticking.again();
});
form.addEventListener("submit", (event) => event.preventDefault());
byId("more").addEventListener("click", () => {
  shown += 50;
  ticking.again();
});
repeat(loadWorkers, () => 30);
const ticking = repeat(load, () => (jobs.some((job) => !isOver(job)) ? 2 : 10));

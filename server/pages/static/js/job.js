// One job: progress, curves, saves, log.

import { get, later, repeat, retryUnreachable, withQuery, ApiError } from "./api.js";
import { isOver, showActions, statusOf } from "./actions.js";
import { Compared } from "./compare.js";
import { at, byId, h, keyed, root, setText } from "./dom.js";
import { endText, eventText } from "./events.js";
import { loadFiles } from "./files.js";
import { labelOf, wordOf } from "./new/settings.js";
import { Log } from "./log.js";
import { Saves } from "./saves.js";
import { attempt, me } from "./shell.js";
import { showInTab, startTab } from "./tab.js";
import { tryPanel } from "./try.js";
import { ago, count, duration, figure, has, number, percent, size, span, stepTime, t, when } from "./words.js";

const id = decodeURIComponent(location.pathname.slice(root.length).split("/")[2] ?? "");
const base = `/v1/jobs/${id}`;
const STAGES = ["slice", "pitch", "content", "train", "index", "export"];
/** All types but those of each step: `progress` and `metric`. */
const NOTABLE = [
  "created", "validated", "queued", "started", "stage_changed", "warning", "checkpoint_saved", "evaluated", "training_ended", "quality_scored", "preview_ready",
  "artifact_published", "pause_requested", "paused", "resumed", "cancel_requested", "retrying", "worker_lost", "succeeded",
  "failed", "cancelled",
];
let job = null;
let curves = null;
let trying = null;
const compared = new Compared(() => job, () => {
  curves?.renew();
  saves.renew();
});
const saves = new Saves(base, () => compared.others);
const log = new Log(base, {
  frame: byId("log"), state: byId("log-state"), search: byId("log-search"), next: byId("log-next"),
  previous: byId("log-previous"), follow: byId("log-follow"),
});
let events = [];
let shownEvents = 60;
/** Number of the newest event that was asked for. */
let seen = 0;

// --- the job itself

async function load() {
  try {
    job = await get(base);
  } catch (fault) {
    if (!(fault instanceof ApiError) || fault.status !== 404) throw fault;
    byId("main").replaceChildren(h("p", { class: "notice" }, t("job.missing")), h("a", { href: "/" }, t("voices.title")));
    job = { status: "failed", last_event_seq: 0, isMissing: true };
    return;
  }
  showInTab(job);
  setText(byId("name"), job.name);
  showVoice();
  const pill = byId("status");
  pill.className = `pill ${job.status}`;
  setText(pill, statusOf(job));
  showActions(byId("actions"), job, () => ticking.again());
  showFailure();
  showProgress();
  showSections();
  trying ??= tryPanel(byId("try-section"), job);
  trying.update(job);
  attempt(showConfig);
  curves?.mayLoad(job.last_event_seq);
  if (job.last_event_seq > seen) await loadEvents();
}

/** The way back to the voice that this job is a version of. */
async function showVoice() {
  const owner = job.owner === (await me).owner ? null : job.owner;
  byId("voice").href = at(withQuery(`/voices/${encodeURIComponent(job.name)}`, { owner }));
  setText(byId("voice"), job.name);
  byId("voice").hidden = false;
}

function showFailure() {
  byId("failure").hidden = !job.error;
  if (job.error) {
    const { code, message } = job.error;
    setText(byId("failure-title"), has(`failure.${code}`) ? t("job.failed_by", { what: t(`failure.${code}`) }) : t("job.failed"));
    setText(byId("failure-message"), message);
    setText(byId("failure-advice"), has(`advice.${code}`) ? t(`advice.${code}`) : code);
    byId("failure-weights").hidden = code !== "missing_weights";
  }
  const end = job.status === "succeeded" ? job.training_end : null;
  const isShort = job.status === "succeeded" && job.config.max_train_seconds != null && job.step < job.total_steps;
  byId("timed").hidden = !isShort && !end;
  setText(byId("timed"), end ? endText(end) : isShort ? t("job.timed", { time: duration(job.config.max_train_seconds), epochs: count("job.epochs", job.epoch) }) : "");
  byId("recordings-deleted").hidden = !job.dataset_deleted || !isOver(job);
  byId("notice").hidden = !job.content_notice || ["failed", "cancelled"].includes(job.status);
  const isOwn = job.config.content === "whisper-tiny" || job.config.content === "local"; // for SPIN the server has a longer warning
  setText(byId("notice"), isOwn ? t("job.content_notice", { encoder: job.config.content }) : job.content_notice ?? "");
}

function showProgress() {
  const bar = byId("bar");
  bar.value = job.weights_progress ?? job.progress;
  bar.classList.toggle("done", job.status === "succeeded");
  bar.classList.toggle("ended", ["failed", "cancelled", "paused"].includes(job.status));
  setText(byId("percent"), percent(job.weights_progress ?? job.progress, 1));
  const facts = describe().filter(([, value]) => value != null && value !== "");
  keyed(byId("facts"), facts, ([key]) => key,
    ([key]) => h("div", {}, h("dt", {}, t(`job.fact.${key}`)), h("dd")),
    (item, [, value]) => {
      const place = item.lastElementChild;
      if (value instanceof Element) place.replaceChildren(value);
      else setText(place, value);
    });
}

/** Sections without content are left out: of a job that never began, say. */
function showSections() {
  const isUnderWay = !isOver(job) && Boolean(job.stage);
  byId("curves-section").hidden = !job.step && !isUnderWay && compared.others.length === 0;
  byId("saves-section").hidden = saves.count === 0 && !isUnderWay;
  byId("log-section").hidden = isOver(job) && log.isComplete && log.lines.length === 0;
}

/** How often the job was tried again, after failures only: not after pauses, restarts and lost workers. */
const numRetries = () => Math.max(0, job.failures - (job.status === "failed" ? 1 : 0));

/** Whether training ends by itself, at an epoch that is not known beforehand. */
const isAuto = () => job.config.total_epochs === "auto";

/** The steps that the charts of scores mark. */
const markedSteps = () => [
  [saves.saves.find((one) => one.is_best)?.step, "best"],
  [job.training_end?.step, "end"],
].filter(([step]) => step != null).map(([step, name]) => ({ step, name, text: t(`job.mark.${name}`) }));

/** The main facts, by the job's status. */
function describe() {
  const of = (n, total) => t("job.fact.of", { n: number(n), total: number(total) });
  const isRunning = job.status === "running";
  const isTimed = job.config.max_train_seconds != null || isAuto(); // it will hardly reach its last epoch
  return [
    ["queue", job.queue_position && t("voices.position", { n: job.queue_position })],
    ["lacking", job.lacking.join("; ")],
    ["now", isRunning && !job.stage ? t("job.starting") : null],
    ["starts", job.starts_in && span(job.starts_in)],
    ["ends", isRunning && isAuto() ? t("job.ends_by_itself", { n: number(job.config.max_epochs) }) : null],
    ["left", isRunning && job.eta_seconds != null ? duration(job.eta_seconds) : null],
    ["epoch", job.epoch && (isTimed ? number(job.epoch) : of(job.epoch, job.total_epochs))],
    ["step", job.step && (job.total_steps && !isTimed ? of(job.step, job.total_steps) : number(job.step))],
    ["speed", job.step_seconds && t("job.fact.step_seconds", { time: stepTime(job.step_seconds) })],
    ["samples", isRunning && job.losses["speed/clips_per_second"] ? figure(job.losses["speed/clips_per_second"]) : null],
    ["tried", numRetries() ? count("job.tried_again", numRetries()) : null],
    ["took", job.finished_at && job.started_at ? duration((new Date(job.finished_at) - new Date(job.started_at)) / 1000) : null],
    ["disk", job.disk_bytes ? size(job.disk_bytes) : null],
    ["submitted", ago(job.created_at)],
    [job.retry_from === "start" ? "repeats" : "from", job.retry_of ? linkTo(job.retry_of, relatives.get(job.retry_of)) : null],
    ["retried", retriedAs.length ? h("span", {}, retriedAs.map((one) => linkTo(one.id, `${one.name}, ${ago(one.created_at)}`))) : null],
    ["labels", Object.entries(job.labels).map(([key, value]) => (value ? `${key}=${value}` : key)).join(", ")],
  ];
}

const relatives = new Map();
let retriedAs = [];
const linkTo = (other, name) => h("a", { href: `/jobs/${other}` }, name ?? t("job.another"));

/** The jobs that this one continues, and those that continue it. */
async function loadRelatives() {
  const page = await get(withQuery("/v1/jobs", { dataset: job.dataset_id, limit: 100 }));
  retriedAs = page.data.filter((one) => one.retry_of === id);
  for (const one of page.data) relatives.set(one.id, `${one.name}, ${ago(one.created_at)}`);
  showProgress();
}

/** The settings in words: those that differ from the defaults, and below them the others. */
async function showConfig() {
  const text = JSON.stringify(job.config, null, 2);
  if (byId("config").dataset.text === text) return;
  byId("config").dataset.text = text;
  const link = byId("config-file");
  if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([`${text}\n`], { type: "application/json" }));
  link.download = `${job.name}.json`;
  const properties = (await retryUnreachable(() => get("/v1/config-schema"))).properties ?? {};
  const isOwn = ([key, value]) => !(key in properties) || JSON.stringify(properties[key].default ?? null) !== JSON.stringify(value);
  const all = Object.entries(job.config);
  const line = ([key, value]) => h("div", {}, h("dt", { title: key }, labelOf(key)), h("dd", {}, wordOf(key, value)));
  byId("config").replaceChildren(...all.filter(isOwn).map(line));
  byId("usual").replaceChildren(...all.filter((one) => !isOwn(one)).map(line));
  byId("config-usual").hidden = byId("usual").children.length === 0;
}

// --- events

/** The events since the last look, and what they are about. */
async function loadEvents() {
  const first = events.length;
  let page;
  do {
    page = await get(withQuery(`${base}/events`, { type: NOTABLE, after: seen, limit: 1000 }));
    events.push(...page.data);
    seen = page.data.at(-1)?.seq ?? seen;
  } while (page.has_more);
  seen = Math.max(seen, page.last_seq);
  if (events.length === first) return;
  showEvents();
  showStages();
  const types = new Set(events.slice(first).map((event) => event.type));
  if (first === 0 || types.has("artifact_published")) attempt(() => retryUnreachable(() => loadFiles(base, isAuto())));
  const scored = ["evaluated", "quality_scored", "training_ended", "preview_ready"];
  if (first === 0 || scored.some((type) => types.has(type))) attempt(() => retryUnreachable(async () => {
    await saves.load();
    showSections();
    curves?.mark(markedSteps());
  }));
}

function showEvents() {
  const newest = events.slice(-shownEvents).reverse();
  keyed(byId("events"), newest, (event) => event.seq, (event) =>
    h("li", { class: event.level, value: event.seq },
      h("time", { datetime: event.created_at, title: when(event.created_at) }, when(event.created_at)),
      h("span", { title: event.message }, eventText(event))), () => {});
  byId("more-events").hidden = events.length <= shownEvents;
}

function showStages() {
  const at = {};
  for (const { type, data } of events) {
    if (type === "started") for (const stage of STAGES) if (at[stage]?.state === "started") delete at[stage];
    if (type === "stage_changed") at[data.stage] = data;
  }
  keyed(byId("stages"), STAGES, (stage) => stage,
    (stage) => h("li", {}, t(`stage.${stage}`), h("small")),
    (item, stage) => {
      const { state = "waiting", seconds } = at[stage] ?? {};
      const isNow = state === "started" && job && !isOver(job);
      item.className = isNow ? "now" : { finished: "done", skipped: "done skipped" }[state] ?? "";
      if (isNow) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
      const words = { finished: seconds != null ? duration(seconds) : "", skipped: t("job.stage.skipped") };
      setText(item.lastElementChild, words[state] ?? t(isNow ? "job.stage.now" : "job.stage.waiting"));
    });
}

byId("more-events").addEventListener("click", () => {
  shownEvents += 200;
  showEvents();
});

// --- the page

/** The charts, whose library is half of all scripts, and the comparison: after the rest. */
async function startCurves() {
  const { default: uPlot } = await later(import.meta.resolve("../vendor/uplot/uPlot.esm.js"));
  const { Curves } = await later(import.meta.resolve("./curves.js"));
  curves = new Curves(uPlot, () => compared.jobs, byId("curves"), byId("zoom-out"));
  curves.start(byId("smoothing"));
  curves.mark(markedSteps());
  attempt(() => retryUnreachable(loadRelatives));
  await compared.start();
}

/** Seconds between two looks: while the page is hidden, for its title and the notification at the end. */
const HIDDEN_SECONDS = 30;

const ticking = repeat(async () => {
  await load();
  if (job.isMissing) return;
  log.start(() => isOver(job));
  if (curves === null) await startCurves();
}, () => (job?.isMissing ? Infinity : !job || isOver(job) ? 15 : 2), () => (!job || isOver(job) ? Infinity : HIDDEN_SECONDS));

startTab();
byId("log-file").href = at(`${base}/logs`);
byId("log-file").download = `${id}.log`;

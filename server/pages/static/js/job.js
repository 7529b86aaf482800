// One job: progress, curves, saves, log.

import { all, get, retryUnreachable, repeat, withQuery, ApiError } from "./api.js";
import { isOver, showActions, statusOf } from "./actions.js";
import { Curves } from "./curves.js";
import { at, byId, h, keyed, root, setText } from "./dom.js";
import { follow } from "./live.js";
import { Log } from "./log.js";
import { Saves } from "./saves.js";
import { attempt, copy, notify } from "./shell.js";
import { ago, duration, figure, has, number, percent, size, span, t, when } from "./words.js";

const id = decodeURIComponent(location.pathname.slice(root.length).split("/")[2] ?? "");
const base = `/v1/jobs/${id}`;
const STAGES = ["slice", "pitch", "content", "train", "index", "export"];
const NOISE = ["progress", "metric"];
const NOTABLE = [
  "created", "validated", "queued", "started", "stage_changed", "warning", "checkpoint_saved", "evaluated", "preview_ready",
  "artifact_published", "pause_requested", "paused", "resumed", "cancel_requested", "retrying", "worker_lost", "succeeded",
  "failed", "cancelled",
];
const curves = new Curves(id, byId("curves"), byId("zoom-out"));
const saves = new Saves(base);
let job = null;
let events = [];
let shownEvents = 60;

// --- the job itself

async function load() {
  try {
    job = await get(base);
  } catch (fault) {
    if (!(fault instanceof ApiError) || fault.status !== 404) throw fault;
    byId("main").replaceChildren(h("p", { class: "notice" }, t("job.missing")), h("a", { href: "/" }, t("voices.title")));
    job = { status: "failed" };
    return;
  }
  document.title = `${job.name} · rvc-train`;
  setText(byId("name"), job.name);
  const pill = byId("status");
  pill.className = `pill ${job.status}`;
  setText(pill, statusOf(job));
  showActions(byId("actions"), job, () => ticking.again());
  showFailure();
  showProgress();
  showConfig();
}

function showFailure() {
  byId("failure").hidden = !job.error;
  if (job.error) {
    setText(byId("failure-message"), job.error.message);
    const advice = `advice.${job.error.code}`;
    setText(byId("failure-advice"), has(advice) ? t(advice) : job.error.code);
  }
  byId("notice").hidden = !job.content_notice || ["failed", "cancelled"].includes(job.status);
  const isOwn = job.config.content === "whisper-tiny" || job.config.content === "local"; // for SPIN the server has a longer warning
  setText(byId("notice"), isOwn ? t("job.content_notice", { encoder: job.config.content }) : job.content_notice ?? "");
}

function showProgress() {
  const bar = byId("bar");
  bar.value = job.weights_progress ?? job.progress;
  bar.classList.toggle("done", job.status === "succeeded");
  setText(byId("percent"), percent(job.weights_progress ?? job.progress));
  const facts = describe().filter(([, value]) => value != null && value !== "");
  keyed(byId("facts"), facts, ([key]) => key,
    ([key]) => h("div", {}, h("dt", {}, t(`job.fact.${key}`)), h("dd")),
    (item, [, value]) => {
      const place = item.lastElementChild;
      if (value instanceof Element) place.replaceChildren(value);
      else setText(place, value);
    });
}

/** The main facts, by the job's status. */
function describe() {
  const of = (n, total) => t("job.fact.of", { n: number(n), total: number(total) });
  const isRunning = job.status === "running";
  return [
    ["queue", job.queue_position && t("voices.position", { n: job.queue_position })],
    ["starts", job.starts_in && span(job.starts_in)],
    ["left", isRunning && job.eta_seconds != null ? duration(job.eta_seconds) : null],
    ["epoch", job.epoch && of(job.epoch, job.total_epochs)],
    ["step", job.step && (job.total_steps ? of(job.step, job.total_steps) : number(job.step))],
    ["speed", job.step_seconds && t("job.fact.step_seconds", { time: `${figure(job.step_seconds)} s` })],
    ["samples", isRunning && job.losses["speed/clips_per_second"] ? figure(job.losses["speed/clips_per_second"]) : null],
    ["share", isRunning && job.losses["speed/machine_share"] ? percent(job.losses["speed/machine_share"]) : null],
    ["attempt", job.attempt > 1 ? of(job.attempt, job.max_attempts) : null],
    ["took", job.finished_at && job.started_at ? duration((new Date(job.finished_at) - new Date(job.started_at)) / 1000) : null],
    ["submitted", ago(job.created_at)],
    ["from", job.retry_of ? h("a", { href: `/jobs/${job.retry_of}` }, job.retry_of.slice(0, 16)) : null],
    ["labels", Object.entries(job.labels).map(([key, value]) => (value ? `${key}=${value}` : key)).join(", ")],
  ];
}

function showConfig() {
  const text = JSON.stringify(job.config, null, 2);
  if (byId("config").dataset.text === text) return;
  byId("config").dataset.text = text;
  const link = byId("config-file");
  if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([text + "\n"], { type: "application/json" }));
  link.download = `${job.name}.json`;
  byId("config").replaceChildren(...Object.entries(job.config).map(([key, value]) =>
    h("div", {}, h("dt", {}, key), h("dd", {}, worded(value)))));
  attempt(() => retryUnreachable(markOwn));
}

/** Mark what differs from the defaults. */
async function markOwn() {
  const schema = await get("/v1/config-schema");
  for (const item of byId("config").children) {
    const key = item.firstElementChild.textContent;
    const usual = schema.properties?.[key]?.default;
    item.classList.toggle("own", key in (schema.properties ?? {}) && JSON.stringify(usual ?? null) !== JSON.stringify(job.config[key]));
  }
}

function worded(value) {
  if (value === null) return t("job.none");
  if (typeof value === "boolean") return value ? t("job.yes") : t("job.no");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

// --- artifacts

async function loadFiles() {
  const files = await all(`${base}/artifacts`);
  byId("files-section").hidden = files.length === 0;
  byId("zip").href = at(`${base}/artifacts.zip`);
  keyed(byId("files"), files, (file) => file.id, fileRow, () => {});
}

function fileRow(file) {
  const take = () => attempt(async () => {
    await copy(file.sha256);
    notify(t("job.copied"));
  });
  return h("tr", {},
    h("td", {}, file.name),
    h("td", { class: "num" }, size(file.size)),
    h("td", {}, h("button", { type: "button", class: "quiet mono", onclick: take, title: file.sha256 },
      h("span", { class: "hidden" }, t("job.copy", { name: file.name })), h("span", { class: "sha" }, file.sha256))),
    h("td", { class: "num" }, h("a", { class: "button", href: file.url, download: file.name }, t("job.download"))));
}

// --- events

async function loadEvents() {
  let after = 0;
  let page;
  events = [];
  do {
    page = await get(withQuery(`${base}/events`, { type: NOTABLE, after, limit: 1000 }));
    events.push(...page.data);
    after = page.data.at(-1)?.seq ?? after;
  } while (page.has_more);
  showEvents();
  showStages();
  return page.last_seq;
}

function onEvent(data) {
  const event = JSON.parse(data);
  if (event.type === "metric") curves.mayLoad();
  if (NOISE.includes(event.type)) return;
  events.push(event);
  showEvents();
  if (event.type === "stage_changed") showStages();
  if (event.type === "artifact_published") attempt(loadFiles);
  if (event.type === "evaluated" || event.type === "preview_ready") attempt(() => saves.load());
  ticking.again();
}

function showEvents() {
  const newest = events.slice(-shownEvents).reverse();
  keyed(byId("events"), newest, (event) => event.seq, (event) =>
    h("li", { class: event.level, value: event.seq },
      h("time", { datetime: event.created_at, title: when(event.created_at) }, when(event.created_at)),
      h("span", {}, event.message)), () => {});
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

const ticking = repeat(load, () => (!job || isOver(job) ? 15 : 2));

async function start() {
  const last = await loadEvents();
  follow((after) => withQuery(`${base}/events`, { after }), last, {
    onMessage: onEvent,
    onState: (state) => {
      if (state === "ended") attempt(() => retryUnreachable(async () => {
        await Promise.all([load(), loadFiles(), saves.load(), curves.load()]);
        showStages();
      }));
    },
  });
}

new Log(base, {
  frame: byId("log"), state: byId("log-state"), search: byId("log-search"), next: byId("log-next"),
  previous: byId("log-previous"), follow: byId("log-follow"),
}).start();
byId("log-file").href = at(`${base}/logs`);
byId("log-file").download = `${id}.log`;
attempt(() => retryUnreachable(start));
attempt(() => retryUnreachable(loadFiles));
attempt(() => retryUnreachable(() => saves.load()));
curves.start(byId("smoothing"), byId("compare"), byId("compare-list"));

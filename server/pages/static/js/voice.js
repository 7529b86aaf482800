// One voice: its versions, the current one, notes, files, and links for others.

import { all, get, patch, repeat, remove, ApiError } from "./api.js";
import { at, byId, h, keyed, setText } from "./dom.js";
import { loadFiles } from "./files.js";
import { listenButton } from "./listening.js";
import { showQuality } from "./quality.js";
import { button } from "./server/parts.js";
import { attempt, confirm, may, notify } from "./shell.js";
import { tryPanel } from "./try.js";
import { startAbout } from "./voice/about.js";
import { startLinks } from "./voice/links.js";
import { path, sub } from "./voice/paths.js";
import { soundOf } from "./voice_infos.js";
import { ago, count, duration, number, percent, size, t } from "./words.js";

const RUNNING = ["validating", "queued", "running", "pausing", "paused", "cancelling"];
let voice = null;
let mayChange = false;
let older = []; // versions beyond those that the voice itself has
let cursor = null;
let filesOf = null;
const about = startAbout(() => ticking.again());
const links = startLinks();

async function load() {
  mayChange = await may("submit");
  try {
    voice = await get(path);
  } catch (fault) {
    if (!(fault instanceof ApiError) || fault.status !== 404) throw fault;
    byId("main").replaceChildren(h("p", { class: "notice" }, t("voice.missing")), h("a", { href: "/" }, t("voices.title")));
    voice = null;
    ended = true;
    return;
  }
  show();
}

function show() {
  document.title = `${voice.name} · rvc-train`;
  setText(byId("name"), voice.name);
  const { newest, current } = voice;
  const pill = byId("status");
  pill.className = `pill ${newest.status}`;
  setText(pill, t(`status.${newest.status}`));
  byId("again").href = at(`/new?clone=${(current ?? newest).job_id}`);
  byId("start-here").hidden = !mayChange || !(current ?? newest).epoch;
  byId("start-here").href = at(`/new?start=${(current ?? newest).job_id}`);
  byId("bundle").href = at(sub("/bundle.zip"));
  byId("bundle-dataset").href = at(sub("/bundle.zip", { dataset: "true" }));
  about.show(voice);
  showFacts();
  showVersions();
  links.show(voice);
  showTrying();
  if (!current) byId("voice-zip").hidden = byId("files-section").hidden = byId("quality-section").hidden = true;
  else if (filesOf !== `${current.job_id} ${current.files.length}`) {
    filesOf = `${current.job_id} ${current.files.length}`;
    attempt(() => loadFiles(`/v1/jobs/${current.job_id}`, current.epoch != null && current.total_epochs == null));
    attempt(async () => showQuality(await all(`/v1/jobs/${current.job_id}/checkpoints`, Infinity)));
  }
}

let trying = null;
let tried = ""; // version and state that the panel shows

/** The panel to convert with the current version, or with the newest while there is none. */
function showTrying() {
  const one = voice.current ?? voice.newest;
  const state = `${one.job_id} ${one.status} ${one.best_save?.step}`;
  if (state === tried) return;
  tried = state;
  attempt(async () => {
    const job = await get(`/v1/jobs/${one.job_id}`);
    trying ??= tryPanel(byId("try-section"), job);
    trying.update(job);
  });
}

function showFacts() {
  const facts = [
    ["current", voice.current && t("voice.version", { n: number(voice.current.version) })],
    ["sound", soundOf(voice.current?.best_save).join(" · ")],
    ["versions", number(voice.num_versions)],
    ["disk", voice.disk_bytes ? size(voice.disk_bytes) : null],
    ["changed", ago(voice.updated_at)],
  ];
  keyed(byId("facts"), facts.filter(([, value]) => value), ([key]) => key,
    ([key]) => h("div", {}, h("dt", {}, t(`voice.fact.${key}`)), h("dd")),
    (item, [, value]) => setText(item.lastElementChild, value));
}

// --- versions

function showVersions() {
  const why = voice.current_reason ? t(`voice.why.${voice.current_reason}`) : t("voice.why.none");
  const back = voice.current_reason === "set" && mayChange && button(t("voice.choose_best"), () => choose(null));
  if (byId("current-why").dataset.shown !== `${why} ${Boolean(back)}`) {
    byId("current-why").dataset.shown = `${why} ${Boolean(back)}`;
    byId("current-why").replaceChildren(why, " ", back || "");
  }
  const known = new Set(voice.versions.map((one) => one.job_id));
  const shown = [...voice.versions, ...older.filter((one) => !known.has(one.job_id))];
  keyed(byId("versions"), shown, (one) => one.job_id, make, update);
  byId("more-versions").hidden = shown.length >= voice.num_versions;
}

function make(one) {
  return h("li", {},
    h("h3", {}, h("a", { href: `/jobs/${one.job_id}` }, t("voice.version", { n: number(one.version) })), h("span", { class: "pill" }), h("span", { class: "pill ready current" }, t("voice.current"))),
    h("div", { class: "facts-line" }),
    h("div", { class: "actions" }),
    h("progress", { max: 1, value: 0, "aria-label": t("job.progress") }));
}

function update(item, one) {
  const [pill, current] = item.querySelectorAll(".pill");
  pill.className = `pill ${one.status}`;
  setText(pill, t(`status.${one.status}`));
  current.hidden = !one.is_current;
  const facts = [
    ...soundOf(one.best_save),
    one.epoch && t("voices.epoch", { epoch: number(one.epoch), total: number(one.total_epochs ?? one.epoch) }),
    one.imported && t("voice.imported", { time: ago(one.imported.imported_at) }),
    one.finished_at ? t("voices.ended", { time: ago(one.finished_at) }) : t("voices.submitted", { time: ago(one.created_at) }),
    one.status === "running" && percent(one.progress),
    one.status === "running" && one.eta_seconds != null && t("voices.left", { time: duration(one.eta_seconds) }),
    one.disk_bytes ? t("voices.disk", { size: size(one.disk_bytes) }) : null,
  ].filter(Boolean);
  setText(item.querySelector(".facts-line"), facts.join(" · "));
  const bar = item.querySelector("progress");
  bar.hidden = !RUNNING.includes(one.status);
  bar.value = one.progress;
  const actions = item.querySelector(".actions");
  const present = `${one.status} ${one.is_current} ${Boolean(one.best_save)}`;
  if (actions.dataset.present === present) return;
  actions.dataset.present = present;
  const name = t("voice.version", { n: number(one.version) });
  actions.replaceChildren(...[
    one.best_save && listenButton(`${voice.name}, ${name}`, () => one),
    mayChange && one.status === "succeeded" && !one.is_current && button(t("voice.make_current"), () => choose(one.job_id), { name: `${t("voice.make_current")}: ${name}` }),
  ].filter(Boolean));
}

async function choose(id) {
  await patch(path, { current: id });
  older = older.map((one) => ({ ...one, is_current: one.job_id === id }));
  ticking.again();
}

byId("more-versions").addEventListener("click", () => attempt(async () => {
  const page = await get(sub("/versions", { after: cursor, limit: 100 }));
  older.push(...page.data);
  cursor = page.next_cursor;
  showVersions();
}));

// --- the whole voice

byId("erase").addEventListener("click", () => attempt(async () => {
  const text = [t("voice.ask_delete", { size: size(voice.disk_bytes) }), count("voice.ask_delete.versions", voice.num_versions)].join(" ");
  if (!(await confirm({ title: t("ask.delete.title", { name: voice.name }), text, button: t("action.delete") }))) return;
  await remove(path);
  notify(t("said.deleted_freed", { name: voice.name, size: size(voice.disk_bytes) }));
  location.assign(at("/"));
}));

let ended = false;
const isMoving = () => voice?.versions.some((one) => RUNNING.includes(one.status));
const ticking = repeat(load, () => (ended ? Infinity : isMoving() ? 3 : 15));

// Workers: their jobs, GPU telemetry, draining.

import { all, post, repeat, withQuery } from "../api.js";
import { byId, h, keyed, setText } from "../dom.js";
import { attempt, may, notify } from "../shell.js";
import { ago, percent, size, t } from "../words.js";
import { button, meter, refresh } from "./parts.js";

const LIVING = ["idle", "busy", "draining"];
let ticking = null;
let mayDrain = false;
/** Workers that take jobs. */
let taking = [];

export async function startWorkers() {
  mayDrain = await may("admin");
  ticking = repeat(async () => show(await all("/v1/workers")), () => 2);
}

function show(workers) {
  // Workers that ended cleanly are hidden; lost ones may need attention.
  const shown = workers.filter((worker) => worker.status !== "stopped");
  shown.sort((one, other) => LIVING.includes(other.status) - LIVING.includes(one.status) || one.name.localeCompare(other.name));
  taking = workers.filter((worker) => ["idle", "busy"].includes(worker.status));
  byId("no-workers").hidden = workers.some((worker) => LIVING.includes(worker.status));
  keyed(byId("workers-list"), shown, (worker) => worker.id, make, update);
}

function make(worker) {
  return h("li", {},
    h("h3", {}, worker.name, h("span", {})),
    h("div", { class: "facts-line" }),
    h("div", { class: "actions" }),
    h("div", { class: "whole meters" }));
}

function update(item, worker) {
  const pill = item.querySelector("h3 span");
  pill.className = `pill ${worker.status}`;
  setText(pill, t(`server.workers.status.${worker.status}`));
  const facts = describe(worker);
  refresh(item.querySelector(".facts-line"), [facts, worker.job_id], () => [
    ...facts.map((fact) => h("span", {}, fact)),
    worker.job_id && h("a", { href: `/jobs/${worker.job_id}` }, t("server.workers.job")),
  ].filter(Boolean));
  refresh(item.querySelector(".whole"), worker.gpus, () => worker.gpus.flatMap(gpuMeters));
  item.querySelector(".whole").hidden = worker.gpus.length === 0;
  const mode = LIVING.includes(worker.status) && worker.drain_mode !== "hand_back" && mayDrain;
  refresh(item.querySelector(".actions"), [mode, worker.job_id], () =>
    mode ? [button(t("server.workers.drain"), () => drain(worker), { name: t("server.workers.drain_title", { name: worker.name }) })] : []);
}

function describe(worker) {
  const facts = [worker.device_name ?? worker.device].filter((device) => device !== "auto");
  if (worker.device_name && ![worker.device_name, "auto"].includes(worker.device)) facts.push(worker.device);
  if (worker.jobs_per_device > 1) facts.push(t("server.workers.shares", { number: worker.jobs_per_device }));
  if (worker.drain_mode && LIVING.includes(worker.status)) facts.push(t(`server.workers.mode.${worker.drain_mode}`));
  if (worker.status === "lost") facts.push(t("server.workers.seen", { time: ago(worker.last_seen_at) }));
  facts.push(t("server.workers.where", { host: worker.host, pid: worker.pid }));
  facts.push(...Object.entries(worker.labels).map(([key, value]) => `${key}=${value}`));
  if (worker.version) facts.push(`rvc-train ${worker.version}`);
  return facts;
}

function gpuMeters(gpu, place, gpus) {
  const which = gpus.length > 1 ? ` ${place + 1}` : "";
  const share = gpu.memory_used_bytes / gpu.memory_total_bytes;
  const memory = t("server.use.of", { used: size(gpu.memory_used_bytes), most: size(gpu.memory_total_bytes) });
  const bars = gpu.use == null ? [] : [meter(t("server.workers.use") + which, gpu.use, percent(gpu.use))];
  return [...bars, meter(t("server.workers.memory") + which, share, memory, 0.97)];
}

/** Ask what should happen to the job, then drain. */
async function drain(worker) {
  const mode = await ask(worker);
  if (!mode) return;
  await attempt(() => post(withQuery(`/v1/workers/${worker.id}/drain`, { mode })));
  notify(t("server.workers.drained", { name: worker.name }));
  ticking.again();
}

function ask(worker) {
  const isBusy = worker.status !== "idle";
  const isLast = taking.every((one) => one.id === worker.id);
  const choice = (mode, isMain) => h("button", { value: mode, class: isMain ? "danger" : null }, t(isBusy ? `server.workers.${mode}` : "server.workers.drain_now"));
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "drain-question" },
      h("form", { method: "dialog" },
        h("h2", { id: "drain-question" }, t("server.workers.drain_title", { name: worker.name })),
        h("p", {}, t(isBusy ? "server.workers.drain_text" : "server.workers.drain_idle")),
        isLast && h("p", {}, h("strong", {}, t("server.workers.drain_last"))),
        h("div", { class: "actions" },
          h("button", { value: "", autofocus: true }, t("page.cancel")),
          isBusy && worker.drain_mode !== "finish" && choice("finish", false),
          choice("hand_back", true))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

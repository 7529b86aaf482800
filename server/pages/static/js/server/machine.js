// The machine, its disk, and the caller's usage.

import { get, repeat } from "../api.js";
import { byId, h } from "../dom.js";
import { number, size, t } from "../words.js";
import { meter, refresh } from "./parts.js";

const NEARLY_FULL = 0.95;

export function startMachine() {
  repeat(async () => show(await get("/v1/system")), () => 15);
  repeat(async () => showMine(await get("/v1/me")), () => 30);
}

function show(system) {
  const used = system.disk_total_bytes - system.disk_free_bytes;
  const words = { free: size(system.disk_free_bytes), total: size(system.disk_total_bytes) };
  refresh(byId("disk"), words, () => [...meter(t("server.machine.disk"), used / system.disk_total_bytes, t("server.machine.disk_free", words), NEARLY_FULL).children]);
  refresh(byId("machine-warnings"), system.warnings, () => system.warnings.map((text) => h("p", { class: "notice" }, text)));
  const facts = {
    version: `rvc-train ${system.version}`,
    python: system.python,
    database: `${system.database} ${system.database_version}`,
    cores: number(system.num_cores),
    memory: size(system.memory_total_bytes),
    upload: size(system.limits.max_upload_bytes),
  };
  refresh(byId("machine-facts"), facts, () => Object.entries(facts).map(([name, value]) =>
    h("div", {}, h("dt", {}, t(`server.machine.${name}`)), h("dd", {}, value))));
}

function showMine(mine) {
  refresh(byId("mine"), mine, () => quotaMeters(mine));
}

/** An owner's usage, as bars with a quota and as figures without. */
export function quotaMeters({ quota, usage }) {
  const row = (name, used, most, write) => most == null
    ? h("div", { class: "meter-line" }, h("span", {}, t(`server.use.${name}`)), h("span", {}, write(used)))
    : meter(t(`server.use.${name}`), most ? used / most : 1, t("server.use.of", { used: write(used), most: write(most) }), 0.9);
  return [
    row("jobs", usage.jobs, quota.max_jobs, number),
    row("bytes", usage.bytes, quota.max_bytes, size),
    row("hours", usage.gpu_hours_this_month, quota.max_gpu_hours, (hours) => number(hours, 1)),
  ];
}

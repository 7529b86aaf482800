// Owners: usage and quotas.

import { all, retryUnreachable, put, remove } from "../api.js";
import { byId, h, keyed } from "../dom.js";
import { attempt, notify } from "../shell.js";
import { t } from "../words.js";
import { quotaMeters } from "./machine.js";
import { button, numberOf, onSubmit, refresh } from "./parts.js";

const GIGABYTE = 1e9;

export function startOwners() {
  attempt(() => retryUnreachable(async () => show(await all("/v1/owners"))));
}

function show(owners) {
  keyed(byId("owners-list"), owners, (one) => one.owner, make, update);
}

function make(one) {
  const form = h("form", { class: "columns" },
    field("max_jobs", "1"), field("max_gb", "any"), field("max_gpu_hours", "any"),
    h("p", { class: "fault", role: "alert", hidden: true }),
    h("div", { class: "actions" },
      h("button", { type: "submit", class: "button primary" }, t("server.owners.save")),
      button(t("server.owners.default"), () => change(() => remove(`/v1/owners/${one.owner}/quota`)))));
  onSubmit(form, (fields) => change(() => put(`/v1/owners/${one.owner}/quota`, {
    max_jobs: numberOf(fields.max_jobs),
    max_bytes: numberOf(fields.max_gb, GIGABYTE),
    max_gpu_hours: numberOf(fields.max_gpu_hours),
  })));
  return h("li", {},
    h("h3", {}, one.owner),
    h("div", { class: "whole meters" }),
    h("details", { class: "whole messages" }, h("summary", {}, t("server.owners.change", { owner: one.owner })), form));
}

function field(name, step) {
  return h("label", { class: "field" }, h("span", {}, t(`server.owners.${name}`)),
    h("input", { name, type: "number", min: 0, step, placeholder: t("server.unlimited") }));
}

function update(item, one) {
  refresh(item.querySelector(".meters"), one, () => quotaMeters(one));
  const { elements } = item.querySelector("form");
  elements.max_jobs.value = one.quota.max_jobs ?? "";
  elements.max_gb.value = one.quota.max_bytes == null ? "" : one.quota.max_bytes / GIGABYTE;
  elements.max_gpu_hours.value = one.quota.max_gpu_hours ?? "";
}

async function change(work) {
  await work();
  notify(t("server.saved"));
  startOwners();
}

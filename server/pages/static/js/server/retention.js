// The retention policy, with a dry run before saving and a confirmation before deleting.

import { get, retryUnreachable, post, put } from "../api.js";
import { byId, h, setText } from "../dom.js";
import { attempt, confirm, notify } from "../shell.js";
import { count, size, t } from "../words.js";
import { numberOf, onSubmit } from "./parts.js";

const GIGABYTE = 1e9;
const form = byId("retention-form");

export function startRetention() {
  attempt(() => retryUnreachable(load));
  onSubmit(form, async (fields, submitter) => {
    const policy = {
      keep_days: numberOf(fields.keep_days),
      keep_last: numberOf(fields.keep_last),
      workspace_days: numberOf(fields.workspace_days),
      min_free_bytes: numberOf(fields.min_free_gb, GIGABYTE),
    };
    const action = submitter?.value ?? "try";
    const tried = await put("/v1/retention?dry_run=true", policy);
    showPlan(tried.plan);
    if (action === "save") {
      await put("/v1/retention", policy);
      notify(t("server.saved"));
    } else if (action === "run") {
      await run(policy, tried.plan);
    }
  });
}

async function load() {
  const { policy, plan } = await get("/v1/retention");
  const fields = form.elements;
  fields.keep_days.value = policy.keep_days ?? "";
  fields.keep_last.value = policy.keep_last ?? "";
  fields.workspace_days.value = policy.workspace_days ?? "";
  fields.min_free_gb.value = policy.min_free_bytes == null ? "" : policy.min_free_bytes / GIGABYTE;
  for (const field of fields) field.disabled = false; // no typing before the current policy is loaded
  showPlan(plan);
}

function showPlan(plan) {
  const text = plan.num_removals
    ? t("server.retention.would", { things: count("server.retention.things", plan.num_removals), size: size(plan.freed_bytes) })
    : t("server.retention.nothing");
  setText(byId("retention-summary"), text);
  byId("retention-plan").replaceChildren(...plan.removals.slice(0, 100).map((one) => h("li", {},
    h("h3", {}, one.kind === "cache" ? one.name : h("a", { href: `/jobs/${one.id}` }, one.name), h("span", { class: "tag" }, t(`server.retention.kind.${one.kind}`))),
    h("div", { class: "facts-line" }, h("span", {}, size(one.size)), h("span", {}, one.why)))));
}

async function run(policy, plan) {
  const things = count("server.retention.things", plan.num_removals);
  const question = { title: t("server.retention.run_title"), text: t("server.retention.run_text", { things, size: size(plan.freed_bytes) }), button: t("server.retention.run") };
  if (!(await confirm(question))) return;
  await put("/v1/retention", policy);
  const done = await post("/v1/retention/run");
  notify(t("server.retention.done", { things: count("server.retention.things", done.num_removals), size: size(done.freed_bytes) }));
  await load();
}

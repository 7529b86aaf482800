// Webhooks: addresses, secrets, and the delivery log.

import { get, patch, post, remove, repeat, withQuery } from "../api.js";
import { byId, h, keyed, setText } from "../dom.js";
import { attempt, confirm, may, notify } from "../shell.js";
import { ago, count, t } from "../words.js";
import { button, onSubmit, refresh, showSecret } from "./parts.js";

let ticking = null;
let shown = 20;

export async function startWebhooks() {
  ticking = repeat(load, () => 20);
  byId("more-webhooks").addEventListener("click", () => {
    shown += 20;
    ticking.again();
  });
  onSubmit(byId("webhook-form"), async (fields) => {
    const events = [...fields.events].filter((box) => box.checked).map((box) => box.value);
    const made = await post("/v1/webhooks", { url: fields.url.value.trim(), events });
    byId("webhook-form").reset();
    showSecretOf(made);
    ticking.again();
  });
}

async function load() {
  const page = await get(withQuery("/v1/webhooks", { limit: Math.min(shown, 100) }));
  byId("more-webhooks").hidden = !page.has_more || shown >= 100;
  keyed(byId("webhooks-list"), page.data, (one) => one.id, make, update);
}

function make(one) {
  const log = h("details", { class: "whole messages" }, h("summary", {}, t("server.webhooks.log")), h("ul", { class: "lines" }));
  log.addEventListener("toggle", () => log.open && attempt(() => showLog(log, one.id)));
  return h("li", {}, h("h3", {}, h("code", {}), h("span", {})), h("div", { class: "facts-line" }), h("div", { class: "actions" }), log);
}

function update(item, one) {
  setText(item.querySelector("h3 code"), one.url);
  const pill = item.querySelector("h3 span");
  pill.className = `pill ${one.is_enabled ? "ready" : "paused"}`;
  setText(pill, t(one.is_enabled ? "server.webhooks.on" : "server.webhooks.off"));
  const facts = one.events.map((event) => t(`server.webhooks.event.${event.replace("job.", "")}`));
  if (one.disabled_reason) facts.push(one.disabled_reason);
  refresh(item.querySelector(".facts-line"), [facts, one.job_id], () => [
    h("span", {}, facts.join(" · ")),
    one.job_id && h("a", { href: `/jobs/${one.job_id}` }, t("server.webhooks.one_job")),
  ].filter(Boolean));
  refresh(item.querySelector(".actions"), one.is_enabled, () => deeds(item, one));
}

function deeds(item, one) {
  const address = `/v1/webhooks/${one.id}`;
  return [
    button(t("server.webhooks.test"), async () => {
      await post(`${address}/test`);
      notify(t("server.webhooks.tested"));
      const log = item.querySelector("details");
      log.open = true;
      await showLog(log, one.id);
    }),
    button(t("server.webhooks.rotate"), async () => {
      const question = { title: t("server.webhooks.rotate_title"), text: t("server.webhooks.rotate_text"), button: t("server.webhooks.rotate"), danger: false };
      if (await confirm(question)) showSecretOf(await post(`${address}/rotate-secret`));
    }),
    button(t(one.is_enabled ? "server.webhooks.disable" : "server.webhooks.enable"), async () => {
      await patch(address, { is_enabled: !one.is_enabled });
      ticking.again();
    }),
    button(t("server.webhooks.delete"), async () => {
      const question = { title: t("server.webhooks.delete_title"), text: t("server.webhooks.delete_text", { url: one.url }), button: t("server.webhooks.delete") };
      if (!(await confirm(question))) return;
      item.querySelector("details").open = false; // ends the refresh of its log
      await remove(address);
      ticking.again();
    }, { danger: true }),
  ];
}

const showSecretOf = ({ secret }) => showSecret(t("server.webhooks.secret_title"), t("server.webhooks.secret_text"), secret);

const LOOKS = { pending: "queued", delivered: "ready", failed: "failed" };

/** Show the last messages, and refresh while one is pending. */
async function showLog(log, id) {
  const { data } = await get(withQuery(`/v1/webhooks/${id}/deliveries`, { limit: 20 }));
  const list = log.querySelector("ul");
  refresh(list, data, () => data.length ? data.map((message) => messageLine(log, message)) : [h("li", { class: "muted" }, t("server.webhooks.log_empty"))]);
  const isMoving = data.some((message) => message.status === "pending");
  if (isMoving && log.open && log.isConnected) setTimeout(() => showLog(log, id).catch(() => {}), 2000);
}

function messageLine(log, message) {
  const state = message.status === "failed" ? "undelivered" : message.status;
  const facts = [ago(message.created_at), count("server.webhooks.tries", message.num_tries)];
  if (message.last_status) facts.push(t("server.webhooks.answer", { status: message.last_status }));
  if (message.last_error) facts.push(message.last_error);
  return h("li", {},
    h("h3", {}, h("code", {}, message.event), h("span", { class: `pill ${LOOKS[message.status]}` }, t(`server.webhooks.${state}`))),
    h("div", { class: "facts-line" }, facts.map((fact) => h("span", {}, fact))),
    h("div", { class: "actions" }, message.status !== "pending" && button(t("server.webhooks.again"), async () => {
      await post(`/v1/webhooks/${message.webhook_id}/deliveries/${message.id}/redeliver`);
      await showLog(log, message.webhook_id);
    })),
    h("details", { class: "whole messages" }, h("summary", {}, t("server.webhooks.body")), h("pre", {}, JSON.stringify(JSON.parse(message.body), null, 2))));
}

// Running and queued jobs.

import { get, repeat } from "../api.js";
import { byId, h, keyed, setText } from "../dom.js";
import { count, duration, number, percent, span, t } from "../words.js";
import { refresh } from "./parts.js";

/** Most queued jobs that are shown; the page "Voices" has all, and changes their order. */
const MOST_QUEUED = 10;

export function startQueue() {
  repeat(async () => show(await get("/v1/queue")), () => 2);
}

function show(queue) {
  const entries = [...queue.running, ...queue.queued.slice(0, MOST_QUEUED)];
  byId("queue-more").hidden = queue.num_queued <= MOST_QUEUED;
  const facts = [t("server.queue.running", { n: number(queue.running.length) }), t("server.queue.waiting", { n: number(queue.num_queued) })];
  if (queue.num_validating) facts.push(t("server.queue.checked", { n: number(queue.num_validating) }));
  facts.push(count("server.queue.workers", queue.num_workers));
  setText(byId("queue-summary"), entries.length || queue.num_validating ? facts.join(" · ") : t("server.queue.empty"));
  keyed(byId("queue-list"), entries, (entry) => entry.id, make, update);
}

function make(entry) {
  return h("li", {},
    h("h3", {}, h("a", { href: `/jobs/${entry.id}` }, entry.name), h("span", {})),
    h("div", { class: "facts-line" }),
    h("p", { class: "fault", hidden: true }),
    h("progress", { max: 1, value: 0, "aria-label": t("job.progress") }));
}

function update(item, entry) {
  const pill = item.querySelector("h3 span");
  pill.className = `pill ${entry.status}`;
  setText(pill, t(`status.${entry.status}`));
  const facts = describe(entry);
  refresh(item.querySelector(".facts-line"), facts, () => facts.map((fact) => h("span", {}, fact)));
  const lacking = item.querySelector(".fault");
  lacking.hidden = entry.lacking.length === 0;
  setText(lacking, entry.lacking.join("; "));
  const bar = item.querySelector("progress");
  bar.hidden = entry.queue_position != null;
  bar.value = entry.progress;
}

function describe(entry) {
  const facts = entry.queue_position == null ? [percent(entry.progress)] : [t("server.queue.place", { n: entry.queue_position })];
  if (entry.starts_in) facts.push(t("server.queue.starts", { time: span(entry.starts_in) }));
  if (entry.eta_seconds != null && entry.status === "running") facts.push(t("server.queue.left", { time: duration(entry.eta_seconds) }));
  if (entry.priority !== 0) facts.push(t("server.queue.priority", { n: entry.priority }));
  return facts;
}

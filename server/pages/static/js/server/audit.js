// The audit trail.

import { get, retryUnreachable, withQuery } from "../api.js";
import { byId, h } from "../dom.js";
import { attempt } from "../shell.js";
import { t, when } from "../words.js";

const form = byId("audit-form");
const list = byId("audit-list");
let cursor = null;
let asked = 0;

export function startAudit() {
  attempt(() => retryUnreachable(() => load(true)));
  byId("more-audit").addEventListener("click", () => attempt(() => load(false)));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => attempt(() => load(true)));
}

async function load(isNew) {
  const turn = ++asked;
  const words = Object.fromEntries(["actor", "action", "target"].map((name) => [name, form.elements[name].value.trim()]));
  const page = await get(withQuery("/v1/audit", { ...words, after: isNew ? null : cursor, limit: 20 }));
  if (turn !== asked) return;
  cursor = page.next_cursor;
  byId("more-audit").hidden = !page.has_more;
  if (isNew) list.replaceChildren();
  list.append(...page.data.map(row));
  if (!list.children.length) list.append(h("tr", {}, h("td", { colspan: 5, class: "gone" }, t("server.audit.none"))));
}

function row(entry) {
  const detail = Object.entries(entry.detail).filter(([, value]) => value != null).map(([name, value]) => `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`);
  const isJob = entry.target.startsWith("job_");
  const target = h(isJob ? "a" : "span", { class: "sha mono", title: entry.target, href: isJob ? `/jobs/${entry.target}` : null }, entry.target);
  return h("tr", {},
    h("td", { class: "keep" }, h("time", { datetime: entry.created_at }, when(entry.created_at))),
    h("td", {}, entry.actor || "–", h("br"), h("small", { class: "muted" }, entry.address)),
    h("td", { class: "keep" }, h("code", {}, entry.action)),
    h("td", {}, target),
    h("td", { class: "detail" }, detail.join(", ")));
}

// Access tokens: created (shown once), listed, revoked.

import { get, retryUnreachable, post, remove, withQuery } from "../api.js";
import { byId, h } from "../dom.js";
import { attempt, confirm } from "../shell.js";
import { ago, t, when } from "../words.js";
import { button, onSubmit, showSecret } from "./parts.js";

let shown = [];
let cursor = null;

/** `onMade` runs after a token was created, which may have created an owner. */
export function startTokens(onMade) {
  attempt(() => retryUnreachable(reload));
  byId("more-tokens").addEventListener("click", () => attempt(more));
  onSubmit(byId("token-form"), async (fields) => {
    const days = fields.days.value.trim();
    const request = { owner: fields.owner.value.trim(), name: fields.name.value.trim(), scopes: [fields.scope.value] };
    const made = await post("/v1/tokens", days ? { ...request, expires_in_days: Number(days) } : request);
    byId("token-form").reset();
    showSecret(t("server.tokens.made_title", { owner: made.owner }), t("server.tokens.made_text"), made.secret);
    await reload();
    onMade();
  });
}

async function reload() {
  [shown, cursor] = [[], null];
  await more();
}

async function more() {
  const page = await get(withQuery("/v1/tokens", { after: cursor, limit: 20 }));
  shown.push(...page.data);
  cursor = page.next_cursor;
  byId("more-tokens").hidden = !page.has_more;
  byId("no-tokens").hidden = shown.length > 0;
  byId("tokens-list").closest(".scroll").hidden = shown.length === 0;
  byId("tokens-list").replaceChildren(...shown.map(row));
}

function row(token) {
  const isOver = token.revoked_at || (token.expires_at && new Date(token.expires_at) < new Date());
  const ends = token.revoked_at ? t("server.tokens.revoked", { time: ago(token.revoked_at) })
    : isOver ? t("server.tokens.expired", { time: ago(token.expires_at) })
    : token.expires_at ? when(token.expires_at) : t("server.tokens.never");
  const look = isOver ? "gone" : null;
  return h("tr", {},
    h("td", { class: look }, token.owner),
    h("td", { class: look }, token.name || "–"),
    h("td", { class: look }, h("code", {}, `${token.begins}…`)),
    h("td", { class: look }, token.scopes.map((scope) => t(`server.scope.${scope}`)).join(", ")),
    h("td", { class: look }, token.last_used_at ? ago(token.last_used_at) : t("server.tokens.never")),
    h("td", { class: look }, ends),
    h("td", { class: "num" }, !isOver && button(t("server.tokens.revoke"), () => revoke(token), { danger: true, name: `${t("server.tokens.revoke")} ${token.begins}` })));
}

async function revoke(token) {
  const question = {
    title: t("server.tokens.revoke_title"),
    text: t("server.tokens.revoke_text", { begins: token.begins, owner: token.owner }),
    button: t("server.tokens.revoke"),
  };
  if (!(await confirm(question))) return;
  await remove(`/v1/tokens/${token.id}`);
  await reload();
}

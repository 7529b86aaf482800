// Common to all pages: theme, language, session, notifications, and confirmation before irreversible actions.

import { get, retryUnreachable, remove, signIn } from "./api.js";
import { byId, h } from "./dom.js";
import { t } from "./words.js";

/** The caller: `{owner, scopes, ...}`. */
export const me = ["sign_in", "shared"].includes(document.body.dataset.page) ? Promise.resolve(null) : retryUnreachable(() => get("/v1/me"));

/** Whether the caller has a scope: "read", "submit" or "admin"; each includes those before it. */
export async function may(scope) {
  const order = ["read", "submit", "admin"];
  const { scopes } = await me;
  return Math.max(...scopes.map((one) => order.indexOf(one))) >= order.indexOf(scope);
}

/** Show a notification in the page's corner; `action` `{label, run}` adds a button. */
export function notify(text, { bad = false, action = null, seconds = 6 } = {}) {
  const line = h("div", { class: bad ? "toast bad" : "toast" }, h("span", {}, text));
  if (action) {
    line.append(h("button", { type: "button", onclick: () => { line.remove(); action.run(); } }, action.label));
  }
  byId("toasts").append(line);
  setTimeout(() => line.remove(), 1000 * seconds);
}

/** Run an action and show its error. */
export async function attempt(work) {
  try {
    return await work();
  } catch (fault) {
    notify(fault.message, { bad: true, seconds: 12 });
    return undefined;
  }
}

/** Copy a text to the clipboard. Browsers offer `navigator.clipboard` over TLS only. */
export async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = h("textarea", { class: "hidden", readonly: true });
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** Ask for confirmation of an irreversible action. */
export function confirm({ title, text, button, danger = true }) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "question" },
      h("form", { method: "dialog" },
        h("h2", { id: "question" }, title),
        h("p", {}, text),
        h("div", { class: "actions" },
          h("button", { value: "no", autofocus: true }, t("page.cancel")),
          h("button", { value: "yes", class: danger ? "button danger" : "button primary" }, button))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Menus close with Escape, and at a press beside them. */
function startMenus() {
  const closeBut = (kept) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (menu !== kept) menu.open = false;
  };
  document.addEventListener("pointerdown", (event) => closeBut(event.target.closest("details.menu")));
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}

function startTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  byId("theme").addEventListener("click", () => {
    const present = root.dataset.theme ?? (system.matches ? "dark" : "light");
    root.dataset.theme = present === "dark" ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
    document.dispatchEvent(new Event("themechange"));
  });
  system.addEventListener("change", () => document.dispatchEvent(new Event("themechange")));
}

function startLanguage() {
  byId("language").addEventListener("change", (event) => {
    document.cookie = `rvc_language=${event.target.value}; path=/; max-age=31536000; samesite=lax`;
    location.reload();
  });
}

async function startSession() {
  const who = await me;
  if (!who) return;
  if (who.owner !== "local") byId("who").textContent = who.owner;
  byId("who").hidden = byId("who").textContent === "";
  byId("sign-out").hidden = false;
  byId("sign-out").addEventListener("click", () => attempt(async () => {
    await remove("/v1/session");
    signIn();
  }));
  for (const element of document.querySelectorAll("[data-needs]")) {
    element.hidden = !(await may(element.dataset.needs));
  }
}

startTheme();
startMenus();
startLanguage();
startSession().catch(() => {}); // the page's own requests show the error

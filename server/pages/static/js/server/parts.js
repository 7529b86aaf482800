// Elements shared by the sections of this page.

import { byId, h, setText } from "../dom.js";
import { attempt, copy, notify } from "../shell.js";
import { t } from "../words.js";

/** A bar with its name and its figures. Beyond `high` (0..1) it warns. */
export function meter(name, share, figures, high = 2) {
  const bar = h("progress", { max: 1, value: Math.min(share, 1), "aria-label": name, class: share > high ? "high" : null });
  return h("div", { class: "meter-line" }, h("span", {}, name), h("span", {}, figures), bar);
}

/** A button that is disabled while its action runs, and shows its error. */
export function button(label, work, { danger = false, name = null } = {}) {
  const made = h("button", { type: "button", class: danger ? "danger" : null, "aria-label": name }, label);
  made.addEventListener("click", async () => {
    made.disabled = true;
    await attempt(work);
    made.disabled = false;
  });
  return made;
}

/** Submit a form by `work(elements, submitter)`; the server's errors are shown in the form. */
export function onSubmit(form, work) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const fault = form.querySelector(".fault");
    fault.hidden = true;
    try {
      await work(form.elements, event.submitter);
    } catch (error) {
      setText(fault, [error.message, ...(error.problem?.errors ?? []).map((one) => one.detail)].join(" – "));
      fault.hidden = false;
    }
  });
}

/** Replace children only if their content changed: focus and expanded parts are kept. */
export function refresh(place, shown, make) {
  const present = JSON.stringify(shown);
  if (place.dataset.shown === present) return;
  place.dataset.shown = present;
  place.replaceChildren(...make());
}

/** A number field: its value, or null where it is empty. */
export const numberOf = (field, factor = 1) => (field.value.trim() === "" ? null : Math.round(Number(field.value) * factor * 1e6) / 1e6);

/** Show a secret in the dialog, with a copy button. */
export function showSecret(title, text, secret) {
  const dialog = byId("secret");
  setText(byId("secret-title"), title);
  setText(byId("secret-text"), text);
  setText(byId("secret-value"), secret);
  byId("secret-copy").onclick = () => attempt(async () => {
    await copy(secret);
    notify(t("server.copied"));
  });
  dialog.querySelector("[data-close]").onclick = () => dialog.close();
  dialog.onclose = () => setText(byId("secret-value"), "");
  dialog.showModal();
}

// Notes and labels of a voice, edited in place.

import { etagOf, patch } from "../api.js";
import { byId, h, setText } from "../dom.js";
import { onSubmit } from "../server/parts.js";
import { t } from "../words.js";
import { path } from "./paths.js";

const textOf = (labels) => Object.entries(labels).map(([key, value]) => (value ? `${key}=${value}` : key)).join(", ");

/** Labels from `team=a, take`. */
function read(text) {
  const parts = text.split(",").map((one) => one.trim()).filter(Boolean).map((one) => one.split("="));
  return Object.fromEntries(parts.map(([key, ...value]) => [key.trim(), value.join("=").trim()]));
}

/** `after`: called after a change. */
export function startAbout(after) {
  const form = byId("about-form");
  let voice = null;
  let etag = null; // of what was there when editing began: a change by others meanwhile is not overwritten
  const isEdited = () => !form.hidden && (form.elements.notes.value !== voice.notes || form.elements.labels.value !== textOf(voice.labels));
  const edit = (isOpen) => {
    form.hidden = !isOpen;
    byId("about").hidden = isOpen;
    byId("edit").setAttribute("aria-expanded", String(isOpen));
    form.querySelector(".fault").hidden = true;
  };
  byId("edit").addEventListener("click", () => {
    if (!form.hidden) return;
    etag = etagOf(path);
    form.elements.notes.value = voice.notes;
    form.elements.labels.value = textOf(voice.labels);
    edit(true);
    form.elements.notes.focus();
  });
  const leave = () => {
    edit(false);
    byId("edit").focus();
  };
  byId("edit-cancel").addEventListener("click", leave);
  form.addEventListener("keydown", (event) => event.key === "Escape" && leave());
  window.addEventListener("beforeunload", (event) => voice && isEdited() && event.preventDefault());
  onSubmit(form, async ({ notes, labels }) => {
    const wanted = read(labels.value);
    const gone = Object.fromEntries(Object.keys(voice.labels).filter((key) => !(key in wanted)).map((key) => [key, null]));
    await patch(path, { notes: notes.value, labels: { ...wanted, ...gone } }, etag ? { "If-Match": etag } : {});
    leave();
    after();
  });
  return {
    show(present) {
      voice = present;
      setText(byId("notes"), voice.notes || t("voice.no_notes"));
      byId("notes").classList.toggle("muted", !voice.notes);
      const text = textOf(voice.labels);
      if (byId("labels").dataset.text === text) return;
      byId("labels").dataset.text = text;
      byId("labels").replaceChildren(...text.split(", ").filter(Boolean).map((one) => h("span", { class: "tag" }, one)));
    },
  };
}

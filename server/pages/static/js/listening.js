// One button that plays a voice: the first clip of its best save.

import { all } from "./api.js";
import { at, h } from "./dom.js";
import { attempt, notify } from "./shell.js";
import { t } from "./words.js";

const audio = new Audio();
let pressed = null;

function release() {
  pressed?.setAttribute("aria-pressed", "false");
  if (pressed) pressed.textContent = "▶";
  pressed = null;
}
audio.addEventListener("ended", release);
audio.addEventListener("pause", release);

/** A button for the version `{job_id, best_save}` of a voice; `version()` gives the present one. */
export function listenButton(name, version) {
  const label = t("voices.listen", { name });
  const button = h("button", { type: "button", class: "quiet listen", "aria-pressed": "false", "aria-label": label, title: label }, "▶");
  button.addEventListener("click", () => attempt(() => toggle(button, version())));
  return button;
}

async function toggle(button, { job_id: id, best_save: best }) {
  if (pressed === button) {
    audio.pause();
    return;
  }
  audio.pause();
  const clips = await all(`/v1/jobs/${id}/previews`);
  const step = clips.some((clip) => clip.step === best?.step) ? best.step : clips.at(-1)?.step;
  const clip = clips.find((one) => one.step === step);
  if (!clip) {
    notify(t("voices.no_preview"));
    return;
  }
  audio.src = at(clip.audio.url);
  await audio.play();
  pressed = button;
  button.setAttribute("aria-pressed", "true");
  button.textContent = "⏸";
}

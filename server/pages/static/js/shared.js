// The page of a link to one voice: listening, and its files. Its secret is the last part of the address.

import { get } from "./api.js";
import { byId, h } from "./dom.js";
import "./shell.js";
import { number, t } from "./words.js";

async function show() {
  const secret = location.pathname.split("/").at(-1);
  let voice;
  try {
    voice = await get(`/v1/shared/${secret}`);
  } catch (error) {
    byId("fault").textContent = error.message;
    byId("fault").hidden = false;
    return;
  }
  byId("name").textContent = voice.name;
  byId("clips").replaceChildren(...voice.clips.map((clip) => h("p", {},
    h("span", {}, t("shared.clip", { n: number(clip.clip) })),
    h("audio", { controls: true, preload: "none", src: clip.audio_url, "aria-label": t("shared.converted") }),
    h("audio", { controls: true, preload: "none", src: clip.recording_url, "aria-label": t("shared.recorded") }))));
  byId("files").replaceChildren(...voice.files.map((file) => h("p", {}, h("a", { href: file.url, download: file.name }, file.name))));
}

show();

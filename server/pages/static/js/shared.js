// The page of a link to one voice, for people without a token. Its secret is the last part of the address.

import { get, retryUnreachable, ApiError } from "./api.js";
import { at, byId, h, setText } from "./dom.js";
import "./shell.js";
import { inWords } from "./quality.js";
import { soundOf } from "./voice_infos.js";
import { duration, figure, has, number, percent, size, t, when } from "./words.js";

const secret = location.pathname.split("/").at(-1);

async function show() {
  let voice;
  try {
    voice = await retryUnreachable(() => get(`/v1/shared/${secret}`));
  } catch (error) {
    setText(byId("fault"), error instanceof ApiError && error.status === 404 ? t("shared.ended") : error.message);
    byId("fault").hidden = false;
    return;
  }
  const card = voice.card_url ? await get(voice.card_url).catch(() => null) : null;
  document.title = `${voice.name} · rvc-train`;
  setText(byId("name"), voice.name);
  setText(byId("about"), t("shared.about", { n: number(voice.version), time: when(voice.expires_at) }));
  showFacts(voice, card);
  showClips(voice.clips);
  showQuality(voice.quality);
  if (voice.downloads) showFiles(voice);
  byId("voice").hidden = false;
}

function showFacts(voice, card) {
  const speech = card?.data.seconds;
  const facts = [
    ["sound", soundOf({ scores: voice.scores })[0]],
    ["kind", [`RVC ${voice.rvc_version}`, voice.sample_rate, card && t(card.model.f0 ? "kind.pitch" : "kind.no_pitch")].filter(Boolean).join(" · ")],
    ["data", speech && t("shared.data", { time: duration(speech) })],
    ["epoch", voice.epoch && number(voice.epoch)],
    ["base", card && has(`shared.base.${card.base.kind}`) && t(`shared.base.${card.base.kind}`)],
    ["pitch", voice.scores["eval/f0_cents"] != null && t("shared.cents", { n: figure(voice.scores["eval/f0_cents"]) })],
    ["voicing", voice.scores["eval/voicing"] != null && percent(voice.scores["eval/voicing"])],
    ["consent", card && t(card.consent ? "shared.consent.yes" : "shared.consent.no")],
    ["finished", voice.finished_at && when(voice.finished_at)],
  ];
  byId("facts").replaceChildren(...facts.filter(([, value]) => value).map(([key, value]) =>
    h("div", {}, h("dt", {}, t(`shared.fact.${key}`)), h("dd", {}, value))));
  byId("notice").hidden = !voice.content_notice;
  setText(byId("notice"), t("job.content_notice", { encoder: voice.content }));
}

function showClips(clips) {
  byId("clips-section").hidden = clips.length === 0;
  const sound = (label, src) => h("label", {}, h("span", {}, label), h("audio", { controls: true, preload: "none", src, "aria-label": label }));
  byId("clips").replaceChildren(...clips.map((clip) => h("li", {}, h("h3", {}, t("job.clip", { n: number(clip.clip), time: duration(clip.seconds) })),
    sound(t("shared.converted"), clip.audio_url), sound(t("shared.recorded"), clip.recording_url))));
  // One at a time: a comparison is of two sounds one after the other.
  byId("clips").addEventListener("play", ({ target }) => {
    for (const other of byId("clips").querySelectorAll("audio")) if (other !== target) other.pause();
  }, true);
}

function showQuality(scores) {
  byId("quality-section").hidden = scores.length === 0;
  byId("quality").replaceChildren(...inWords(scores).map(([metric, words, figures]) =>
    h("div", {}, h("dt", {}, t(`shared.quality.${metric}`)), h("dd", {}, words, " ", h("small", { class: "muted" }, figures)))));
}

function showFiles({ files, content }) {
  const main = files.find((file) => file.kind === "best") ?? files.find((file) => file.kind === "voice");
  const index = files.find((file) => ["index", "speaker_index"].includes(file.kind));
  const order = [main, index, ...files].filter(Boolean);
  byId("files-section").hidden = order.length === 0;
  byId("files").replaceChildren(...[...new Set(order)].map((file) => h("li", {},
    h("span", {}, h("strong", {}, file.name), h("small", { class: "muted" }, [has(`file.${file.kind}`) ? t(`file.${file.kind}`) : file.kind, size(file.size_bytes)].join(" · "))),
    h("a", { class: "button", href: file.url, download: file.name, "aria-label": `${t("job.download")}: ${file.name}` }, t("job.download")))));
  byId("download").hidden = !main;
  if (!main) return;
  byId("download").href = at(main.url);
  byId("download").download = main.name;
  setText(byId("download"), t("shared.download", { name: main.name }));
  byId("use-section").hidden = content !== "contentvec"; // the notice says what other encoders convert with
  for (const program of ["rvc", "applio"]) setText(byId(`use-${program}`), t(`shared.use.${program}`, { pth: main.name, index: index?.name ?? "" }));
}

show();

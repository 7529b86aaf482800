// A job's files: one download with what a voice needs, and all of them with what each is for.

import { all, withQuery } from "./api.js";
import { at, byId, h, keyed } from "./dom.js";
import { attempt, copy, notify } from "./shell.js";
import { has, size, t } from "./words.js";

/** Order of the kinds in the table. */
const KINDS = ["best", "voice", "index", "speaker_index", "card", "report"];

/** `isBest`: the voice is its training's best save, and not the last one. */
export async function loadFiles(base, isBest) {
  const files = await all(`${base}/artifacts`);
  const rank = (file) => (KINDS.includes(file.kind) ? KINDS.indexOf(file.kind) : KINDS.length);
  files.sort((one, other) => rank(one) - rank(other) || one.name.localeCompare(other.name));
  byId("files-section").hidden = files.length === 0;
  byId("zip").href = at(`${base}/artifacts.zip`);
  const voice = files.find((file) => ["best", "voice"].includes(file.kind));
  byId("voice-zip").hidden = !voice;
  if (voice) {
    const names = [voice, ...files.filter((file) => ["index", "speaker_index"].includes(file.kind))].map((file) => file.name);
    byId("voice-zip").href = at(withQuery(`${base}/artifacts.zip`, { name: names }));
    byId("voice-zip").title = names.join(", ");
  }
  keyed(byId("files"), files, (file) => file.id, (file) => row(file, isBest && file.kind === "voice" ? "best" : file.kind), () => {});
}

function row(file, kind) {
  const take = () => attempt(async () => {
    await copy(file.sha256);
    notify(t("job.copied"));
  });
  return h("tr", {},
    h("td", {}, file.name),
    h("td", {}, has(`file.${kind}`) ? t(`file.${kind}`) : kind),
    h("td", { class: "num" }, size(file.size)),
    h("td", {}, h("button", { type: "button", class: "quiet mono", onclick: take, title: file.sha256 },
      h("span", { class: "hidden" }, t("job.copy", { name: file.name })), h("span", { class: "sha" }, file.sha256))),
    h("td", { class: "num" }, h("a", { class: "button", href: file.url, download: file.name }, t("job.download"))));
}

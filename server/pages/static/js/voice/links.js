// Links with which others listen to a voice, and download it, without a token.

import { all, post, remove, retryUnreachable } from "../api.js";
import { byId, h, keyed } from "../dom.js";
import { button, onSubmit, showSecret } from "../server/parts.js";
import { attempt, confirm, may } from "../shell.js";
import { ago, count, number, t, when } from "../words.js";
import { sub } from "./paths.js";

const DAY = 86400;

export function startLinks() {
  let voice = null;
  let isStarted = false;
  const versionOf = (id) => voice.versions.find((one) => one.job_id === id)?.version;
  async function load() {
    const links = await all(sub("/links"));
    byId("no-links").hidden = links.length > 0;
    keyed(byId("links-list"), links, (one) => `${one.id} ${one.has_ended}`, make, (item, one) => item.querySelector(".facts-line").replaceChildren(...facts(one)));
  }
  function facts(one) {
    const version = one.job_id && versionOf(one.job_id);
    return [
      t(one.downloads ? "voice.links.downloads" : "voice.links.listening"),
      version ? t("voice.version", { n: number(version) }) : !one.job_id && t("voice.links.current"),
      t(one.has_ended ? "voice.links.ended" : "voice.links.until", { time: when(one.expires_at) }),
      one.num_uses ? `${count("voice.links.uses", one.num_uses)}, ${ago(one.last_used_at)}` : t("voice.links.unused"),
    ].filter(Boolean).map((fact) => h("span", {}, fact));
  }
  function make(one) {
    const name = one.note || `${one.begins}…`;
    return h("li", {},
      h("h3", {}, one.note || h("code", {}, `${one.begins}…`)),
      h("div", { class: "facts-line" }),
      h("div", { class: "actions" }, button(t(one.has_ended ? "action.delete" : "server.tokens.revoke"), () => revoke(one, name), { danger: true, name: `${t("server.tokens.revoke")}: ${name}` })));
  }
  async function revoke(one, name) {
    const question = { title: t("voice.links.revoke", { name }), text: t("voice.links.revoke_text"), button: t("server.tokens.revoke") };
    if (!one.has_ended && !(await confirm(question))) return;
    await remove(sub(`/links/${one.id}`));
    await load();
  }
  onSubmit(byId("link-form"), async ({ days, downloads, job_id: id, note }) => {
    const request = { expires_in_seconds: Number(days.value) * DAY, downloads: Boolean(downloads.value), note: note.value.trim() };
    const made = await post(sub("/links"), id.value ? { ...request, job_id: id.value } : request);
    byId("link-form").reset();
    showSecret(t("voice.links.made"), t("voice.links.made_text", { time: when(made.expires_at) }), made.url);
    await load();
  });
  return {
    show(present) {
      voice = present;
      const ready = voice.versions.filter((one) => one.status === "succeeded");
      const select = byId("link-form").elements.job_id;
      const options = [["", t("voice.links.current")], ...ready.map((one) => [one.job_id, t("voice.links.only", { n: number(one.version) })])];
      if (select.options.length !== options.length) select.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
      for (const field of byId("link-form").elements) field.disabled = ready.length === 0;
      if (isStarted) return;
      isStarted = true;
      attempt(async () => (await may("submit")) && retryUnreachable(load));
    },
  };
}

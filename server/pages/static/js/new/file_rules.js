// Which of the chosen files are recordings, by the server's rules.

import { get, retryUnreachable } from "../api.js";
import { byId, h } from "../dom.js";
import { has, number, t } from "../words.js";

/** The reason why a file is left out, in the page's language if it is that of a rule. */
export const reasonOf = ({ code, reason }) => (has(`left_out.${code}`) ? t(`left_out.${code}`) : reason);

let system = null;

/** The server's rules and limits. Asked for once, when the page is opened: later the server may be away. */
export function loadRules() {
  system ??= retryUnreachable(() => get("/v1/system")).catch((fault) => {
    system = null;
    throw fault;
  });
  return system;
}

/** The recordings among some files; lists the others in the page. Throws an error to show if nothing can be sent. */
export async function recordingsAmong(files) {
  const { file_rules: rules, limits } = await loadRules();
  const patterns = rules.map((rule) => [rule, new RegExp(rule.pattern, "iu")]);
  const leftOut = new Map();
  const recordings = files.filter(({ path }) => {
    const [rule, pattern] = patterns.find(([, one]) => one.test(path)) ?? [];
    if (!rule || rule.code === "zip") return true; // the server unpacks zips beside files too
    if (path.split("/").at(-1) === "left_out_parts.txt" && files.length > 1) return true; // the server reads it
    const { 0: match, index } = pattern.exec(path);
    leftOut.set(path.slice(0, index + match.length), rule);
    return false;
  });
  show([...leftOut]);
  if (files.length && !recordings.length) throw new Error(t("new.no_recordings"));
  if (recordings.length > limits.max_files) {
    throw new Error(t("new.too_many", { n: number(recordings.length), most: number(limits.max_files) }));
  }
  return recordings;
}

function show(leftOut) {
  byId("left-out").hidden = leftOut.length === 0;
  byId("left-out").open = leftOut.length <= 5;
  byId("left-out-title").textContent = t("new.left_out", { n: number(leftOut.length) });
  byId("left-out-list").replaceChildren(...leftOut.map(([name, rule]) => h("li", {}, t("page.pair", { name, value: reasonOf(rule) }))));
}

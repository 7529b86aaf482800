// Names of voices: a proposal from the recordings, and the voice that has a name already.

import { get, withQuery } from "../api.js";
import { me } from "../shell.js";
import { ago, number, t } from "../words.js";
import { labelOf, wordOf } from "./settings.js";

const MIN_LETTERS = 3;

/** A name for some files: their common folder, or the longest beginning that they share. */
export function proposedName(files) {
  const folder = files[0].path.split("/")[0];
  if (files[0].path.includes("/") && files.every(({ path }) => path.startsWith(`${folder}/`))) return folder;
  const stems = files.map(({ path }) => path.split("/").at(-1).replace(/\.[^.]+$/, ""));
  let common = stems[0];
  for (const stem of stems) {
    while (!stem.startsWith(common)) common = [...common].slice(0, -1).join("");
  }
  if (files.length > 1) common = common.replace(/[\s\d._()-]+$/u, "");
  return [...common].length >= Math.min(MIN_LETTERS, [...stems[0]].length) && common ? common : t("new.some", { n: number(files.length) });
}

/** A sentence on the voice that has this name, what the new version differs in from its newest one; null if there is none. */
export async function sameName(name, datasetId, settings) {
  if (!name) return null;
  const { owner } = await me;
  const [voice] = (await get(withQuery("/v1/voices", { name, owner, limit: 1 }))).data;
  if (!voice) return null;
  const job = await get(`/v1/jobs/${voice.newest.job_id}`);
  const changed = settings.changedFrom(job.config);
  const differences = Object.entries(changed).map(([option, value]) => t("page.pair", { name: labelOf(option), value: `${wordOf(option, job.config[option] ?? null)} → ${wordOf(option, value)}` }));
  if (job.dataset_id !== datasetId) differences.unshift(t("new.same_name.recordings"));
  const what = differences.length ? t("new.same_name.differs", { what: differences.join("; ") }) : t("new.same_name.alike");
  return `${t("new.same_name", { n: number(voice.next_version), newest: number(voice.newest.version), when: ago(job.created_at) })} ${what}`;
}

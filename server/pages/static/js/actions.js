// Actions on a job, by its status.

import { get, post, remove, withQuery } from "./api.js";
import { at, h } from "./dom.js";
import { attempt, confirm, may, notify } from "./shell.js";
import { size, t } from "./words.js";

export const OVER = ["succeeded", "failed", "cancelled"];
export const isOver = (job) => OVER.includes(job.status);

/** The text of a job's status. */
export const statusOf = (job) => t(job.waiting_for.includes("weights") ? "status.fetching" : `status.${job.status}`);

const path = (job, step = "") => `/v1/jobs/${job.id}${step}`;

const DEEDS = {
  pause: { fits: (job) => ["queued", "running"].includes(job.status), run: pause },
  resume: { fits: (job) => job.status === "paused", run: (job) => post(path(job, "/resume")) },
  cancel: { fits: (job) => !isOver(job) && job.status !== "cancelling", run: cancel, danger: true },
  retry: { fits: (job) => ["failed", "cancelled"].includes(job.status), needsRecordings: true, run: retry },
  more: { fits: (job) => job.status === "succeeded", needsRecordings: true, run: (job) => location.assign(at(`/new?retry=${job.id}`)) },
  clone: { fits: isOver, run: (job) => location.assign(at(`/new?clone=${job.id}`)) },
  delete: { fits: isOver, run: erase, danger: true },
};

async function pause(job) {
  await post(path(job, "/pause"));
  notify(t("said.paused", { name: job.name }), {
    action: { label: t("action.resume"), run: () => attempt(() => post(path(job, "/resume"))) },
  });
}

async function cancel(job) {
  const question = { title: t("ask.cancel.title", { name: job.name }), text: t("ask.cancel.text"), button: t("ask.cancel.button") };
  if (await confirm(question)) await post(path(job, "/cancel"));
}

/** Retry from the last checkpoint; without one, from the start. The new job's page is opened. */
async function retry(job) {
  const saved = await get(withQuery(path(job, "/events"), { type: "checkpoint_saved", limit: 1 }));
  const from = saved.data.length || job.retry_from === "checkpoint" ? "checkpoint" : "start";
  const made = await post(path(job, "/retry"), { from, fetch_weights: true });
  location.assign(at(`/jobs/${made.id}`));
}

/** Delete a job. `job.voice`: its voice, in lists of voices, where only this version is meant. */
async function erase(job) {
  const isOneOf = job.voice?.num_versions > 1;
  const title = isOneOf ? t("ask.delete_version.title", { name: job.name, n: job.voice.newest.version }) : t("ask.delete.title", { name: job.name });
  const text = [t("ask.delete.text"), isOneOf && t("ask.delete_version.text")].filter(Boolean).join(" ");
  const question = { title, text, button: t("action.delete") };
  if (!(await confirm(question))) return false;
  await remove(path(job));
  notify(job.disk_bytes ? t("said.deleted_freed", { name: job.name, size: size(job.disk_bytes) }) : t("said.deleted", { name: job.name }));
  if (location.pathname.startsWith(at("/jobs/"))) location.assign(at("/"));
  return true;
}

/** Whether an action is possible, by the job's status. */
export const fits = (name, job) => DEEDS[name].fits(job);

/** The request of an action, without its question. */
export const requestOf = (name, job) => (name === "delete" ? remove(path(job)) : post(path(job, `/${name}`)));

/** Put the buttons of a job's possible actions into `place`; `after` runs after an action. None for read-only callers. */
export async function showActions(place, job, after) {
  const names = (await may("submit")) ? Object.keys(DEEDS).filter((name) => DEEDS[name].fits(job)) : [];
  place.job = job;
  const present = `${names.join()} ${job.dataset_deleted}`;
  if (place.dataset.present === present) return;
  place.dataset.present = present;
  place.replaceChildren(...names.map((name) => {
    const isVain = job.dataset_deleted && DEEDS[name].needsRecordings;
    const looks = { class: DEEDS[name].danger ? "danger" : null, disabled: isVain, title: isVain ? t("job.recordings_deleted") : null };
    const button = h("button", { type: "button", ...looks }, t(`action.${name}`));
    button.addEventListener("click", async () => {
      button.disabled = true;
      await attempt(() => DEEDS[name].run(place.job));
      button.disabled = false;
      after();
    });
    return button;
  }));
}

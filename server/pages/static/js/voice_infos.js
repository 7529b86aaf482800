// What is known of voices in a list of jobs: the versions of each, and the one to use.

import { get, withQuery } from "./api.js";
import { h } from "./dom.js";
import { verdict } from "./saves.js";
import { count, figure, number, size, t } from "./words.js";

const SECONDS = 10;
const keyOf = ({ owner, name }) => JSON.stringify([owner, name]);

/** Path of a voice's page. */
export const pageOf = (voice) => voice.url.replace(/^\/v1/, "");

export class VoiceInfos {
  constructor() {
    this.known = new Map();
    this.loadedAt = -Infinity;
    this.states = "";
  }

  of(job) {
    return this.known.get(keyOf(job));
  }

  /** Load the voices of some jobs: again after some seconds, or as soon as one of the jobs has another status. */
  async load(jobs) {
    const states = jobs.map((job) => `${job.id} ${job.status}`).join();
    const now = performance.now() / 1000;
    if (states === this.states && now - this.loadedAt < SECONDS) return;
    const { data } = await get(withQuery("/v1/voices", { limit: 100 }));
    this.known = new Map(data.map((voice) => [keyOf(voice), voice]));
    const missing = new Map(jobs.filter((job) => !this.of(job)).map((job) => [keyOf(job), job]));
    for (const job of missing.values()) {
      const { data: found } = await get(withQuery("/v1/voices", { name: job.name, owner: job.owner }));
      for (const voice of found) this.known.set(keyOf(voice), voice);
    }
    [this.states, this.loadedAt] = [states, now];
  }
}

/** The scores of a save in words and in the figure that decides; empty where there are none. */
export function soundOf(save) {
  if (!save) return [];
  const word = verdict(save.scores);
  const mel = save.scores["eval/mel"];
  return [word && t(`verdict.${word}`), mel != null && t("voice.mel", { n: figure(mel) })].filter(Boolean);
}

/** What a voice's line has beside the facts of its newest job. */
export function factsOf(voice, job) {
  const { current, newest } = voice;
  const number_ = newest.job_id === job.id ? newest.version : current?.job_id === job.id ? current.version : null;
  const facts = [];
  if (number_ !== null && voice.num_versions > 1) facts.push(h("a", { href: `/jobs/${job.id}` }, t("voice.version", { n: number(number_) })));
  if (current && voice.num_versions > 1) facts.push(t("voices.current", { n: number(current.version) }));
  facts.push(...soundOf(current?.best_save));
  if (voice.num_versions > 1) {
    facts.push(count("voices.versions", voice.num_versions));
    if (voice.disk_bytes) facts.push(t("voices.disk_all", { size: size(voice.disk_bytes) }));
  }
  return facts;
}

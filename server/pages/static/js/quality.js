// Scores of a finished voice by conversions of other speakers, between those without the voice and the speaker's own.

import { byId, h } from "./dom.js";
import { has, number, percent, t } from "./words.js";

const fixed = (digits) => (value) => number(value, digits);
/** Form of each score, and the ends of its scale: the worse first. */
const METRICS = {
  similarity: [fixed(3), 0, 1],
  naturalness: [fixed(2), 1, 5],
  character_error_rate: [percent, 1, 0],
  f0_correlation: [fixed(2), 0, 1],
  voicing_agreement: [percent, 0, 1],
};

/** Show the scores of the saves that have them: the best and the last; none hides the section. */
export function showQuality(checkpoints) {
  const saves = checkpoints.filter((save) => save.quality.length);
  byId("quality-section").hidden = saves.length === 0;
  if (!saves.length) return;
  const known = saves[0].quality.map((score) => score.metric);
  byId("quality-missing").hidden = Object.keys(METRICS).every((metric) => known.includes(metric));
  const titles = saves.map((save) => (saves.length > 1 ? t(save.is_best ? "quality.best" : "quality.last", { n: number(save.epoch) }) : t("quality.value")));
  const cell = (text, attributes = {}) => h("th", { scope: "col", class: "num", ...attributes }, text);
  byId("quality-head").replaceChildren(h("th", { scope: "col" }, t("quality.score")), cell(t("quality.floor")),
    ...titles.map((title) => cell(title)), cell(t("quality.ceiling")));
  byId("quality").replaceChildren(...known.map((metric) => row(metric, saves)));
}

function row(metric, saves) {
  const scores = saves.map((save) => save.quality.find((one) => one.metric === metric));
  const [form, worst, best] = METRICS[metric] ?? [fixed(3), 0, 1];
  const { floor, ceiling } = scores.find(Boolean);
  const cell = (value) => h("td", { class: "num" }, value == null ? "–" : form(value));
  const place = (value) => `${100 * Math.min(1, Math.max(0, (value - worst) / (best - worst)))}%`;
  const bar = h("div", { class: "scale", "aria-hidden": "true" });
  const mark = (value, kind) => {
    if (value == null) return;
    const made = h("span", { class: kind });
    made.style.left = place(value);
    bar.append(made);
  };
  if (floor != null && ceiling != null) {
    const span = h("span", { class: "span" });
    const [start, end] = [place(floor), place(ceiling)].sort((one, other) => parseFloat(one) - parseFloat(other));
    span.style.left = start;
    span.style.width = `${parseFloat(end) - parseFloat(start)}%`;
    bar.append(span);
  }
  mark(floor, "bound");
  mark(ceiling, "bound");
  for (const score of scores) mark(score?.value, "mark");
  return h("tr", {}, h("th", { scope: "row" }, has(`quality.${metric}`) ? t(`quality.${metric}`) : metric, bar), cell(floor),
    ...scores.map((score) => cell(score?.value)), cell(ceiling));
}

/** The scores of a voice in plain words, for people who only listen: `[metric, words, figures]`. */
export function inWords(scores) {
  return scores.filter(({ metric }) => METRICS[metric]).map(({ metric, value, floor, ceiling }) => {
    const [form] = METRICS[metric];
    const share = floor == null || ceiling == null || floor === ceiling ? null : (value - floor) / (ceiling - floor);
    const word = share === null ? null : ["low", "middle", "high"][(share >= 0.25) + (share >= 0.75)];
    const figures = [form(value), floor != null && t("shared.quality.floor", { n: form(floor) }), ceiling != null && t("shared.quality.ceiling", { n: form(ceiling) })];
    return [metric, word && t(`shared.quality.${word}`), figures.filter(Boolean).join(" · ")];
  });
}

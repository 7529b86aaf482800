// What a job will take, in figures that are as exact as they are known.

import { byId, h } from "../dom.js";
import { about, duration, number, size, t } from "../words.js";

const DAY = 86400;
/** Content encoders that no other program has. */
const OWN_ENCODERS = ["whisper-tiny", "local"];

/** Show an answer to `/v1/jobs:estimate`; `config` was asked about; `known`: warnings that are shown as findings. `hurry()` chooses a quick try; null: none can be chosen. */
export function showEstimate(found, { config, known, hurry }) {
  const limit = config.max_train_seconds ? t("new.estimate.limit", { value: duration(config.max_train_seconds) }) : null;
  const isAuto = config.total_epochs === "auto"; // its end is not known beforehand: both bounds are shown
  const time = isAuto ? null : found.seconds && about(found.seconds);
  const between = isAuto && found.seconds ? t("new.estimate.from_to", { low: rounded(found.seconds.low), high: rounded(found.seconds.high) }) : null;
  const facts = [
    ["time", time ?? between ?? limit ?? t("new.estimate.unknown")],
    ["steps", found.steps && (isAuto ? t("new.estimate.from_to", { low: number(found.steps.low), high: number(found.steps.high) }) : number(found.steps.high))],
    ["disk", found.disk_bytes && t("new.up_to", { value: size(found.disk_bytes.high) })],
    ["memory", found.has_gpu && found.gpu_memory_bytes && t("new.up_to", { value: size(found.gpu_memory_bytes.high) })],
    ["wait", found.starts_in && found.starts_in.high > 60 ? about(found.starts_in) : null],
  ];
  byId("estimate").replaceChildren(...facts.filter(([, value]) => value).map(([key, value]) =>
    h("div", {}, h("dt", {}, t(`new.estimate.${key}`)), h("dd", {}, value))));
  const basis = between ? "new.basis.auto" : time ? `new.basis.${found.basis}` : limit ? "new.basis.limit" : "new.basis.unknown";
  const shared = found.jobs_per_device > 1 ? [t("new.basis.shared", { number: found.jobs_per_device })] : [];
  byId("estimate-basis").textContent = [t(basis), ...shared].join(" ");
  byId("estimate-basis").title = found.basis_detail;
  const isSlow = time && !found.has_gpu && found.seconds.likely > DAY;
  const isAboutEncoder = (text) => text.includes("content=contentvec"); // of command lines; the page's own words follow
  const isAboutWeights = (text) => found.missing_weights.length > 0 && text.includes("weights fetch"); // shown with their sizes
  byId("warnings").replaceChildren(
    ...(isSlow ? [h("li", { class: "warning" }, t(hurry ? "new.slow" : "new.slow_retry"), " ", hurry && h("button", { type: "button", onclick: hurry }, t("new.effort.try")))] : []),
    ...found.warnings.filter((text) => !known.has(text) && !isAboutWeights(text))
      .map((text) => warning(isAboutEncoder(text) && OWN_ENCODERS.includes(config.content) ? t("job.content_notice", { encoder: config.content }) : text)));
}

/** Show that there is no estimate, since the settings are not valid. */
export function forgetEstimate() {
  byId("estimate").replaceChildren();
  byId("estimate-basis").textContent = "";
  byId("warnings").replaceChildren();
}

/** A warning; a long one is folded after its first sentence or line. */
function warning(text) {
  if (text.length < 200) return h("li", { class: "warning" }, text);
  const end = /[.;:] /.exec(text.slice(60))?.index;
  return h("li", { class: "warning" }, h("details", {}, h("summary", {}, `${text.slice(0, end === undefined ? 120 : 60 + end)} …`), text));
}

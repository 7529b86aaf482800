// The report on the recordings.

import { get } from "../api.js";
import { byId, h } from "../dom.js";
import { reasonOf } from "./file_rules.js";
import { duration, has, number, percent, t } from "../words.js";

const UNDER_WAY = ["ingesting", "validating"];

/** Whether a dataset's recordings are still being unpacked or checked. */
export const isUnderWay = (dataset) => UNDER_WAY.includes(dataset.status);

/** The sample rate that loses nothing, by the codes of findings that advise it. */
const RATE_ADVICE = { low_bandwidth: "32k", low_sample_rate: "32k" };

/** Show a dataset's report, and return it; null while there is none. `advise(advice)` applies one; null: none can be. */
export async function showReport(dataset, advise) {
  byId("report").hidden = false;
  const state = byId("report-state");
  state.className = `pill ${dataset.status}`;
  state.textContent = t(`dataset.${dataset.status}`);
  if (isUnderWay(dataset)) {
    byId("findings").replaceChildren(...(dataset.reason ? [h("li", { class: "bad" }, dataset.reason)] : []));
    return null;
  }
  const report = await get(`/v1/datasets/${dataset.id}/report`);
  const measures = [
    ["speech", report.speech_seconds != null ? duration(report.speech_seconds) : null],
    ["used", report.kept_seconds != null ? duration(report.kept_seconds) : null],
    ["not_used", dropped(report.dropped_seconds)],
    ["files", `${number(report.num_usable)} / ${number(report.num_files)}`],
    ["rates", Object.keys(report.sample_rates).map((rate) => `${number(rate / 1000, 1)} kHz`).join(", ")],
    ["snr", report.snr_db != null ? `${number(report.snr_db)} dB` : null],
    ["clipped", report.usable && report.clipped_share != null ? `${number(100 * report.clipped_share, 2)} %` : null],
    ["silence", report.usable && report.silence_share != null ? percent(report.silence_share) : null],
    ["echo", report.reverberation_seconds != null ? `${number(report.reverberation_seconds, 2)} s` : null],
  ];
  byId("measures").replaceChildren(...measures.filter(([, value]) => value).map(([key, value]) =>
    h("div", {}, h("dt", {}, t(`new.measure.${key}`)), h("dd", {}, value))));
  const findings = report.findings.map((finding) => found(finding, advise));
  const folders = [...new Set(report.files.map(({ name }) => (name.includes("/") ? name.split("/")[0] : null)))];
  if (advise && folders.length > 1 && !folders.includes(null)) {
    const names = folders.slice(0, 5).join(", ") + (folders.length > 5 ? ", …" : "");
    findings.push(h("li", {}, t("new.folders", { n: number(folders.length), names }), " ", apply(advise, "folders", t("new.advice.folders"))));
  }
  if (!report.usable) findings.unshift(h("li", { class: "bad" }, dataset.reason ?? report.reason ?? ""));
  if (report.usable && !findings.length) findings.push(h("li", {}, t("new.nothing_found")));
  const others = report.left_out.map((file) => file.name);
  findings.push(...dataset.notes.filter((note) => !others.length || !note.startsWith("left out: ")).map((note) => h("li", {}, note)));
  if (others.length) {
    findings.push(h("li", {}, t("new.left_out", { n: number(others.length) }), h("small", { class: "mono" }, firstFew(others))));
  }
  byId("findings").replaceChildren(...findings);
  byId("files").hidden = report.files.length + report.left_out.length === 0;
  byId("files-list").replaceChildren(...report.files.map((file) => h("tr", {},
    h("td", {}, file.name),
    h("td", { class: "num" }, file.seconds == null ? "–" : duration(file.seconds)),
    h("td", { class: "num" }, file.kept_seconds == null ? "–" : duration(file.kept_seconds)),
    h("td", { class: "num" }, file.sample_rate == null ? "–" : `${number(file.sample_rate / 1000, 1)} kHz`),
    h("td", {}, [file.error, ...file.notes, ...file.remarks, notUsed(file)].filter(Boolean).join("; ")))),
  ...report.left_out.map((file) => h("tr", {}, h("td", {}, file.name), ...["–", "–", "–"].map((dash) => h("td", { class: "num" }, dash)),
    h("td", {}, t("new.left_out.file", { reason: reasonOf(file) })))));
  drawOverview(report.overview);
  return report;
}

/** Time that training does not use, by reason, such as "3.2 s silent"; null if there is none to show. */
function dropped(seconds) {
  const shown = Object.entries(seconds).filter(([, value]) => value >= 0.05);
  return shown.map(([reason, value]) => t(`dropped.${reason}`, { n: number(value, 1) })).join(", ") || null;
}

function notUsed(file) {
  const text = dropped(file.dropped_seconds);
  return text && t("new.not_used", { text });
}

const firstFew = (names) => names.slice(0, 5).join(", ") + (names.length > 5 ? ", …" : "");

/** A finding in the page's language if its code has a translation, else the server's text. */
function found(finding, advise) {
  const key = `finding.${finding.code}`;
  const values = Object.fromEntries(Object.entries(finding.values).map(([name, value]) =>
    [name, name.endsWith("share") ? `${number(100 * value, 1)} %` : number(value, 1)]));
  const [message, advice] = has(key) ? [t(key, values), t(`${key}.advice`, values)] : [finding.message, finding.advice];
  const files = has(key) && finding.files.length ? firstFew(finding.files) : null;
  const rate = advise && RATE_ADVICE[finding.code];
  return h("li", { class: finding.severity }, message, h("small", {}, advice), files && h("small", { class: "mono" }, files),
    rate && apply(advise, rate, t("new.advice.rate", { rate })));
}

/** A button that applies an advice once. */
function apply(advise, advice, label) {
  return h("button", { type: "button", onclick: (event) => {
    advise(advice);
    event.target.replaceWith(h("strong", { role: "status" }, `✓ ${label}`));
  } }, label);
}

/** The loudness of all recordings in sequence, as far as the report contains it. */
function drawOverview(overview) {
  const place = byId("overview");
  place.hidden = !overview?.peaks?.length;
  if (place.hidden) return;
  const canvas = h("canvas", { role: "img", "aria-label": t("new.overview") });
  place.replaceChildren(canvas);
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * scale, canvas.clientHeight * scale];
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const bar = width / overview.peaks.length;
  pen.fillStyle = style.getPropertyValue("--accent");
  overview.peaks.forEach((peak, n) => {
    const tall = Math.max(scale, peak * height * 0.92);
    pen.fillRect(n * bar, (height - tall) / 2, Math.max(bar * 0.7, 0.6), tall);
  });
  pen.fillStyle = style.getPropertyValue("--line");
  for (const start of overview.starts.slice(1)) pen.fillRect(start * width, 0, scale, height);
}

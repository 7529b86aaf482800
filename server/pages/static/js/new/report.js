// The report on the recordings.

import { get } from "../api.js";
import { byId, h } from "../dom.js";
import { derive, Recordings } from "./recordings.js";
import { attempt } from "../shell.js";
import { count, duration, has, number, percent, seconds, t } from "../words.js";

const UNDER_WAY = ["ingesting", "validating"];

/** Whether a dataset's recordings are still being unpacked or checked. */
export const isUnderWay = (dataset) => UNDER_WAY.includes(dataset.status);

/** The sample rate that loses nothing, by the codes of findings that advise it. */
const RATE_ADVICE = { low_bandwidth: "32k", low_sample_rate: "32k" };

/**
 * Show a dataset's report, and return it; null while there is none. `advices`: `isTaken(advice)` and `take(advice)`.
 * `take(dataset)` goes on with another dataset. null: neither is possible.
 */
export async function showReport(dataset, advices, take) {
  byId("report").hidden = false;
  const state = byId("report-state");
  state.className = `pill ${dataset.status}`;
  state.textContent = t(`dataset.${dataset.fetch ? "fetching" : dataset.status}`);
  if (isUnderWay(dataset)) {
    for (const id of ["files", "player", "overview", "leave-out"]) byId(id).hidden = true;
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
    ["clipped", report.usable && report.clipped_share != null ? percent(report.clipped_share, 2) : null],
    ["silence", report.usable && report.silence_share != null ? percent(report.silence_share) : null],
    ["echo", report.reverberation_seconds != null ? seconds(report.reverberation_seconds) : null],
  ];
  byId("measures").replaceChildren(...measures.filter(([, value]) => value).map(([key, value]) =>
    h("div", {}, h("dt", {}, t(`new.measure.${key}`)), h("dd", {}, value))));
  const recordings = new Recordings(dataset, report.files, report.overview, take);
  const leaveOut = take && ((names) => attempt(async () => take(await derive(dataset, names))));
  const findings = report.findings.map((finding) => found(finding, advices, recordings, leaveOut));
  const folders = [...new Set(report.files.map(({ name }) => (name.includes("/") ? name.split("/")[0] : null)))];
  if (advices && folders.length > 1 && !folders.includes(null)) {
    const names = folders.slice(0, 5).join(", ") + (folders.length > 5 ? ", …" : "");
    findings.push(h("li", {}, t("new.folders", { n: number(folders.length), names }), " ", apply(advices, "folders", t("new.advice.folders"))));
  }
  if (!report.usable) findings.unshift(h("li", { class: "bad" }, dataset.reason ?? report.reason ?? ""));
  if (report.usable && !findings.length) findings.push(h("li", {}, t("new.nothing_found")));
  const others = report.left_out.filter((file) => file.code !== "chosen").map((file) => file.name);
  findings.push(...dataset.notes.filter((note) => !others.some((name) => note.includes(name))).map((note) => h("li", {}, note)));
  if (others.length) {
    findings.push(h("li", {}, t("new.left_out", { n: number(others.length) }), h("small", { class: "mono" }, firstFew(others))));
  }
  byId("findings").replaceChildren(...findings);
  recordings.show(report.left_out, (file) => [file.error, ...file.notes, ...file.remarks, notUsed(file)].filter(Boolean).join("; "));
  drawOverview(report.overview, recordings);
  return report;
}

/** Time that training does not use, by reason, such as "3.2 s silent"; null if there is none to show. */
function dropped(times) {
  const shown = Object.entries(times).filter(([, value]) => value >= 0.05);
  return shown.map(([reason, value]) => t(`dropped.${reason}`, { n: number(value, 1) })).join(", ") || null;
}

function notUsed(file) {
  const text = dropped(file.dropped_seconds);
  return text && t("new.not_used", { text });
}

const firstFew = (names) => names.slice(0, 5).join(", ") + (names.length > 5 ? ", …" : "");

/** A finding in the page's language if its code has a translation, else the server's text; its recordings can be played. */
function found(finding, advices, recordings, leaveOut) {
  const key = `finding.${finding.code}`;
  const values = Object.fromEntries(Object.entries(finding.values).map(([name, value]) =>
    [name, name.endsWith("share") ? percent(value, 1) : number(value, 1)]));
  const [message, advice] = has(key) ? [t(key, values), t(`${key}.advice`, values)] : [finding.message, finding.advice];
  const files = has(key) && finding.files.length > 0 && recordings.named(finding.files);
  const copies = finding.superfluous.length > 0 && leaveOut;
  const rate = advices && RATE_ADVICE[finding.code];
  return h("li", { class: finding.severity }, message, h("small", {}, advice), files,
    rate && apply(advices, rate, t("new.advice.rate", { rate })),
    copies && h("button", { type: "button", onclick: () => leaveOut(finding.superfluous) }, count("new.advice.copies", finding.superfluous.length)));
}

/** A button that applies an advice once; a remark where it is taken already. */
function apply(advices, advice, label) {
  const taken = () => h("strong", { role: "status" }, `✓ ${label}`);
  if (advices.isTaken(advice)) return taken();
  return h("button", { type: "button", onclick: (event) => {
    advices.take(advice);
    event.target.replaceWith(taken());
  } }, label);
}

/** The loudness of all recordings in sequence, as far as the report contains it; a press plays what is there. */
function drawOverview(overview, recordings) {
  const place = byId("overview");
  place.hidden = !overview?.peaks?.length;
  if (place.hidden) return;
  const canvas = h("canvas", { role: "img", "aria-label": t("new.overview"), title: t("new.overview.play"),
    onclick: ({ offsetX }) => recordings.playAt(offsetX / canvas.clientWidth, overview.starts) });
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

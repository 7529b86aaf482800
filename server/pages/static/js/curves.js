// Curves over the training steps, drawn by uPlot: zoomed together, optionally smoothed, beside those of other jobs.

import { get, repeat, withQuery } from "./api.js";
import { byId, h } from "./dom.js";
import { figure, has, marks, t } from "./words.js";

const ORDER = [
  "loss/mel", "loss/kl", "loss/fm", "loss/gen", "loss/disc", "learning_rate", "grad_norm/g", "grad_norm/d",
  "eval/mel", "eval/f0_cents", "eval/voicing", "eval/similarity", "eval/mel_posterior", "speed/clips_per_second",
];
const MOST_POINTS = 1200;
/** Steps between two ticks: there is no half step. */
const WHOLE = Array.from({ length: 9 }, (_, n) => [1, 2, 5].map((one) => one * 10 ** n)).flat();
/** Curves that help nobody to judge a voice. */
const LEFT_OUT = ["speed/machine_share"];
const COLOURS = ["--accent", "#2f7fc1", "#2f9e5b", "#a855b5", "#b58900"];

export class Curves {
  /** `uPlot`: that library's class; `jobs()`: those whose curves are shown, `{id, name}`; the page's own first. */
  constructor(uPlot, jobs, place, zoomOut) {
    this.uPlot = uPlot;
    this.jobsNow = jobs;
    this.jobs = jobs();
    this.place = place;
    this.zoomOut = zoomOut;
    this.charts = new Map();
    this.series = new Map();
    this.range = null;
    this.marks = []; // vertical lines in the charts of scores
    this.smoothing = 0;
    this.isDue = false;
    zoomOut.addEventListener("click", () => this.zoom(null));
    document.addEventListener("themechange", () => this.redraw());
    new ResizeObserver(() => this.resize()).observe(place);
  }

  start(smoothing) {
    this.smoothing = Number(smoothing.value);
    smoothing.addEventListener("input", () => {
      this.smoothing = Number(smoothing.value);
      this.draw();
    });
    this.isDue = true;
    this.ticking = repeat(() => (this.isDue ? this.load() : null), () => 3);
  }

  /** Mark steps in the charts of scores: `{step, name, text}`, the first one as the best. */
  mark(marks) {
    this.marks = marks;
    for (const [key, { plot, element }] of this.charts) if (this.isMarked(key)) this.showMarks(plot, element);
  }

  isMarked(key) {
    return key.startsWith("eval/");
  }

  /** Draw a chart's marks again; they are in its element too, as a canvas can't be read. */
  showMarks(plot, element) {
    element.dataset.marks = this.marks.map(({ text, step }) => `${text} ${step}`).join(", ");
    plot.redraw(false);
  }

  /** Fetch the values soon, if the job has had another event since the last call: `seq` is the newest one's number. */
  mayLoad(seq) {
    if (seq !== this.seq) this.isDue = true;
    this.seq = seq;
  }

  /** Fetch the values at once: other jobs are to be shown. */
  renew() {
    this.isDue = true;
    this.ticking?.again();
  }

  /** Fetch the values; they stay due while the server is unreachable. */
  async load() {
    this.isDue = false;
    try {
      await this.ask();
    } catch (fault) {
      this.isDue = true;
      throw fault;
    }
  }

  async ask() {
    const words = { max_points: MOST_POINTS, since_step: this.range ? Math.max(0, Math.floor(this.range[0]) - 1) : null };
    this.jobs = this.jobsNow();
    const found = await Promise.all(this.jobs.map((job) => get(withQuery(`/v1/jobs/${job.id}/metrics`, words))));
    this.series = new Map();
    found.forEach(({ data }, place) => {
      for (const one of data.filter(({ key }) => !LEFT_OUT.includes(key))) {
        if (!this.series.has(one.key)) this.series.set(one.key, []);
        this.series.get(one.key)[place] = one;
      }
    });
    this.draw();
  }

  draw() {
    const rank = (key) => (ORDER.indexOf(key) + ORDER.length + 1) % (ORDER.length + 1);
    const keys = [...this.series.keys()].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
    byId("no-curves").hidden = keys.length > 0;
    const ids = this.jobs.map((job) => job.id).join();
    for (const [key, chart] of this.charts) {
      if (!this.series.has(key) || chart.of !== ids) {
        chart.plot.destroy();
        chart.element.remove();
        this.charts.delete(key);
      }
    }
    for (const key of keys) {
      if (!this.charts.has(key)) this.charts.set(key, this.make(key));
      const chart = this.charts.get(key);
      this.place.append(chart.element);
      const data = aligned(this.jobs.map((_, place) => this.smoothed(key, this.series.get(key)[place])));
      chart.plot.setData(data, false);
      this.scale(chart.plot, data);
      this.showValues(chart, null);
    }
  }

  /** The values of all lines at a place of the steps, or the newest ones. */
  showValues(chart, place) {
    const [steps, ...rows] = chart.plot.data;
    const shown = rows.map((row, n) => {
      const value = place === null ? row.findLast((one) => one != null) : row[place] ?? near(row, place);
      return value == null ? null : h("span", { class: `value value-${n}` }, figure(value));
    });
    const step = place === null ? null : h("span", {}, t("job.at_step", { step: figure(steps[place]) }));
    chart.newest.replaceChildren(...[step, ...shown].filter(Boolean));
  }

  /** The zoomed or whole range of x, and the range of y that is visible in it. */
  scale(plot, [steps, ...rows]) {
    const [min, max] = this.range ?? [steps[0] ?? 0, steps.at(-1) ?? 1];
    plot.batch(() => {
      plot.setScale("x", { min, max: max > min ? max : min + 1 });
      let [low, high] = [Infinity, -Infinity];
      for (const row of rows) {
        row.forEach((value, n) => {
          if (value == null || steps[n] < min || steps[n] > max) return;
          low = Math.min(low, value);
          high = Math.max(high, value);
        });
      }
      if (low > high) [low, high] = [0, 1];
      const room = (high - low || Math.abs(high) || 1) * 0.06;
      plot.setScale("y", { min: low - room, max: high + room });
    });
  }

  /** Exponential smoothing; series that are measured rarely are shown unchanged. */
  smoothed(key, one) {
    if (!one) return { steps: [], values: [] };
    if (!this.smoothing || !/^(loss|grad_norm)\//.test(key)) return one;
    let mean = null;
    const values = one.values.map((value) => {
      if (value == null) return null;
      mean = mean === null ? value : this.smoothing * mean + (1 - this.smoothing) * value;
      return mean;
    });
    return { steps: one.steps, values };
  }

  make(key) {
    const name = has(`metric.${key}`) ? t(`metric.${key}`) : key;
    const newest = h("output");
    const frame = h("div");
    const element = h("div", { class: "curve", role: "img", "aria-label": name }, h("h3", {}, h("span", {}, name), newest), frame);
    this.place.append(element);
    const style = getComputedStyle(document.documentElement);
    const colour = (variable) => style.getPropertyValue(variable).trim();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const lines = this.jobs.map((job, place) => ({ label: job.name, stroke: place ? COLOURS[place] : colour(COLOURS[0]), width: 1.8, spanGaps: true, points: { show: key.startsWith("eval/") } }));
    const chart = { element, newest, of: this.jobs.map((job) => job.id).join() };
    const plot = new this.uPlot({
      width: frame.clientWidth || 330,
      height: 170,
      cursor: { sync: { key: "steps" }, drag: { x: true, y: false, setScale: false }, points: { size: 7 } },
      legend: { show: false },
      scales: { x: { time: false, auto: false }, y: { auto: false } },
      axes: [
        { ...axis, size: 26, incrs: WHOLE, values: (_, ticks) => marks(ticks) },
        { ...axis, size: 60, values: (_, ticks) => marks(ticks) },
      ],
      series: [{}, ...lines],
      hooks: {
        draw: this.isMarked(key) ? [(self) => drawMarks(self, this.marks)] : [],
        setSelect: [(self) => this.selected(self)],
        setCursor: [(self) => chart.plot && this.showValues(chart, self.cursor.idx ?? null)],
      },
    }, [[], ...lines.map(() => [])], frame);
    chart.plot = plot;
    if (this.isMarked(key)) this.showMarks(plot, element);
    plot.over.addEventListener("dblclick", () => this.zoom(null));
    plot.over.addEventListener("touchend", () => setTimeout(() => plot.setCursor({ left: -10, top: -10 }), 3000));
    return chart;
  }

  selected(plot) {
    if (plot.select.width < 4) return;
    const ends = [plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")];
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.zoom(ends);
  }

  /** Show a range of steps in all curves, first with the points at hand, then with finer ones. */
  zoom(range) {
    this.range = range;
    this.zoomOut.hidden = range === null;
    for (const { plot } of this.charts.values()) this.scale(plot, plot.data);
    this.isDue = true;
    this.ticking.again();
  }

  resize() {
    for (const { plot, element } of this.charts.values()) {
      const width = element.clientWidth;
      if (width && Math.abs(width - plot.width) > 1) plot.setSize({ width, height: 170 });
    }
  }

  redraw() {
    for (const { plot, element } of this.charts.values()) {
      plot.destroy();
      element.remove();
    }
    this.charts.clear();
    this.draw();
  }
}

/** Dashed vertical lines at steps, named at their tops. */
function drawMarks(plot, marks) {
  const style = getComputedStyle(document.documentElement);
  const { ctx, bbox } = plot;
  for (const { step, name, text } of marks) {
    const x = plot.valToPos(step, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    const isRight = x > bbox.left + bbox.width / 2;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = style.getPropertyValue(name === "best" ? "--good" : "--muted").trim();
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.font = `${11 * devicePixelRatio}px system-ui`;
    ctx.textAlign = isRight ? "right" : "left";
    const line = name === "best" ? 1 : 2.2; // one below the other, where both are near
    ctx.fillText(text, x + (isRight ? -4 : 4) * devicePixelRatio, bbox.top + 11 * line * devicePixelRatio);
    ctx.restore();
  }
}

/** The last value of a row before a place: of a series that was measured at other steps. */
function near(row, place) {
  for (let n = place; n >= 0; n -= 1) if (row[n] != null) return row[n];
  return null;
}

/** Several series on the union of their steps, in uPlot's format. */
function aligned(series) {
  if (series.length === 1) return [series[0].steps, series[0].values];
  const steps = [...new Set(series.flatMap((one) => one.steps))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, n) => [step, n]));
  return [steps, ...series.map((one) => {
    const row = new Array(steps.length).fill(undefined);
    one.steps.forEach((step, n) => { row[place.get(step)] = one.values[n]; });
    return row;
  })];
}

// A log of any length: only the lines in view are in the page. It is asked for what it grew by, and searched in the page.

import { ApiError, getBytes, repeat } from "./api.js";
import { h } from "./dom.js";
import { count, t } from "./words.js";

const LINE = 20;
const MARGIN = 20;
/** The most lines to show; older ones are in the file only. */
const MOST_LINES = 50000;

export class Log {
  constructor(base, { frame, state, search, next, previous, follow: box }) {
    Object.assign(this, { base, frame, state, search, box });
    this.lines = [];
    this.end = null;
    this.isComplete = false;
    this.scrolledTo = 0;
    this.hits = [];
    this.hit = -1;
    this.drawn = "";
    this.tall = h("div", { class: "tall" });
    frame.append(this.tall);
    frame.addEventListener("scroll", () => this.onScroll(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(frame);
    search.addEventListener("input", () => this.findSoon());
    search.addEventListener("keydown", (event) => event.key === "Enter" && this.go(event.shiftKey ? -1 : 1));
    next.addEventListener("click", () => this.go(1));
    previous.addEventListener("click", () => this.go(-1));
    box.addEventListener("change", () => this.toEnd());
  }

  /** Show the log so far (the end of a long one), and what it grows by while the page is visible; `isOver()`: of the job. */
  start(isOver) {
    if (this.isStarted) return;
    this.isStarted = true;
    let isGone = false;
    let wasOverBefore = false;
    repeat(async () => {
      const wasOver = isOver();
      const isLast = wasOver && wasOverBefore; // a worker may write its last lines just after it has told the end
      try {
        await this.load(isLast);
      } catch (fault) {
        if (!(fault instanceof ApiError) || fault.status !== 404) throw fault;
        isGone = true;
      }
      this.isComplete = isLast;
      wasOverBefore = wasOver;
    }, () => (isGone ? Infinity : this.isComplete ? 15 : 2));
  }

  async load(isComplete) {
    let answer;
    try {
      answer = await getBytes(`${this.base}/logs?${this.end === null ? `tail=${MOST_LINES}` : `offset=${this.end}`}`);
    } catch (fault) {
      if (!(fault instanceof ApiError) || fault.status !== 416) throw fault;
      this.end = null; // the log is shorter than it was: another one, of a server that was restored
      this.lines = [];
      return;
    }
    // A last line without a line break is left for later: it may still grow.
    const cut = isComplete ? answer.bytes.length : answer.bytes.lastIndexOf(10) + 1;
    this.end = Number(answer.headers.get("X-Log-End")) - (answer.bytes.length - cut);
    if (cut) this.add(new TextDecoder().decode(answer.bytes.subarray(0, cut)).replace(/\r?\n$/, "").split(/\r?\n/));
  }

  add(lines) {
    if (!lines.length) return;
    for (const line of lines) this.lines.push(line);
    if (this.lines.length > MOST_LINES) this.lines.splice(0, this.lines.length - MOST_LINES);
    if (!this.isDue) {
      this.isDue = true;
      requestAnimationFrame(() => {
        this.isDue = false;
        this.tall.style.height = `${this.lines.length * LINE}px`;
        if (this.search.value) this.find(false);
        this.drawn = "";
        this.toEnd();
        this.draw();
        this.update();
      });
    }
  }

  toEnd() {
    if (this.box.checked) this.frame.scrollTop = this.frame.scrollHeight;
  }

  /** Upwards is never scrolled but by the reader: following the log ends then. */
  onScroll() {
    if (this.frame.scrollTop < this.scrolledTo - 1) this.box.checked = false;
    this.scrolledTo = this.frame.scrollTop;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.frame.scrollTop / LINE) - MARGIN);
    const last = Math.min(this.lines.length, Math.ceil((this.frame.scrollTop + this.frame.clientHeight) / LINE) + MARGIN);
    const present = `${first}-${last}-${this.hit}-${this.search.value}`;
    if (present === this.drawn) return;
    this.drawn = present;
    const wanted = this.search.value.toLowerCase();
    const rows = [];
    for (let n = first; n < last; n += 1) {
      const text = this.lines[n];
      const row = h("div", { class: `line ${levelOf(text)}` }, text);
      row.style.top = `${n * LINE}px`;
      if (wanted && text.toLowerCase().includes(wanted)) row.classList.add("hit");
      if (this.hits[this.hit] === n) row.classList.add("present");
      rows.push(row);
    }
    this.tall.replaceChildren(...rows);
  }

  /** After a pause in typing: searching all lines takes longer than a key press may. */
  findSoon() {
    clearTimeout(this.seeking);
    this.seeking = setTimeout(() => this.find(), 120);
  }

  find(isNew = true) {
    const wanted = this.search.value.toLowerCase();
    this.hits = [];
    if (wanted) this.lines.forEach((line, n) => line.toLowerCase().includes(wanted) && this.hits.push(n));
    if (isNew) {
      this.hit = -1;
      if (this.hits.length) this.go(1);
    }
    this.drawn = "";
    this.draw();
    this.update();
  }

  go(direction) {
    if (!this.hits.length) return;
    this.hit = (this.hit + direction + this.hits.length) % this.hits.length;
    this.box.checked = false;
    this.frame.scrollTop = this.hits[this.hit] * LINE - this.frame.clientHeight / 2;
    this.draw();
    this.update();
  }

  update() {
    const found = this.hits.length ? t("job.log_hits", { n: this.hit + 1, total: this.hits.length }) : t("job.log_none");
    const words = this.search.value ? found : count("job.log_lines", this.lines.length);
    this.state.textContent = words;
  }
}

/** The level follows the time: `2026-11-22T22:31:37.839Z warning ...`. */
function levelOf(line) {
  return /^\S+ (warning|error)\b/.exec(line)?.[1] ?? "";
}

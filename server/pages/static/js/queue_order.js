// The order of the queue, changed by drag, by buttons, and by Alt with the arrow keys. The server orders one owner's jobs by priority, then by time.

import { patch } from "./api.js";
import { h } from "./dom.js";
import { attempt, notify } from "./shell.js";
import { t } from "./words.js";

const MOST = 100;
const isEarlier = (one, other) => one.created_at < other.created_at || (one.created_at === other.created_at && one.id < other.id);

/** The fewest changes of priorities, by id, that put the job at `place` of `order` there; those below it keep theirs. */
export function changesFor(order, place) {
  const changes = new Map();
  const priorityOf = (job) => changes.get(job.id) ?? job.priority;
  if (place === order.length - 1 && place > 0) {
    const [above, last] = [order[place - 1], order[place]];
    changes.set(last.id, isEarlier(above, last) ? above.priority : above.priority - 1);
    return changes;
  }
  for (let n = place; n >= 0 && n + 1 < order.length; n -= 1) {
    const least = priorityOf(order[n + 1]) + (isEarlier(order[n], order[n + 1]) ? 0 : 1);
    if (n < place && order[n].priority >= least) break;
    changes.set(order[n].id, least);
  }
  return changes;
}

export class QueueOrder {
  /** `queue()`: the queued jobs in order; `after`: called after a change. */
  constructor(list, queue, after) {
    Object.assign(this, { list, queue, after });
    this.dragged = null;
    list.addEventListener("dragstart", (event) => this.begin(event));
    list.addEventListener("dragover", (event) => this.over(event));
    list.addEventListener("dragend", () => this.mark(null));
    list.addEventListener("drop", (event) => this.drop(event));
    list.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      const item = event.target.closest("li");
      if (!event.altKey || !step || !item?.draggable) return;
      event.preventDefault();
      this.move(item.dataset.key, this.placeOf(item.dataset.key) + step);
    });
  }

  placeOf(id) {
    return this.queue().findIndex((job) => job.id === id);
  }

  /** Buttons that move a queued job: to the front, up, down. */
  buttons(job) {
    const button = (name, sign, to) => h("button", {
      type: "button", class: "quiet", title: t(`queue.${name}`), "aria-label": t("queue.of", { what: t(`queue.${name}`), name: job.name }),
      onclick: () => this.move(job.id, to(this.placeOf(job.id))),
    }, sign);
    return h("span", { class: "moves" }, button("first", "⤒", () => 0), button("up", "↑", (place) => place - 1), button("down", "↓", (place) => place + 1));
  }

  begin(event) {
    const item = event.target.closest("li");
    if (!item?.draggable) return;
    this.dragged = item.dataset.key;
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", item.dataset.key);
  }

  over(event) {
    const item = event.target.closest("li");
    if (this.dragged === null || !item?.draggable) return;
    event.preventDefault();
    this.mark(item);
  }

  mark(target) {
    for (const item of this.list.querySelectorAll(".drop")) if (item !== target) item.classList.remove("drop");
    target?.classList.add("drop");
    if (target === null) this.dragged = null;
  }

  drop(event) {
    const item = event.target.closest("li");
    const id = this.dragged;
    this.mark(null);
    if (id === null || !item?.draggable || item.dataset.key === id) return;
    event.preventDefault();
    this.move(id, this.placeOf(item.dataset.key));
  }

  /** Move a job to a place of the queue, from 0. */
  move(id, place) {
    return attempt(async () => {
      const queue = this.queue();
      const job = queue.find((one) => one.id === id);
      if (!job || place < 0 || place >= queue.length) return;
      const order = queue.filter((one) => one.id !== id);
      order.splice(place, 0, job);
      const changes = changesFor(order, place);
      if ([...changes.values()].some((priority) => Math.abs(priority) > MOST)) {
        notify(t("queue.no_room"), { bad: true });
        return;
      }
      for (const [one, priority] of changes) await patch(`/v1/jobs/${one}`, { priority });
      await this.after();
    });
  }
}

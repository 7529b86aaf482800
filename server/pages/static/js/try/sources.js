// What is to be converted: files that were chosen or dropped, and recordings from the microphone.

import { loadRules } from "../new/file_rules.js";
import { collected, chosen } from "../new/sending.js";
import { h } from "../dom.js";
import { attempt, notify } from "../shell.js";
import { Sides } from "../sides.js";
import { duration, size, t } from "../words.js";
import { longest, microphoneFault, Take, whyNoMicrophone } from "./microphone.js";

/** As many as one conversion may have. */
const MOST = 100;

export class Sources {
  /** `onChange()`: after the files have changed. */
  constructor(onChange) {
    this.onChange = onChange;
    this.limits = null;
    this.files = []; // [{ path, file, isRecorded, isSent }]
    this.player = null;
    this.take = null;
    this.list = h("ul", { class: "sources", hidden: true });
    this.listening = h("div", { hidden: true });
    this.level = { meter: h("meter", { min: 0, max: 1, high: 0.97, "aria-label": t("try.microphone.level") }),
      clock: h("span", { role: "timer" }), hint: h("p", { class: "fault", role: "alert", hidden: true }, t("try.microphone.silent")) };
    this.recording = h("div", { class: "recording", hidden: true },
      h("div", { class: "deck" }, this.level.meter, this.level.clock,
        h("button", { type: "button", class: "primary", onclick: () => this.take?.end() }, t("try.microphone.stop")),
        h("button", { type: "button", onclick: () => this.take?.giveUp() }, t("try.microphone.give_up"))),
      this.level.hint);
    this.fault = h("p", { class: "fault", role: "alert", hidden: true });
    this.drop = this.dropPlace();
    this.element = h("div", { class: "sources-part" }, this.drop, this.recording, this.fault, this.list, this.listening);
    this.listenToDrops();
    addEventListener("beforeunload", (event) => {
      if (this.take || this.files.some((one) => one.isRecorded && !one.isSent)) event.preventDefault(); // it is nowhere else
    });
  }

  dropPlace() {
    const input = h("input", { class: "hidden", type: "file", multiple: true, accept: "audio/*,video/*" });
    input.addEventListener("change", () => {
      this.add(chosen(input.files));
      input.value = "";
    });
    const obstacle = whyNoMicrophone();
    const help = h("p", { class: "muted" });
    attempt(async () => {
      this.limits = (await loadRules()).limits;
      this.record.disabled = false;
      help.textContent = [t("try.drop_help", { time: duration(this.limits.max_conversion_seconds) }), obstacle ?? t("try.microphone.help")].join(" ");
    });
    this.record = h("button", { type: "button", disabled: true, onclick: () => this.startTake() }, t("try.microphone.record"));
    return h("div", { class: "drop" },
      h("p", {}, h("strong", {}, t("try.drop"))),
      h("div", { class: "actions" }, h("label", { class: "button" }, t("try.choose"), input), obstacle ? null : this.record),
      help);
  }

  listenToDrops() {
    for (const kind of ["dragenter", "dragover"]) {
      document.addEventListener(kind, (event) => {
        event.preventDefault();
        this.drop.classList.add("over");
      });
    }
    document.addEventListener("dragleave", (event) => event.relatedTarget === null && this.drop.classList.remove("over"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      this.drop.classList.remove("over");
      attempt(async () => this.add(await collected(event.dataTransfer)));
    });
  }

  async startTake() {
    Sides.last?.pause(); // it would be recorded
    this.fault.hidden = true;
    this.record.disabled = true;
    this.take = new Take(this.level, longest(this.limits));
    try {
      this.recording.hidden = false;
      const file = await this.take.run();
      if (file) this.add([{ path: file.name, file, isRecorded: true }]);
    } catch (fault) {
      this.fault.textContent = microphoneFault(fault);
      this.fault.hidden = false;
    } finally {
      this.take = null;
      this.record.disabled = false;
      this.recording.hidden = true;
      this.record.focus();
    }
  }

  /** Add files; those that were converted make room for them. */
  add(files) {
    this.files = this.files.filter((one) => !one.isSent);
    const most = this.limits?.max_conversion_bytes ?? Infinity;
    for (const { path, file } of files) {
      if (file.size === 0) notify(t("try.empty", { name: path }), { bad: true });
      if (file.size > most) notify(t("try.too_large", { name: path, size: size(most) }), { bad: true });
    }
    this.files.push(...files.filter(({ file }) => file.size > 0 && file.size <= most));
    if (this.files.length > MOST) notify(t("try.too_many", { n: MOST }), { bad: true });
    this.files.length = Math.min(this.files.length, MOST);
    this.show();
  }

  clear() {
    this.files = [];
    this.show();
  }

  show() {
    this.list.hidden = this.listening.hidden = this.files.length === 0;
    this.list.replaceChildren(...this.files.map((one) => h("li", {},
      h("span", {}, one.path), h("small", { class: "muted" }, size(one.file.size)),
      h("button", { type: "button", class: "quiet", "aria-label": t("try.remove", { name: one.path }), onclick: () => this.leave(one) }, "✕"))));
    this.player?.destroy();
    this.player = null;
    if (this.files.length === 1) {
      const [{ path, file }] = this.files;
      this.player = new Sides(path, { chosen: { label: t("try.original"), blob: file } });
    }
    this.listening.replaceChildren(...(this.player ? [this.player.element] : []));
    this.onChange();
  }

  leave(one) {
    this.files = this.files.filter((other) => other !== one);
    this.show();
  }
}

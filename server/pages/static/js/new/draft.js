// What was typed and chosen, kept for this tab: it survives Back, a reload and a restart of the server.

const FIELDS = ["name", "priority", "labels", "gpu_memory", "worker_labels", "effort", "kind", "where", "people", "start", "more"];

/** The draft of one page: of a new voice, or of one from another job. */
export class Draft {
  constructor(form, settings, key) {
    Object.assign(this, { form, settings, key: `rvc-new:${key}` });
    this.isClosed = false;
    /** What was kept before this page was loaded, or null. */
    this.stored = null;
    try {
      this.stored = JSON.parse(sessionStorage.getItem(this.key));
    } catch {
      // No storage, or foreign content.
    }
  }

  save(more) {
    if (this.isClosed) return;
    const fields = Object.fromEntries(FIELDS.map((name) => [name, this.form.elements[name].value]));
    try {
      sessionStorage.setItem(this.key, JSON.stringify({ fields, own: this.settings.own, ...more }));
    } catch {
      // Storage is full or forbidden: nothing is kept.
    }
  }

  /** Put the stored fields and options back; whether there were any. */
  restore() {
    const { stored } = this;
    if (!stored?.fields) return false;
    for (const [name, value] of Object.entries(stored.fields)) {
      const field = this.form.elements[name];
      if (field instanceof RadioNodeList && ![...field].some((radio) => radio.value === value)) continue;
      field.value = value;
    }
    this.settings.own = Object.fromEntries(Object.entries(stored.own ?? {}).filter(([name]) => name in this.settings.properties));
    return true;
  }

  /** Forget it, and keep nothing more of this page. */
  close() {
    this.isClosed = true;
    sessionStorage.removeItem(this.key);
  }
}

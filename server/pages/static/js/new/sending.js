// Recordings to the server by tus 1.0.0: in pieces, to be gone on with after a lost line, a reload or a restart.

import { makeZip, predictLength } from "../../vendor/client-zip/index.js";
import { request } from "../api.js";

const PIECE = 4 << 20;
const MEMORY = "rvc-uploads";
const TUS = { "Tus-Resumable": "1.0.0" };

/** One body to send: a file as it is, or several as a zip that is made on the way and never lies in memory. */
export class Parcel {
  constructor(files) {
    this.files = files; // [{ path, file }]
    this.isZip = files.length > 1;
    this.entries = files.map(({ path, file }) => ({ name: path, input: file, lastModified: new Date(file.lastModified), size: file.size }));
    this.size = this.isZip ? Number(predictLength(this.entries)) : files[0].file.size;
  }

  /** The same for the same files: how an upload that broke off is found again. */
  get mark() {
    return this.files.map(({ path, file }) => `${path}/${file.size}/${file.lastModified}`).join("|");
  }

  /** Pieces of the body from `offset` on. */
  async *pieces(offset) {
    if (!this.isZip) {
      const { file } = this.files[0];
      for (let at = offset; at < file.size; at += PIECE) yield file.slice(at, at + PIECE);
      return;
    }
    let skip = offset;
    let kept = [];
    let length = 0;
    const reader = makeZip(this.entries).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const rest = value.subarray(Math.min(skip, value.length));
      skip -= value.length - rest.length;
      kept.push(rest);
      length += rest.length;
      if (length >= PIECE) {
        yield new Blob(kept);
        [kept, length] = [[], 0];
      }
    }
    if (length) yield new Blob(kept);
  }
}

const remembered = () => JSON.parse(localStorage.getItem(MEMORY) ?? "{}");

function remember(mark, address) {
  const all = remembered();
  if (address) all[mark] = address;
  else delete all[mark];
  try {
    localStorage.setItem(MEMORY, JSON.stringify(all));
  } catch {
    // No room to remember: the upload itself goes on.
  }
}

/** Whether part of these files is at the server already. */
export const isBegun = (parcel) => parcel.mark in remembered();

/** How many uploads broke off, as far as this browser knows. */
export const numBegun = () => Object.keys(remembered()).length;

/** Sends a parcel. `onProgress(bytes)`, `onWait(isWaiting)`. `pause`, `go`, and `stop`, which gives up what was sent. */
export class Sending {
  constructor(parcel, { onProgress, onWait }) {
    Object.assign(this, { parcel, onProgress, onWait });
    this.isPaused = false;
    this.isStopped = false;
    this.wake = null;
    this.abort = new AbortController();
  }

  /** The upload's id once all is there; null when it was stopped. Throws Refusal. */
  async run() {
    let address = remembered()[this.parcel.mark] ?? null;
    let offset = address ? await this.offset(address) : null;
    if (offset === null) {
      address = await this.begin();
      offset = 0;
    }
    let failures = 0;
    while (offset < this.parcel.size && !this.isStopped) {
      const pieces = this.parcel.pieces(offset);
      for await (const piece of pieces) {
        await this.whilePaused();
        if (this.isStopped) break;
        const came = await this.send(address, offset, piece);
        if (came === null) {
          failures += 1;
          break; // begin again from what the server has
        }
        failures = 0;
        offset = came;
        this.onProgress(offset);
      }
      if (offset < this.parcel.size && !this.isStopped) {
        this.onWait(failures > 0);
        if (failures) await sleep(Math.min(1000 * 2 ** failures, 15000) * (0.7 + 0.6 * Math.random()));
        const there = await this.offset(address);
        if (there === null) {
          address = await this.begin();
          offset = 0;
        } else if (there !== "away") {
          offset = there;
          this.onWait(false);
        }
        this.onProgress(offset);
      }
    }
    if (this.isStopped) {
      await fetch(address, { method: "DELETE", headers: TUS }).catch(() => {});
      remember(this.parcel.mark, null);
      return null;
    }
    return address.split("/").at(-1);
  }

  /** The dataset is made: nothing is to be gone on with. */
  done() {
    remember(this.parcel.mark, null);
  }

  async begin() {
    const answer = await this.patiently(() => fetch("/v1/uploads", {
      method: "POST",
      headers: { ...TUS, "Upload-Length": String(this.parcel.size) },
    }));
    if (!answer.ok) await refuse(answer);
    const address = new URL(answer.headers.get("Location"), location.href).pathname;
    remember(this.parcel.mark, address);
    return address;
  }

  /** Bytes that are there; null when the upload is gone, "away" when nobody answers. */
  async offset(address) {
    try {
      const answer = await fetch(address, { method: "HEAD", headers: TUS });
      if (answer.status === 404 || answer.status === 410) return null;
      return answer.ok ? Number(answer.headers.get("Upload-Offset")) : "away";
    } catch {
      return "away";
    }
  }

  /** The new offset; null when it did not arrive whole. */
  async send(address, offset, piece) {
    const headers = { ...TUS, "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
    let answer;
    try {
      answer = await fetch(address, { method: "PATCH", headers, body: piece, signal: this.abort.signal });
    } catch {
      return null;
    }
    if (answer.ok) return Number(answer.headers.get("Upload-Offset"));
    if (answer.status === 409 || answer.status >= 500 || answer.status === 429) return null;
    return refuse(answer);
  }

  async patiently(ask) {
    for (let tries = 0; ; tries += 1) {
      try {
        const answer = await ask();
        if (answer.status < 500 || answer.status === 507 || tries > 8) return answer;
      } catch (fault) {
        if (tries > 8) throw fault;
      }
      this.onWait(true);
      await sleep(Math.min(1000 * 2 ** tries, 15000));
      if (this.isStopped) throw new DOMException("stopped", "AbortError");
    }
  }

  async whilePaused() {
    while (this.isPaused && !this.isStopped) await new Promise((resolve) => { this.wake = resolve; });
  }

  pause() { this.isPaused = true; }

  go() {
    this.isPaused = false;
    this.wake?.();
  }

  stop() {
    this.isStopped = true;
    this.wake?.();
    this.abort.abort();
  }
}

const sleep = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

/** The server's no, in its words: through the one place that knows how. */
async function refuse(answer) {
  const { Refusal } = await import("../api.js");
  throw new Refusal(answer.status, await answer.json().catch(() => ({})));
}

/** Make a dataset of an upload. */
export const admit = (name, uploadId) => request("POST", "/v1/datasets", { body: { name, upload_id: uploadId } });

/** Files of a drop or a choice, with their paths; folders are gone through. Hidden files are left out. */
export async function collected(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  const found = [];
  async function walk(entry) {
    if (entry.name.startsWith(".") || entry.name === "__MACOSX") return;
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
      found.push({ path: entry.fullPath.replace(/^\//, ""), file });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
      if (!some.length) break;
      for (const one of some) await walk(one);
    }
  }
  for (const entry of entries) await walk(entry);
  return inOrder(found);
}

export function chosen(files) {
  return inOrder([...files].filter((file) => !file.name.startsWith(".")).map((file) => ({ path: file.webkitRelativePath || file.name, file })));
}

const inOrder = (files) => files.sort((a, b) => (a.path < b.path ? -1 : 1));

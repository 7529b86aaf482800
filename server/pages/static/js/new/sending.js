// Uploads by tus 1.0.0, in chunks, resumable after a lost connection, a reload or a restart.

import { makeZip, predictLength } from "../../vendor/client-zip/index.js";
import { all, Unreachable, retryUnreachable, ApiError, request } from "../api.js";
import { at } from "../dom.js";
import { language, t } from "../words.js";
import { Sha256 } from "./sha256.js";

const MAX_PIECE = 4 << 20;
/** A proxy that refuses even this much is reported. */
const MIN_PIECE = 64 << 10;
const MEMORY = "rvc-uploads";
const TOO_LARGE = "too large";
const TUS = { "Tus-Resumable": "1.0.0", "Accept-Language": language };

/** The body of an upload: one file, or several as a zip that is streamed and never held in memory. */
export class UploadBody {
  constructor(files) {
    this.files = files; // [{ path, file }]
    this.isZip = files.length > 1;
    this.entries = files.map(({ path, file }) => ({ name: path.replaceAll("\\", "_"), input: file, lastModified: new Date(file.lastModified), size: file.size }));
    this.piece = MAX_PIECE;
    this.size = this.isZip ? Number(predictLength(this.entries)) : files[0].file.size;
  }

  /** The name of a single file, as tus has it: what is not a zip keeps its name. */
  get metadata() {
    if (this.isZip) return {};
    const name = new TextEncoder().encode(this.files[0].file.name);
    return { "Upload-Metadata": `filename ${btoa(String.fromCharCode(...name))}` };
  }

  /** Equal for the same files: finds an interrupted upload. */
  get mark() {
    return this.files.map(({ path, file }) => `${path}/${file.size}/${file.lastModified}`).join("|");
  }

  /** Chunks of the body from `offset` on, of `piece` bytes each but the last. */
  async *pieces(offset) {
    const { piece } = this;
    if (!this.isZip) {
      const { file } = this.files[0];
      for (let at = offset; at < file.size; at += piece) yield file.slice(at, at + piece);
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
      while (length >= piece) {
        const whole = new Blob(kept);
        yield whole.slice(0, piece);
        [kept, length] = [[whole.slice(piece)], length - piece];
      }
    }
    if (length) yield new Blob(kept);
  }
}

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(MEMORY)) ?? {};
  } catch {
    return {}; // no storage, or foreign content: an upload then starts over
  }
}

function remember(mark, address) {
  const known = remembered();
  if (address) known[mark] = address;
  else delete known[mark];
  try {
    localStorage.setItem(MEMORY, JSON.stringify(known));
  } catch {
    // Storage is full: the upload itself continues.
  }
}

/** Whether an upload of these files was begun. */
export const isBegun = (uploadBody) => uploadBody.mark in remembered();

/** The number of resumable uploads; those that the server has deleted are forgotten. */
export async function numBegun() {
  for (const [mark, address] of Object.entries(remembered())) {
    if (await offsetOf(address) === null) remember(mark, null);
  }
  return Object.keys(remembered()).length;
}

/** Delete all interrupted uploads, here and on the server. */
export async function forgetBegun() {
  for (const [mark, address] of Object.entries(remembered())) {
    await fetch(address, { method: "DELETE", headers: TUS }).catch(() => {});
    remember(mark, null);
  }
}

/** Bytes received so far; null when the upload is gone, "away" when the server is unreachable. */
async function offsetOf(address) {
  try {
    const answer = await fetch(address, { method: "HEAD", headers: TUS });
    if (answer.status === 404 || answer.status === 410) return null;
    if (answer.status === 401 || answer.status === 403) throw new ApiError(answer.status, {});
    return answer.ok ? Number(answer.headers.get("Upload-Offset")) : "away";
  } catch (fault) {
    if (fault instanceof ApiError) throw fault;
    return "away";
  }
}

/** A dataset of the same bytes whose names of zips are read in the same way, or null. The bytes are hashed only if a dataset has the same size. */
export async function same(uploadBody, zipNames, onProgress, isWanted) {
  const known = await all("/v1/datasets").catch((fault) => {
    if (fault instanceof Unreachable) return []; // the upload waits by itself
    throw fault;
  });
  const alike = known.filter((one) => one.size === uploadBody.size && one.zip_names === zipNames);
  if (!alike.length) return null;
  const sha256 = new Sha256();
  for await (const piece of uploadBody.pieces(0)) {
    sha256.add(new Uint8Array(await piece.arrayBuffer()));
    onProgress(sha256.length);
    if (!isWanted()) return null;
  }
  const digest = sha256.digest();
  return alike.find((one) => one.sha256 === digest) ?? null;
}

/** Uploads a body. Callbacks `onProgress(bytes)`, `onWait(isWaiting)`; `pause`, `go`, and `stop`, which deletes the upload. */
export class Sending {
  constructor(uploadBody, { onProgress, onWait }) {
    Object.assign(this, { uploadBody, onProgress, onWait });
    this.isPaused = false;
    this.isStopped = false;
    this.isElsewhere = false; // another tab sends the same files
    this.wake = null;
    this.abort = new AbortController();
  }

  /** The upload's id when it is complete; null when it was stopped. Throws ApiError. */
  async run() {
    let address = remembered()[this.uploadBody.mark] ?? null;
    let offset = address ? await this.whenBack(address) : null;
    if (this.isStopped) return this.giveUp(address);
    if (offset === null) {
      address = await this.begin();
      offset = 0;
    }
    this.onProgress(offset);
    let failures = 0;
    while (offset < this.uploadBody.size && !this.isStopped) {
      const pieces = this.uploadBody.pieces(offset);
      for await (const piece of pieces) {
        await this.whilePaused();
        if (this.isStopped) break;
        const came = await this.send(address, offset, piece);
        if (came === null) {
          failures += 1;
          break; // continue from the server's offset
        }
        if (came === TOO_LARGE) {
          this.uploadBody.piece = Math.max(piece.size >> 1, MIN_PIECE);
          break;
        }
        failures = 0;
        offset = came;
        this.onProgress(offset);
      }
      if (offset < this.uploadBody.size && !this.isStopped) {
        this.onWait(failures > 0);
        if (failures) await sleep(Math.min(1000 * 2 ** failures, 15000) * (0.7 + 0.6 * Math.random()));
        const there = await offsetOf(address);
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
    return this.isStopped ? this.giveUp(address) : address.split("/").at(-1);
  }

  /** The offset to continue from, once the server answers; null when the upload is gone. */
  async whenBack(address) {
    let offset = await offsetOf(address);
    while (offset === "away" && !this.isStopped) {
      this.onWait(true);
      await sleep(2000);
      offset = await offsetOf(address);
    }
    return offset;
  }

  async giveUp(address) {
    await fetch(address, { method: "DELETE", headers: TUS }).catch(() => {});
    remember(this.uploadBody.mark, null);
    return null;
  }

  /** Delete the upload on the server, and forget it. */
  async discard() {
    const address = remembered()[this.uploadBody.mark];
    if (address) await this.giveUp(address);
  }

  /** What it was for exists: forget the upload. */
  done() {
    remember(this.uploadBody.mark, null);
  }

  async begin() {
    const answer = await this.patiently(() => fetch(at("/v1/uploads"), {
      method: "POST",
      headers: { ...TUS, "Upload-Length": String(this.uploadBody.size), ...this.uploadBody.metadata },
    }));
    if (!answer.ok) await refuse(answer);
    const address = new URL(answer.headers.get("Location"), location.href).pathname;
    remember(this.uploadBody.mark, address);
    return address;
  }

  /** The new offset; null when the chunk did not arrive complete, TOO_LARGE when a proxy refused it for its size. */
  async send(address, offset, piece) {
    const headers = { ...TUS, "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
    let answer;
    try {
      answer = await sent(address, headers, piece, this.abort.signal, (bytes) => this.onProgress(offset + bytes));
    } catch {
      return null;
    }
    if (answer.ok) return Number(answer.headers.get("Upload-Offset"));
    this.isElsewhere = answer.status === 409 || answer.status === 423;
    const mayPass = answer.status === 409 || answer.status === 404 || answer.status === 410 || answer.status === 429;
    if (mayPass || (answer.status >= 500 && answer.status !== 507)) return null; // 507: no space; the server explains it
    const problem = await answer.json().catch(() => ({}));
    if (answer.status === 413 && !problem.code) { // of a proxy before the server
      if (piece.size > MIN_PIECE) return TOO_LARGE;
      problem.detail = t("error.proxy_limit");
    }
    throw new ApiError(answer.status, problem);
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

/** A PATCH as by `fetch`, with `onBytes(bytes)` while its body is sent. */
function sent(address, headers, body, signal, onBytes) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PATCH", address);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => onBytes(event.loaded);
    request.onload = () => resolve({
      ok: request.status >= 200 && request.status < 300,
      status: request.status,
      headers: { get: (name) => request.getResponseHeader(name) },
      json: async () => JSON.parse(request.responseText),
    });
    request.onerror = () => reject(new TypeError("no answer"));
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

const sleep = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

/** Throw the server's error. */
async function refuse(answer) {
  throw new ApiError(answer.status, await answer.json().catch(() => ({})));
}

/** Create a dataset from an upload; repeating it gives the same answer. */
export const admit = (name, uploadId, zipNames) => retryUnreachable(() => request("POST", "/v1/datasets", {
  body: { name, upload_id: uploadId, zip_names: zipNames },
}));

/** Files of a drop or a file dialog, with their paths; folders are traversed. */
export async function collected(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  const found = [];
  /** `path`: of the entry; folders dropped together may have the same name, and each may be a speaker. */
  async function walk(entry, path) {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
      found.push({ path, file });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
      if (!some.length) break;
      for (const one of some) await walk(one, `${path}/${one.name}`);
    }
  }
  const taken = new Set();
  for (const entry of entries) {
    let path = entry.name;
    for (let n = 2; taken.has(path); n += 1) path = entry.name.replace(/(\.[^.]*)?$/, ` (${n})$1`);
    taken.add(path);
    await walk(entry, path);
  }
  return inOrder(found);
}

export function chosen(files) {
  return inOrder([...files].map((file) => ({ path: file.webkitRelativePath || file.name, file })));
}

const inOrder = (files) => files.sort((a, b) => (a.path < b.path ? -1 : 1));

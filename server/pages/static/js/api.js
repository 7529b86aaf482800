// The server's public API, as any other program uses it. Errors have the server's text, in the page's language.

import { at } from "./dom.js";
import { language, t } from "./words.js";

/** An error answer of the server; `problem` is its RFC 9457 body. */
export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || t("error.status", { status }));
    this.status = status;
    this.problem = problem;
  }
}

/** No answer from the server; the request may be repeated. */
export class Unreachable extends Error {
  constructor() {
    super(t("error.away"));
  }
}

const known = new Map();

/** One request's answer. Throws Unreachable; without a token, redirects to sign in. */
async function send(method, path, { body, headers = {}, signal } = {}) {
  const sent = { method, headers: { Accept: "application/json", "Accept-Language": language, ...headers }, signal, credentials: "same-origin" };
  if (body !== undefined) {
    sent.body = JSON.stringify(body);
    sent.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(at(path), sent);
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    setAway(true);
    throw new Unreachable();
  }
  setAway(answer.status === 502 || answer.status === 503 || answer.status === 504);
  if (answer.status === 401) signIn(`?next=${encodeURIComponent(location.pathname + location.search)}`);
  return answer;
}

let isLeaving = false;
addEventListener("pageshow", () => { isLeaving = false; });

/** Open the page for signing in, once: a second navigation would abort the first. */
export function signIn(query = "") {
  if (isLeaving || location.pathname === at("/sign-in")) return;
  isLeaving = true;
  location.assign(at("/sign-in") + query);
}

/** The body of an answer, read by `read`. Throws Unreachable where the connection broke within it. */
async function bodyOf(answer, read) {
  try {
    return await answer[read]();
  } catch (fault) {
    if (fault.name === "AbortError" || !answer.ok) throw fault;
    setAway(true);
    throw new Unreachable();
  }
}

/** One request; the answer's JSON, or null where it has none. Throws ApiError or Unreachable. */
export async function request(method, path, options) {
  const answer = await send(method, path, options);
  if (answer.status === 304) return known.get(path).value;
  if (!answer.ok) throw new ApiError(answer.status, await answer.json().catch(() => ({})));
  const value = answer.status === 204 ? null : await bodyOf(answer, "json");
  const etag = answer.headers.get("ETag");
  if (method === "GET" && etag) known.set(path, { etag, value });
  return value;
}

/** The bytes of a file, and the answer's headers. Throws ApiError or Unreachable. */
export async function getBytes(path) {
  const answer = await send("GET", path, { headers: { Accept: "*/*" } });
  if (!answer.ok) throw new ApiError(answer.status, await answer.json().catch(() => ({})));
  return { bytes: new Uint8Array(await bodyOf(answer, "arrayBuffer")), headers: answer.headers };
}

/** The ETag of a path's last answer. */
export const etagOf = (path) => known.get(path)?.etag;

/** A GET with an ETag: cheap when nothing has changed. */
export function get(path, options = {}) {
  const seen = known.get(path);
  return request("GET", path, seen ? { ...options, headers: { "If-None-Match": seen.etag, ...options.headers } } : options);
}

/** A unique key for the header Idempotency-Key. (`crypto.randomUUID` is missing over plain http beyond loopback.) */
export function freshKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const post = (path, body, headers) => request("POST", path, { body, headers });
export const put = (path, body) => request("PUT", path, { body });
export const patch = (path, body, headers) => request("PATCH", path, { body, headers });
export const remove = (path) => request("DELETE", path);

/** A path with its query, or with more of it; lists repeat their name, null values are left out. */
export function withQuery(path, words) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(words)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== "" && one != null) query.append(name, one);
    }
  }
  const text = query.toString();
  return text ? `${path}${path.includes("?") ? "&" : "?"}${text}` : path;
}

/** All items of a list, page by page. */
export async function all(path, most = 1000) {
  const found = [];
  let after = null;
  do {
    const page = await get(withQuery(path, { limit: 100, after }));
    found.push(...page.data);
    after = page.has_more ? page.next_cursor : null;
  } while (after && found.length < most);
  return found;
}

const failures = new Map();

/**
 * The module at an address, which has none but loaded ones below it: `later(import.meta.resolve("./x.js"))`. Throws Unreachable.
 * A browser keeps the failure of a module that it could not load, so each further try has an address of its own.
 */
export async function later(address) {
  const num = failures.get(address) ?? 0;
  try {
    return await import(num ? `${address}?${num}` : address);
  } catch (fault) {
    if (!(fault instanceof TypeError)) throw fault; // an error of the module itself
    failures.set(address, num + 1);
    setAway(true);
    throw new Unreachable();
  }
}

/** Run `work`, and again while the server is unreachable. */
export async function retryUnreachable(work) {
  for (;;) {
    try {
      return await work();
    } catch (fault) {
      if (!(fault instanceof Unreachable)) throw fault;
      await new Promise((resolve) => { setTimeout(resolve, 2000); });
    }
  }
}

const server = new EventTarget();
let wasAway = false;

/** Show or hide the notice that the server does not answer. When it answers again, all that failed meanwhile runs at once. */
export function setAway(isAway) {
  const line = document.getElementById("connection");
  if (line) line.hidden = !isAway;
  if (wasAway && !isAway) server.dispatchEvent(new Event("back"));
  wasAway = isAway;
}

/**
 * Run `work` now, and again `seconds()` after its end while the page is visible; while it is hidden, `hiddenSeconds()` after.
 * `again()` runs it at once.
 */
export function repeat(work, seconds, hiddenSeconds = () => Infinity) {
  let timer = null;
  let running = false;
  let wanted = false;
  let retrySeconds = 1; // doubled by each failure in a row
  function plan() {
    clearTimeout(timer);
    const usual = document.hidden ? hiddenSeconds() : seconds();
    const wait = wanted && !document.hidden ? 0 : 1000 * Math.max(usual, retrySeconds > 1 ? retrySeconds : 0);
    wanted = false;
    if (Number.isFinite(wait)) timer = setTimeout(run, wait);
  }
  async function run() {
    clearTimeout(timer);
    if (running) {
      wanted = true;
      return;
    }
    running = true;
    try {
      await work();
      retrySeconds = 1;
    } catch (fault) {
      if (!(fault instanceof Unreachable || fault instanceof ApiError)) throw fault;
      retrySeconds = Math.min(retrySeconds * 2, 15);
    } finally {
      running = false;
      plan();
    }
  }
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) run();
    else if (!running) plan();
  });
  server.addEventListener("back", () => {
    if (retrySeconds > 1 && !document.hidden) run();
  });
  run();
  return { again: run };
}

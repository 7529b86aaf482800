// The server's public interface, as any other program uses it. Errors come as the server words them.

import { t } from "./words.js";

/** The server said no. `problem` is its RFC 9457 answer. */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail || t("error.status", { status }));
    this.status = status;
    this.problem = problem;
  }
}

/** Nobody answered. What was asked may be asked again. */
export class Away extends Error {
  constructor() {
    super(t("error.away"));
  }
}

const known = new Map();

/** One request; the answer's JSON, or null where it has none. Throws Refusal or Away; without a token, goes to sign in. */
export async function request(method, path, { body, headers = {}, signal } = {}) {
  const sent = { method, headers: { Accept: "application/json", ...headers }, signal, credentials: "same-origin" };
  if (body !== undefined) {
    sent.body = JSON.stringify(body);
    sent.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, sent);
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    setAway(true);
    throw new Away();
  }
  setAway(answer.status === 502 || answer.status === 503 || answer.status === 504);
  if (answer.status === 401 && location.pathname !== "/sign-in") {
    location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
  }
  if (answer.status === 304) return known.get(path).value;
  const value = answer.status === 204 ? null : await answer.json().catch(() => undefined);
  if (!answer.ok) throw new Refusal(answer.status, value ?? {});
  if (value === undefined) { // it went away in the middle of its answer
    setAway(true);
    throw new Away();
  }
  const etag = answer.headers.get("ETag");
  if (method === "GET" && etag) known.set(path, { etag, value });
  return value;
}

/** A GET that costs little when nothing has changed. */
export function get(path, options = {}) {
  const seen = known.get(path);
  return request("GET", path, seen ? { ...options, headers: { "If-None-Match": seen.etag, ...options.headers } } : options);
}

export const post = (path, body, headers) => request("POST", path, { body, headers });
export const put = (path, body) => request("PUT", path, { body });
export const patch = (path, body, headers) => request("PATCH", path, { body, headers });
export const remove = (path) => request("DELETE", path);

/** A path with its query; lists repeat their name, nothing is left out. */
export function withQuery(path, words) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(words)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== "" && one != null) query.append(name, one);
    }
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/** All of a list, page by page. */
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

/** Do `work`, and again while nobody answers. */
export async function insist(work) {
  for (;;) {
    try {
      return await work();
    } catch (fault) {
      if (!(fault instanceof Away)) throw fault;
      await new Promise((resolve) => { setTimeout(resolve, 2000); });
    }
  }
}

/** Say, or take back, that the server does not answer. */
export function setAway(isAway) {
  const line = document.getElementById("connection");
  if (line) line.hidden = !isAway;
}

/** Do `work` now, and again `seconds()` after its end; not while nobody looks. `again()` does it at once. */
export function repeat(work, seconds) {
  let timer = null;
  let running = false;
  let wanted = false;
  let patience = 1;
  async function run() {
    clearTimeout(timer);
    if (running) {
      wanted = true;
      return;
    }
    running = true;
    try {
      await work();
      patience = 1;
    } catch (fault) {
      if (!(fault instanceof Away || fault instanceof Refusal)) throw fault;
      patience = Math.min(patience * 2, 15);
    } finally {
      running = false;
      const wait = wanted ? 0 : 1000 * Math.max(seconds(), patience > 1 ? patience : 0);
      wanted = false;
      if (Number.isFinite(wait) && !document.hidden) timer = setTimeout(run, wait);
    }
  }
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : run()));
  run();
  return { again: run };
}

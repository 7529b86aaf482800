// Published weights: status and download.

import { all, post, repeat } from "../api.js";
import { byId, h, keyed, setText } from "../dom.js";
import { may } from "../shell.js";
import { count, size, t, weightsName } from "../words.js";
import { button, refresh } from "./parts.js";

let ticking = null;
let mayFetch = false;
let isFetching = false;

export async function startWeights() {
  mayFetch = await may("admin");
  ticking = repeat(async () => show(await all("/v1/weights")), () => (isFetching ? 1.5 : 20));
}

function show(weights) {
  isFetching = weights.some((one) => ["waiting", "fetching"].includes(one.fetch_state));
  const order = [...weights].sort((one, other) => rank(one) - rank(other));
  keyed(byId("weights-list"), order, (one) => one.id, make, update);
}

/** Order: downloading or damaged, then present, then missing. */
const rank = (one) => (one.fetch_state && one.fetch_state !== "fetched" ? 0 : one.is_present ? 1 : 2);

function make(one) {
  return h("li", {},
    h("h3", {}, h("code", {}, one.id), h("small", { class: "muted" }, weightsName(one.id)), h("span", {})), // New voice has the names
    h("div", { class: "facts-line" }),
    h("div", { class: "actions" }),
    h("p", { class: "fault", hidden: true }),
    h("progress", { max: 1, value: 0, "aria-label": t("server.weights.fetching"), hidden: true }));
}

function stateOf(one) {
  if (["waiting", "fetching"].includes(one.fetch_state)) return one.fetch_state;
  if (one.files.some((file) => file.state === "damaged")) return "damaged";
  return one.is_present ? "present" : "missing";
}

const LOOKS = { present: "ready", damaged: "failed", fetching: "running", waiting: "queued", missing: "" };

function update(item, one) {
  const state = stateOf(one);
  const pill = item.querySelector("h3 span");
  pill.className = `pill ${LOOKS[state]}`;
  setText(pill, t(`server.weights.${state}`));
  const isPart = !one.is_present && one.size_here > 0;
  setText(item.querySelector(".facts-line"), `${count("server.weights.files", one.files.length)} · ${isPart ? t("server.use.of", { used: size(one.size_here), most: size(one.size) }) : size(one.size)}`);
  const fault = item.querySelector(".fault");
  fault.hidden = one.fetch_state !== "failed";
  setText(fault, one.fetch_error ? t("server.weights.failed", { why: one.fetch_error }) : "");
  const bar = item.querySelector("progress");
  bar.hidden = one.fetch_state !== "fetching";
  bar.value = one.size_here / one.size;
  const isOffered = mayFetch && ["missing", "damaged"].includes(state);
  refresh(item.querySelector(".actions"), isOffered, () => isOffered ? [button(t("server.weights.fetch"), async () => {
    await post(`/v1/weights/${one.id}/fetch`);
    ticking.again();
  }, { name: t("server.weights.fetch_of", { name: one.id }) })] : []);
}

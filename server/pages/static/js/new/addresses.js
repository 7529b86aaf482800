// Recordings by address: the server downloads them, also while this page is closed.

import { freshKey, post, remove, retryUnreachable, ApiError } from "../api.js";
import { byId } from "../dom.js";
import { proposedName } from "./names.js";
import { attempt } from "../shell.js";
import { number, percent, size, t } from "../words.js";

/** Have the form's addresses downloaded. `take(dataset)` goes on with the dataset; `forget()` when it is cancelled. */
export function startAddresses(take, forget) {
  byId("addresses-form").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      const urls = byId("addresses-urls").value.split(/\s+/).filter(Boolean);
      const button = byId("addresses-fetch");
      button.disabled = true;
      showFault(null);
      try {
        const body = { name: nameOf(urls), urls, zip_names: byId("zip-names").value };
        const key = { "Idempotency-Key": freshKey() };
        const made = await retryUnreachable(() => post("/v1/datasets", body, key));
        attempt(() => take(made));
      } catch (fault) {
        if (!(fault instanceof ApiError) || fault.status !== 422) throw fault;
        showFault(fault.message);
      } finally {
        button.disabled = false;
      }
    });
  });
  byId("fetching-cancel").addEventListener("click", ({ target }) => attempt(async () => {
    await remove(`/v1/datasets/${target.dataset.id}`);
    forget(target.dataset.id);
  }));
}

function showFault(text) {
  byId("addresses-fault").hidden = text === null;
  byId("addresses-fault").textContent = text ?? "";
}

/** The progress of a dataset's download; hidden when there is none, as for `null`. */
export function showFetch(dataset) {
  const fetch = dataset?.fetch;
  if (!fetch) {
    if (!byId("fetching").hidden) byId("drop").hidden = false;
    byId("fetching").hidden = true;
    return;
  }
  byId("fetching").hidden = false;
  byId("drop").hidden = true;
  byId("fetching-cancel").dataset.id = dataset.id;
  byId("fetching-name").textContent = dataset.name;
  const { received_bytes: received, total_bytes: total, num_files: files, num_fetched: done } = fetch;
  const bar = byId("fetching-bar");
  if (total) bar.value = received / total;
  else bar.removeAttribute("value");
  const parts = [size(received), total ? percent(received / total) : null, files > 1 ? t("new.fetching.files", { done: number(done), n: number(files) }) : null];
  byId("fetching-state").textContent = parts.filter(Boolean).join(" · ");
}

/** A name for a dataset of these addresses. */
function nameOf(urls) {
  const paths = urls.map((url) => {
    const path = /^hf:\/\/datasets\/[^/]+\/([^/@]+)/.exec(url)?.[1] ?? url.split(/[?#]/)[0].replace(/\/+$/, "").split("/").at(-1);
    try {
      return decodeURIComponent(path);
    } catch {
      return path;
    }
  });
  return proposedName(paths.map((path) => ({ path }))).trim().slice(0, 200) || "recordings";
}

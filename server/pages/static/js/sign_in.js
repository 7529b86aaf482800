// A token for a cookie that scripts cannot read.

import { post } from "./api.js";
import { byId } from "./dom.js";
import "./shell.js";

const form = byId("sign-in");

/** The page to continue with: a path of this site only. */
function next() {
  const next = new URLSearchParams(location.search).get("next") ?? "/";
  const address = new URL(next, location.origin);
  return address.origin === location.origin ? address.href : "/"; // a path alone may begin with `//`, another host
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const fault = byId("fault");
  fault.hidden = true;
  try {
    await post("/v1/session", { token: form.elements.token.value.trim() });
    location.assign(next());
  } catch (error) {
    fault.textContent = error.message;
    fault.hidden = false;
    form.elements.token.select();
  }
});

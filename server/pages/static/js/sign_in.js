// A token, or a code from a link (`#code=`), for a cookie that scripts cannot read.

import { post } from "./api.js";
import { at, byId } from "./dom.js";
import "./shell.js";

const form = byId("sign-in");

/** The page to continue with: a path of this site only. */
function next() {
  const next = new URLSearchParams(location.search).get("next") ?? at("/");
  const address = new URL(next, location.origin);
  return address.origin === location.origin ? address.href : at("/"); // a path alone may begin with `//`, another host
}

async function signIn(secret) {
  const fault = byId("fault");
  fault.hidden = true;
  try {
    await post("/v1/session", secret);
    location.replace(next());
  } catch (error) {
    fault.textContent = error.message;
    fault.hidden = false;
    form.elements.token.select();
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  signIn({ token: form.elements.token.value.trim() });
});

function signInWithCode() {
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (!code) return;
  history.replaceState(null, "", location.pathname + location.search); // a used code has no place in the history
  signIn({ code });
}

window.addEventListener("hashchange", signInWithCode); // a link opened where this page is open already
signInWithCode();

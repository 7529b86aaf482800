// A voice of another server, taken in from its bundle.

import { post } from "./api.js";
import { at, byId, setText } from "./dom.js";
import { Sending, UploadBody } from "./new/sending.js";
import { percent, t } from "./words.js";
import { pageOf } from "./voice_infos.js";

let sending = null;

export function startTakingIn() {
  byId("take-in").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file && !sending) takeIn(file);
  });
  byId("taking-in-stop").addEventListener("click", () => sending?.stop());
  window.addEventListener("beforeunload", (event) => sending && event.preventDefault());
}

async function takeIn(file) {
  const onProgress = (bytes) => {
    byId("taking-in-bar").value = file.size ? bytes / file.size : 0;
    setText(byId("taking-in-state"), t("server.base_weights.sending", { name: file.name, share: percent(file.size ? bytes / file.size : 0) }));
  };
  const onWait = (isWaiting) => isWaiting && setText(byId("taking-in-state"), t("page.reconnecting"));
  sending = new Sending(new UploadBody([{ path: file.name, file }]), { onProgress, onWait });
  byId("take-in-fault").hidden = true;
  byId("taking-in").hidden = false;
  byId("taking-in-stop").hidden = false;
  let made = null;
  let wrong = "";
  try {
    const id = await sending.run();
    if (id) {
      byId("taking-in-stop").hidden = true;
      byId("taking-in-bar").removeAttribute("value"); // how long a check takes is not known
      setText(byId("taking-in-state"), t("server.base_weights.checking"));
      made = await post("/v1/voices", { upload_id: id });
      sending.done();
    }
  } catch (error) {
    if (error.name !== "AbortError") wrong = [error.message, ...(error.problem?.errors ?? []).map(({ detail }) => detail)].join(" – ");
    if ([409, 410, 422].includes(error.status)) await sending.discard();
  }
  sending = null; // from here on another file is taken in, which is what a fault makes people choose
  byId("taking-in").hidden = true;
  setText(byId("take-in-fault"), wrong);
  byId("take-in-fault").hidden = !wrong;
  if (made) location.assign(at(pageOf(made)));
}

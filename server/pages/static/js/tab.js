// A job in the browser's tab: its progress in the title and the icon, and a notification at its end for those who wish one.

import { OVER } from "./actions.js";
import { byId } from "./dom.js";
import { percent, t } from "./words.js";

const COLOURS = { succeeded: "#2f9e5b", failed: "#c8372d", cancelled: "#8a8f98" };
const WISH = "notify";
/** Browsers offer notifications over TLS, and on the machine itself. */
const isOffered = () => isSecureContext && "Notification" in window;
const isWished = () => isOffered() && Notification.permission === "granted" && localStorage.getItem(WISH) === "yes";
let shown = null;

/** Offer the notification in the page. */
export function startTab() {
  const box = byId("notify");
  box.checked = isWished();
  box.addEventListener("change", async () => {
    if (box.checked && (await Notification.requestPermission()) !== "granted") box.checked = false;
    localStorage.setItem(WISH, box.checked ? "yes" : "no");
  });
}

/** Show a job in the tab; at its end, the notification. */
export function showInTab(job) {
  const isOver = OVER.includes(job.status);
  const isUnderWay = job.progress > 0 && !isOver;
  const status = t(`status.${job.status}`);
  document.title = `${isUnderWay ? percent(job.progress, 1) : status} · ${job.name} · rvc-train`;
  byId("notify-line").hidden = isOver || !isOffered() || Notification.permission === "denied";
  const share = isOver ? 1 : Math.round(job.progress * 100) / 100;
  const colour = COLOURS[job.status] ?? "#e0552b";
  const present = `${share} ${colour}`;
  if (isUnderWay || isOver) {
    if (present !== shown?.icon) document.querySelector("link[rel=icon]").href = iconOf(share, colour);
  }
  if (shown !== null && isOver && !OVER.includes(shown.status) && isWished()) {
    try {
      new Notification(`${job.name}: ${status}`, { body: job.error?.message ?? "", tag: job.id });
    } catch {
      // Android offers notifications to service workers only.
    }
  }
  shown = { icon: present, status: job.status };
}

/** A ring that is closed by a share of its length, as the address of an SVG. */
function iconOf(share, colour) {
  const ring = (attributes) => `<circle cx='16' cy='16' r='12' fill='none' stroke-width='7' ${attributes}/>`;
  const part = `stroke='${colour}' stroke-dasharray='${(share * 75.4).toFixed(1)} 76' transform='rotate(-90 16 16)'`;
  const { namespaceURI } = document.querySelector("svg");
  const picture = `<svg xmlns='${namespaceURI}' viewBox='0 0 32 32'>${ring("stroke='#9994'")}${ring(part)}</svg>`;
  return `data:image/svg+xml,${encodeURIComponent(picture)}`;
}

// The server page: workers, queue, retention, access. Each section is a file of its own.

import { byId } from "./dom.js";
import { may } from "./shell.js";
import { startAudit } from "./server/audit.js";
import { startBaseWeights } from "./server/base_weights.js";
import { startMachine } from "./server/machine.js";
import { startOwners } from "./server/owners.js";
import { startQueue } from "./server/queue.js";
import { startRetention } from "./server/retention.js";
import { startTokens } from "./server/tokens.js";
import { startWebhooks } from "./server/webhooks.js";
import { startWeights } from "./server/weights.js";
import { startWorkers } from "./server/workers.js";

/** Stay at the section that the address names while the sections above it fill, until the reader moves. */
function keepAnchor() {
  const observer = new ResizeObserver(() => {
    if (location.hash.length > 1) document.getElementById(location.hash.slice(1))?.scrollIntoView();
  });
  observer.observe(byId("main"));
  for (const kind of ["wheel", "touchmove", "keydown", "pointerdown"]) {
    addEventListener(kind, () => observer.disconnect(), { once: true, passive: true });
  }
}

async function start() {
  keepAnchor();
  const isKeeper = await may("admin");
  for (const part of [startQueue, startWorkers, startMachine]) part();
  if (!(await may("submit"))) return;
  startWeights();
  startBaseWeights();
  startWebhooks();
  if (!isKeeper) return;
  startOwners();
  startTokens(startOwners);
  startRetention();
  startAudit();
}

start().catch(() => {}); // callers without access are redirected to sign in

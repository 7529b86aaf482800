// The server: who works, what waits, what is kept, and who may do what. Each part is a file of its own.

import { may } from "./shell.js";
import { startAudit } from "./server/audit.js";
import { startMachine } from "./server/machine.js";
import { startOwners } from "./server/owners.js";
import { startQueue } from "./server/queue.js";
import { startRetention } from "./server/retention.js";
import { startTokens } from "./server/tokens.js";
import { startWebhooks } from "./server/webhooks.js";
import { startWeights } from "./server/weights.js";
import { startWorkers } from "./server/workers.js";

startQueue();
startWorkers();
startMachine();
startWeights();
startWebhooks();
if (await may("admin")) {
  startOwners();
  startTokens(startOwners);
  startRetention();
  startAudit();
}

// node upload.mjs FILE CHUNK_BYTES: a resumable upload by tus-js-client, in chunks.
import fs from 'node:fs';
import * as tus from 'tus-js-client';

const statuses = {};
const upload = new tus.Upload(fs.createReadStream(process.argv[2]), {
  endpoint: process.env.URL + (process.argv[4] ?? '/v1/uploads'),
  headers: { Authorization: 'Bearer ' + process.env.TOKEN },
  metadata: { filename: 'Анна 声.wav', filetype: 'audio/wav' },
  chunkSize: Number(process.argv[3]),
  retryDelays: [0, 500],
  onAfterResponse: (_, response) => (statuses[response.getStatus()] = (statuses[response.getStatus()] ?? 0) + 1),
  onError: (error) => {
    console.error(String(error), statuses);
    process.exit(1);
  },
  onSuccess: () => console.log(JSON.stringify({ url: upload.url, statuses })),
});
upload.start();

// node upload.mjs FILE OPTIONS: an upload by tus-js-client with these options (JSON, `endpoint` is a path here); prints what came.
import fs from 'node:fs';
import * as tus from 'tus-js-client';

const { endpoint = '/v1/uploads', ...options } = JSON.parse(process.argv[3] ?? '{}');
const statuses = {};
const report = (error) => console.log(JSON.stringify({ url: upload.url, statuses, error }));
const upload = new tus.Upload(fs.createReadStream(process.argv[2]), {
  endpoint: process.env.URL + endpoint,
  headers: { Authorization: 'Bearer ' + process.env.TOKEN },
  metadata: { filename: 'Анна 声.wav', filetype: 'audio/wav' },
  retryDelays: [0, 500],
  onAfterResponse: (_, response) => {
    statuses[response.getStatus()] = (statuses[response.getStatus()] ?? 0) + 1;
  },
  onError: (error) => {
    report(String(error));
    process.exit(0);
  },
  onSuccess: () => report(null),
  ...options,
});
upload.start();

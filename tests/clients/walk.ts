// From upload to download with the types of openapi-typescript, as `tsc --strict` accepts it.
import fs from 'node:fs';
import createClient from 'openapi-fetch';
import type { components, operations, paths } from './api.js';

type Job = operations['jobs_create']['responses'][202]['content']['application/json'];
type Event = components['schemas']['Event'];

const api = createClient<paths>({ baseUrl: process.env.URL!, headers: { Authorization: `Bearer ${process.env.TOKEN}` } });

function data<T>(answer: { data?: T; error?: unknown; response: Response }): T {
  if (answer.data === undefined) throw new Error(`${answer.response.status} ${JSON.stringify(answer.error)}`);
  return answer.data;
}

const dataset = data(
  await api.PUT('/v1/datasets/{name}/content', {
    params: { path: { name: 'typescript' } },
    body: new Blob([fs.readFileSync(process.argv[2]!)]) as unknown as string,
    bodySerializer: (body) => body as unknown as BodyInit,
    headers: { 'Content-Type': 'application/octet-stream' },
  }),
);
const job: Job = data(await api.POST('/v1/jobs', { body: { name: 'typescript', dataset_id: dataset.id } }));
const path = { job_id: job.id };
const stream = await api.GET('/v1/jobs/{job_id}/events', {
  params: { path },
  headers: { Accept: 'text/event-stream' },
  parseAs: 'text',
});
const text = data(stream) as unknown as string;
if (!text.includes('event: end')) throw new Error(text);
function words(event: Event): string {
  if (event.type === 'progress') return `${event.data.stage} ${event.data.stage_progress}`;
  if (event.type === 'started') return event.data.device;
  return event.message;
}
const events = data(await api.GET('/v1/jobs/{job_id}/events', { params: { path, query: { limit: 1000 } } }));
if (typeof events === 'string') throw new Error('a stream in place of a list');
if (events.data.map(words).some((one) => !one)) throw new Error('an event without words');
const page = data(await api.GET('/v1/jobs', { params: { query: { limit: 1, status: ['succeeded'] } } }));
if (page.data.length !== 1 || page.data[0]!.dataset_id === '') throw new Error('no job in the list');
const files = data(await api.GET('/v1/jobs/{job_id}/artifacts', { params: { path } }));
for (const file of files.data) {
  const bytes = data(
    await api.GET('/v1/jobs/{job_id}/artifacts/{name}', {
      params: { path: { ...path, name: file.name } },
      parseAs: 'arrayBuffer',
    }),
  );
  console.log(file.kind, file.size, (bytes as unknown as ArrayBuffer).byteLength);
}
// A number, since there may be no name server; nothing is sent to it.
const webhook = data(await api.POST('/v1/webhooks', { body: { url: 'https://1.1.1.1/hook' } }));
const changed = data(
  await api.PATCH('/v1/webhooks/{webhook_id}', {
    params: { path: { webhook_id: webhook.id } },
    body: { is_enabled: false },
  }),
);
console.log('webhook', changed.is_enabled, changed.url, changed.events.length);

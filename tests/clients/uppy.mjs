// node uppy.mjs FILE: an upload by Uppy, in pieces of a megabyte; prints its address.
import fs from 'node:fs';
import Uppy from '@uppy/core';
import Tus from '@uppy/tus';

const uppy = new Uppy().use(Tus, {
  endpoint: process.env.URL + '/v1/uploads/',
  headers: { authorization: 'Bearer ' + process.env.TOKEN },
  chunkSize: 1e6,
});
uppy.addFile({ name: 'Анна 声.wav', type: 'audio/wav', data: fs.readFileSync(process.argv[2]) });
const done = await uppy.upload();
console.log(JSON.stringify({ urls: done.successful.map((file) => file.uploadURL), numFailed: done.failed.length }));
process.exit(0);

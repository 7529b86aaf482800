// SHA-256 (FIPS 180-4) of chunks: the browser's own needs all bytes at once, and TLS.

const FIRST = Uint32Array.of(
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19);

/** The first 32 bits of the fractional parts of the cube roots of the first 64 primes, by the definition, in whole numbers. */
function constants() {
  const found = new Uint32Array(64);
  for (let candidate = 2, n = 0; n < 64; candidate += 1) {
    let isPrime = true;
    for (let part = 2; part * part <= candidate; part += 1) isPrime &&= candidate % part !== 0;
    if (!isPrime) continue;
    const wanted = BigInt(candidate) << 96n; // the largest r with r³ <= candidate · 2^96 is the root times 2^32
    let root = BigInt(Math.floor(Math.cbrt(candidate) * 2 ** 32));
    while (root ** 3n > wanted) root -= 1n;
    while ((root + 1n) ** 3n <= wanted) root += 1n;
    found[n] = Number(root & 0xffffffffn);
    n += 1;
  }
  return found;
}

const K = constants();

export class Sha256 {
  constructor() {
    this.state = FIRST.slice();
    this.words = new Int32Array(64);
    this.rest = new Uint8Array(64);
    this.numRest = 0;
    this.length = 0;
  }

  add(bytes) {
    this.length += bytes.length;
    let at = 0;
    if (this.numRest) {
      at = Math.min(64 - this.numRest, bytes.length);
      this.rest.set(bytes.subarray(0, at), this.numRest);
      this.numRest += at;
      if (this.numRest < 64) return;
      this.block(this.rest, 0);
      this.numRest = 0;
    }
    for (; at + 64 <= bytes.length; at += 64) this.block(bytes, at);
    this.rest.set(bytes.subarray(at));
    this.numRest = bytes.length - at;
  }

  /** The hash of all added bytes, in hexadecimal. No bytes can be added after it. */
  digest() {
    const bits = BigInt(this.length) * 8n;
    const end = new Uint8Array((this.numRest < 56 ? 64 : 128) - this.numRest);
    end[0] = 0x80;
    new DataView(end.buffer).setBigUint64(end.length - 8, bits);
    this.add(end);
    return [...this.state].map((word) => word.toString(16).padStart(8, "0")).join("");
  }

  block(bytes, at) {
    const w = this.words;
    for (let i = 0; i < 16; i += 1) {
      const j = at + 4 * i;
      w[i] = (bytes[j] << 24) | (bytes[j + 1] << 16) | (bytes[j + 2] << 8) | bytes[j + 3];
    }
    for (let i = 16; i < 64; i += 1) {
      const x = w[i - 15];
      const y = w[i - 2];
      const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
      const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
      w[i] = (w[i - 16] + s0 + w[i - 7] + s1) | 0;
    }
    const { state } = this; // unrolled: destructuring costs as much as the sums
    let a = state[0];
    let b = state[1];
    let c = state[2];
    let d = state[3];
    let e = state[4];
    let f = state[5];
    let g = state[6];
    let h = state[7];
    for (let i = 0; i < 64; i += 1) {
      const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const one = (h + s1 + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
      const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const two = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + one) | 0;
      d = c;
      c = b;
      b = a;
      a = (one + two) | 0;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
  }
}

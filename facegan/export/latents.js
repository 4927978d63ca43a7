// Latents as `facegan sample --seed` draws them: Philox4x64-10 (Salmon et al. 2011) with the first half of
// SHA-256("seed/sample") as key and the place in the stream as counter; Box and Muller 1958 makes them normal.
function latents(seed, index, dim) {
  const mask = (1n << 64n) - 1n, half = Math.ceil(dim / 2), blocks = Math.ceil(half / 4);
  const key = sha256(`${seed}/sample`), numbers = [];
  for (let block = 0; block < blocks; block++) {
    let [k0, k1] = key, c = [BigInt(index * blocks + block + 1), 0n, 0n, 0n];
    for (let round = 0; round < 10; round++) {
      const p = c[0] * 0xD2E7470EE14C6C93n, q = c[2] * 0xCA5A826395121157n;
      c = [(q >> 64n) ^ c[1] ^ k0, q & mask, (p >> 64n) ^ c[3] ^ k1, p & mask];
      k0 = (k0 + 0x9E3779B97F4A7C15n) & mask;
      k1 = (k1 + 0xBB67AE8584CAA73Bn) & mask;
    }
    for (const word of c) numbers.push(Number((word & 0xFFFFFFFFn) >> 8n), Number(word >> 40n));
  }
  const z = new Float32Array(dim);
  for (let k = 0; k < half; k++) {
    const radius = Math.sqrt(-2 * Math.log((numbers[k] + 1) / 2 ** 24)), angle = numbers[half + k] * 2 * Math.PI / 2 ** 24;
    z[k] = radius * Math.cos(angle);
    if (half + k < dim) z[half + k] = radius * Math.sin(angle);
  }
  return z;
}

// The first 16 bytes of a short text's SHA-256 (FIPS 180-4), as two little-endian words.
function sha256(text) {
  const primes = [], root = (n, power) => Math.floor((n ** power % 1) * 2 ** 32) | 0;
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const k = primes.map((p) => root(p, 1 / 3)), w = new Int32Array(64), length = text.length;
  let h = primes.slice(0, 8).map((p) => root(p, 1 / 2));
  const bytes = new Uint8Array(64);
  for (let i = 0; i < length; i++) bytes[i] = text.charCodeAt(i);
  bytes[length] = 128;
  const view = new DataView(bytes.buffer), turn = (x, n) => (x >>> n) | (x << (32 - n));
  view.setUint32(60, length * 8);
  for (let i = 0; i < 16; i++) w[i] = view.getInt32(i * 4);
  for (let i = 16; i < 64; i++) {
    const a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ (a >>> 3)) + w[i - 7] + (turn(b, 17) ^ turn(b, 19) ^ (b >>> 10));
  }
  const start = h;
  for (let i = 0; i < 64; i++) {
    const [a, b, c, d, e, f, g, last] = h;
    const t = (last + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i]) | 0;
    const u = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = [(t + u) | 0, a, b, c, (d + t) | 0, e, f, g];
  }
  h.forEach((value, i) => { view.setInt32(i * 4, (value + start[i]) | 0); });
  return [view.getBigUint64(0, true), view.getBigUint64(8, true)];
}

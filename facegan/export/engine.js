// Draws pictures from latents: unpacks the weights, lays them out for `gemm`, runs the layers one after another.
// All maps lie as (height, width, channels); `cs` is how many floats a pixel takes.

function engine(model, bytes, memory, gemm) {
  let floats = new Float32Array(memory.buffer), top = 16;
  const reserve = (count) => { // the place of so many floats, all 0
    const at = top, missing = (top += (count + 15) & ~15) - floats.length;
    if (missing > 0) {
      memory.grow(Math.ceil(missing / 16384) + 64);
      floats = new Float32Array(memory.buffer);
    }
    return at;
  };
  const up8 = (n) => (n + 7) & ~7;

  // What Python stored: the tensors of small numbers as floats, the rounded ones as bytes with a scale a channel.
  const tensor = (name) => {
    const { at, shape, scales } = model.tensors[name];
    const count = shape.reduce((a, b) => a * b, 1);
    if (scales === undefined) return new Float32Array(bytes.buffer, at, count);
    const each = count / shape[0], rounded = new Int8Array(bytes.buffer, at, count);
    const steps = new Float32Array(bytes.buffer, scales, shape[0]), values = new Float32Array(count);
    for (let o = 0, k = 0; o < shape[0]; o++) for (let i = 0; i < each; i++, k++) values[k] = rounded[k] * steps[o];
    return values;
  };

  // Bias, scale and shift of each panel of eight channels, as gemm reads them.
  const afterwards = (layer, panels) => {
    const at = reserve(panels * 24);
    const rows = [layer.bias, layer.scale, layer.shift].map((name) => name && tensor(name));
    for (let n = 0; n < panels * 8; n++) {
      rows.forEach((row, r) => { floats[at + (n >> 3) * 24 + r * 8 + (n & 7)] = row ? row[n] || 0 : r === 1 ? 1 : 0; });
    }
    return at;
  };
  const slope = (layer) => (layer.slope === undefined ? 1 : layer.slope);

  const dense = (layer, x, y) => {
    const weights = tensor(layer.weight), inputs = x.c, panels = up8(y.c) / 8;
    const b = reserve(panels * inputs * 8), v = afterwards(layer, panels);
    for (let n = 0, k = 0; n < y.c; n++) {
      for (let i = 0; i < inputs; i++) floats[b + ((n >> 3) * inputs + i) * 8 + (n & 7)] = weights[k++];
    }
    const a = slope(layer);
    return () => gemm(x.at * 4, b * 4, y.at * 4, v * 4, 1, 1, panels, 1, inputs, 0, 0, 0, 0, 0, a);
  };

  // A convolution, one after nearest-neighbour enlarging, and a transposed one are the same thing: each of
  // period x period phases of the output is a small convolution of the input. `taps` says, along one side, which
  // elements of the kernel meet the input at which distance.
  const taps = (layer, kernel, phase) => {
    const found = new Map();
    for (let t = 0; t < kernel; t++) {
      const d = layer.op === "conv" ? Math.floor((phase - layer.padding + t) / layer.up)
        : (phase + layer.padding - t) / layer.stride;
      if (Number.isInteger(d)) found.set(d, [...(found.get(d) || []), t]);
    }
    return { first: Math.min(...found.keys()), lists: [...found.keys()].sort((p, q) => p - q).map((d) => found.get(d)) };
  };

  const convolution = (layer, x, y) => {
    const period = layer.op === "conv" ? layer.up : layer.stride;
    const shape = model.tensors[layer.weight].shape, kernel = shape[2], weights = tensor(layer.weight);
    const panels = y.cs / 8, v = afterwards(layer, panels), sides = [];
    for (let p = 0; p < period; p++) sides.push(taps(layer, kernel, p));
    const before = Math.max(0, ...sides.map((side) => -side.first));
    const count = (side, p) => Math.ceil((side - p) / period);
    const after = (input, output) => Math.max(0, ...sides.map((side, p) =>
      count(output, p) - 1 + side.first + side.lists.length - 1 - (input - 1)));
    const width = x.w + before + after(x.w, y.w), height = x.h + before + after(x.h, y.h);
    const padded = reserve(width * height * x.cs);

    const phases = [];
    sides.forEach((rows, py) => sides.forEach((columns, px) => {
      const klen = columns.lists.length * x.cs, b = reserve(panels * rows.lists.length * klen * 8);
      for (let o = 0; o < y.c; o++) for (let c = 0; c < x.c; c++) {
        const from = (o * x.c + c) * kernel * kernel;
        rows.lists.forEach((ys, r) => columns.lists.forEach((xs, s) => {
          let sum = 0;
          for (const ty of ys) for (const tx of xs) sum += weights[from + ty * kernel + tx];
          floats[b + (((o >> 3) * rows.lists.length + r) * klen + s * x.cs + c) * 8 + (o & 7)] = sum;
        }));
      }
      const a = padded + ((rows.first + before) * width + columns.first + before) * x.cs;
      const c = y.at + (py * y.w + px) * y.cs;
      phases.push([a * 4, b * 4, c * 4, v * 4, count(y.h, py), count(y.w, px), panels, rows.lists.length, klen,
        width * x.cs * 4, x.cs * 4, width * x.cs * 4, period * y.w * y.cs * 4, period * y.cs * 4, slope(layer)]);
    }));
    return () => {
      for (let row = 0; row < x.h; row++) {
        const at = x.at + row * x.w * x.cs;
        floats.copyWithin(padded + ((row + before) * width + before) * x.cs, at, at + x.w * x.cs);
      }
      for (const phase of phases) if (phase[4] > 0 && phase[5] > 0) gemm(...phase);
    };
  };

  const each = (x, y, f) => () => {
    for (let k = 0, n = x.h * x.w * x.cs; k < n; k++) floats[y.at + k] = f(floats[x.at + k], k % x.cs);
  };
  const both = (x, y, other, f) => () => { // `other` is as large as x, or one pixel that meets all of x's
    const period = other.h * other.w * other.cs, n = x.h * x.w * x.cs;
    for (let k = 0; k < n; k++) floats[y.at + k] = f(floats[x.at + k], floats[other.at + k % period]);
  };
  const pixels = (x, y, from) => () => { // y's pixel (r, c) is x's pixel from(r, c)
    for (let r = 0; r < y.h; r++) for (let c = 0; c < y.w; c++) {
      const [row, column] = from(r, c), at = x.at + (row * x.w + column) * x.cs;
      floats.copyWithin(y.at + (r * y.w + c) * y.cs, at, at + x.cs);
    }
  };
  const mean = ({ factor }, x, y) => () => { // of blocks of factor x factor pixels
    floats.fill(0, y.at, y.at + y.h * y.w * y.cs);
    for (let r = 0; r < x.h; r++) for (let c = 0; c < x.w; c++) for (let k = 0; k < x.c; k++) {
      const at = y.at + (Math.floor(r / factor) * y.w + Math.floor(c / factor)) * y.cs + k;
      floats[at] += floats[x.at + (r * x.w + c) * x.cs + k] / factor ** 2;
    }
  };
  const pointwise = (layer, x, y) => {
    const a = slope(layer), scale = layer.scale && tensor(layer.scale), shift = layer.shift && tensor(layer.shift);
    return each(x, y, (value, k) => {
      const after = value < 0 ? value * a : value;
      return scale ? after * (scale[k] || 0) + (shift[k] || 0) : after;
    });
  };
  const instance = (layer, x, y) => { // each map with mean 0 and deviation 1
    const n = x.h * x.w, scale = layer.scale && tensor(layer.scale), shift = layer.shift && tensor(layer.shift);
    return () => {
      for (let k = 0; k < x.c; k++) {
        let mean = 0, square = 0;
        for (let p = 0; p < n; p++) mean += floats[x.at + p * x.cs + k] / n;
        for (let p = 0; p < n; p++) square += (floats[x.at + p * x.cs + k] - mean) ** 2 / n;
        const by = (scale ? scale[k] : 1) / Math.sqrt(square + layer.eps), more = shift ? shift[k] : 0;
        for (let p = 0; p < n; p++) floats[y.at + p * y.cs + k] = (floats[x.at + p * x.cs + k] - mean) * by + more;
      }
    };
  };
  const reshape = (layer, x, y) => () => { // in the order (channels, height, width) nothing moves
    for (let k = 0; k < y.c * y.h * y.w; k++) {
      const q = Math.floor(k / (x.h * x.w)), i = k % (x.h * x.w), o = Math.floor(k / (y.h * y.w)), j = k % (y.h * y.w);
      floats[y.at + j * y.cs + o] = floats[x.at + i * x.cs + q];
    }
  };
  const kinds = {
    dense, conv: convolution, transposed: convolution, pointwise, instance, reshape, mean,
    tanh: (layer, x, y) => each(x, y, Math.tanh),
    sigmoid: (layer, x, y) => each(x, y, (value) => 1 / (1 + Math.exp(-value))),
    clip: ({ low, high }, x, y) => each(x, y, (value) => Math.min(Math.max(value, low), high)),
    upsample: (layer, x, y) => pixels(x, y, (r, c) => [Math.floor(r / layer.up), Math.floor(c / layer.up)]),
    edges: ({ border }, x, y) => pixels(x, y, (r, c) => // the nearest pixel that there is
      [Math.min(Math.max(r - border, 0), x.h - 1), Math.min(Math.max(c - border, 0), x.w - 1)]),
    crop: (layer, x, y) => pixels(x, y, (r, c) => [r + layer.from[0], c + layer.from[1]]),
    add: (layer, x, y, other) => both(x, y, other, (p, q) => p + q),
    multiply: (layer, x, y, other) => both(x, y, other, (p, q) => p * q),
  };

  const value = (shape, flat, like) => {
    const [c, h, w] = shape.length === 3 ? shape : [shape[0], 1, 1];
    const cs = flat ? c : like ? like.cs : up8(c);
    return { c, h, w, cs, at: reserve(h * w * cs + 32) };
  };
  const values = [value([model.latent], true)], steps = [];
  for (const layer of model.layers) {
    const inputs = layer.in.map((k) => values[k]);
    const keeps = !["dense", "conv", "transposed", "reshape"].includes(layer.op);
    const y = value(layer.shape, layer.op === "dense" || layer.shape.length === 1, keeps && inputs[0]);
    steps.push(kinds[layer.op](layer, inputs[0], y, inputs[1]));
    values.push(y);
  }

  // z (latent numbers) -> RGBA bytes of one picture.
  return (z) => {
    floats.set(z, values[0].at);
    for (const step of steps) step();
    const { c, h, w, cs, at } = values[values.length - 1], picture = new Uint8ClampedArray(h * w * 4);
    for (let p = 0; p < h * w; p++) {
      for (let k = 0; k < 3; k++) {
        const number = floats[at + p * cs + (c === 3 ? k : 0)];
        picture[p * 4 + k] = model.range === "tanh" ? number * 127.5 + 127.5 : number * 255;
      }
      picture[p * 4 + 3] = 255;
    }
    return picture;
  };
}

// `gemm` of kernel.py, for browsers without SIMD: a few times slower, equal but for rounding.
function plainGemm(memory) {
  let floats = new Float32Array(0);
  return (a, b, c, v, rows, m, panels, segs, klen, aRow, aPix, aSeg, cRow, cPix, slope) => {
    if (floats.buffer !== memory.buffer) floats = new Float32Array(memory.buffer);
    for (let n = 0; n < panels; n++) for (let y = 0; y < rows; y++) for (let x = 0; x < m; x++) {
      const at = (v >> 2) + n * 24, f = floats, r = Math.fround;
      let s0 = f[at], s1 = f[at + 1], s2 = f[at + 2], s3 = f[at + 3];
      let s4 = f[at + 4], s5 = f[at + 5], s6 = f[at + 6], s7 = f[at + 7];
      let q = (b >> 2) + n * segs * klen * 8;
      for (let s = 0; s < segs; s++) {
        for (let p = (a + y * aRow + x * aPix + s * aSeg) >> 2, end = p + klen; p < end; p++, q += 8) {
          const t = f[p];
          s0 = r(s0 + r(t * f[q])); s1 = r(s1 + r(t * f[q + 1])); s2 = r(s2 + r(t * f[q + 2]));
          s3 = r(s3 + r(t * f[q + 3])); s4 = r(s4 + r(t * f[q + 4])); s5 = r(s5 + r(t * f[q + 5]));
          s6 = r(s6 + r(t * f[q + 6])); s7 = r(s7 + r(t * f[q + 7]));
        }
      }
      const to = ((c + y * cRow + x * cPix) >> 2) + n * 8;
      [s0, s1, s2, s3, s4, s5, s6, s7].forEach((sum, i) => {
        f[to + i] = Math.max(sum, sum * slope) * f[at + 8 + i] + f[at + 16 + i];
      });
    }
  };
}

// Memory of WebAssembly's kind, without it.
class PlainMemory {
  constructor() { this.buffer = new ArrayBuffer(0); }
  grow(pages) {
    const larger = new ArrayBuffer(this.buffer.byteLength + pages * 65536);
    new Uint8Array(larger).set(new Uint8Array(this.buffer));
    this.buffer = larger;
  }
}

// An engine, with SIMD where the browser has it; `simd` false takes the plain loop.
function start(model, bytes, simd) {
  if (simd) {
    try {
      const memory = new WebAssembly.Memory({ initial: 1 });
      const module = new WebAssembly.Module(Uint8Array.from(atob(model.kernel), (c) => c.charCodeAt(0)));
      const { gemm } = new WebAssembly.Instance(module, { env: { memory } }).exports;
      return { draw: engine(model, bytes, memory, gemm), simd: true };
    } catch (error) { /* no WebAssembly, no SIMD, or forbidden: the plain loop draws the same */ }
  }
  const memory = new PlainMemory();
  return { draw: engine(model, bytes, memory, plainGemm(memory)), simd: false };
}

// Bytes from text: five characters of Python's base85 (with , for <) are four bytes, deflated.
async function unpack(text, length) {
  const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~";
  const values = new Uint8Array(128);
  [...digits].forEach((digit, k) => { values[digit.charCodeAt(0)] = k; });
  const packed = new DataView(new ArrayBuffer(text.length / 5 * 4));
  for (let k = 0, at = 0; k < text.length; at += 4) {
    let word = 0;
    for (let i = 0; i < 5; i++) word = word * 85 + values[text.charCodeAt(k++)];
    packed.setUint32(at, word);
  }
  const whole = new Blob([new Uint8Array(packed.buffer, 0, length)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(whole).arrayBuffer());
}

// What the page talks to: first it unpacks and compares itself with the stored pictures, then it draws.
async function serve(model, text, say) {
  const begun = performance.now(), bytes = await unpack(text, model.packed);
  const { draw, simd } = start(model, bytes, model.simd !== false);
  const { count, latents: at, pictures } = model.check, [channels, height, width] = model.size;
  const size = channels * height * width, seconds = [];
  let worst = 0, drift = 0;
  for (let k = 0; k < count; k++) {
    const stored = new Float32Array(bytes.buffer, at + k * model.latent * 4, model.latent);
    latents(model.check.seed, k, model.latent).forEach((x, i) => { drift = Math.max(drift, Math.abs(x - stored[i])); });
    const before = performance.now(), picture = draw(stored);
    seconds.push(performance.now() - before);
    for (let p = 0; p < height * width; p++) for (let c = 0; c < channels; c++) {
      worst = Math.max(worst, Math.abs(picture[p * 4 + c] - bytes[pictures + k * size + p * channels + c]));
    }
  }
  const each = seconds.sort((a, b) => a - b)[count >> 1], { at: from, count: ways } = model.directions;
  const directions = new Float32Array(bytes.buffer, from, ways * model.latent).slice();
  say({ check: { worst, drift, count, each, simd, took: performance.now() - begun }, directions });
  return (key, z) => say({ key, picture: draw(z) });
}

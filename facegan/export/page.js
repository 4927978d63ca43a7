
"use strict";
const find = (id) => document.getElementById(id);
const model = JSON.parse(find("model").textContent), COUNT = 24;
const [channels, height, width] = model.size;
const home = { seed: 0, face: 0, to: 1, walk: 0, truncation: 1 };
let state = { ...home }, directions = new Float32Array(0), choosing = false, playing = 0;

// Drawing: what is wanted by canvas, one at a time, the large face first. A newer wish replaces an older one.
const wanted = new Map();
let busy = true, send = () => {};
const ask = (key, z) => { wanted.delete(key); wanted.set(key, z); next(); };
function next() {
  if (busy || !wanted.size) return;
  const key = wanted.has("large") ? "large" : wanted.keys().next().value, z = wanted.get(key);
  wanted.delete(key);
  busy = true;
  send(key, z);
}
const canvases = { large: find("large") };
function hear({ key, picture, check, directions: found, failed }) {
  busy = false;
  if (failed) return tell(`This browser cannot run the network: ${failed}`, "bad");
  if (check) begin(check, found);
  else canvases[key].getContext("2d").putImageData(new ImageData(picture, width, height), 0, 0);
  next();
}
function hire() {
  const source = find("engine").textContent, text = find("weights").textContent;
  const work = `let draw; const say = (m) => postMessage(m); onmessage = async ({ data }) => { try {
    if (data.model) draw = await serve(data.model, data.text, say); else draw(data.key, data.z);
  } catch (error) { say({ failed: String(error) }); } };`;
  try {
    const worker = new Worker(URL.createObjectURL(new Blob([source, work], { type: "text/javascript" })));
    worker.onmessage = ({ data }) => hear(data);
    worker.onerror = (event) => { event.preventDefault(); alone(text); };
    send = (key, z) => worker.postMessage({ key, z });
    worker.postMessage({ model, text });
  } catch (error) { alone(text); }
}
function alone(text) { // a browser that gives a local file no worker: the same here, a face at a time
  serve(model, text, hear).then((draw) => { send = (key, z) => setTimeout(() => draw(key, z)); },
    (error) => hear({ failed: String(error) }));
}
function tell(text, kind) { find("status").textContent = text; find("status").className = kind; }
function begin({ worst, drift, count, each, simd, took }, found) {
  const same = worst <= 2 && drift < 1e-5;
  tell(same ? `Checked: ${count} faces are those that PyTorch drew, at most ${worst} of 255 apart. ${Math.max(1, Math.round(each))} ms a face.`
    : `This browser draws other faces than PyTorch did: up to ${worst} of 255 apart.`, same ? "good" : "bad");
  document.documentElement.dataset.check = JSON.stringify({ worst, drift, each, simd, took });
  directions = found;
  addSliders();
  read();
}

// Latents: a face of the seed, nearer to the average or further from it, on its way, and moved along directions.
const cache = new Map();
function latent(face) {
  const key = `${state.seed}/${face}`;
  if (!cache.has(key)) cache.set(key, latents(state.seed, face, model.latent));
  return cache.get(key).map((x) => x * state.truncation);
}
function between(a, b, t) { // along the great circle (White 2016, arXiv:1609.04468)
  const dot = (p, q) => p.reduce((sum, x, k) => sum + x * q[k], 0);
  const angle = Math.acos(Math.min(1, Math.max(-1, dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b) || 1))));
  if (Math.sin(angle) < 1e-4) return a.map((x, k) => x * (1 - t) + b[k] * t);
  return a.map((x, k) => (x * Math.sin((1 - t) * angle) + b[k] * Math.sin(t * angle)) / Math.sin(angle));
}
function chosen() {
  const z = state.walk ? between(latent(state.face), latent(state.to), state.walk) : latent(state.face);
  sliders.forEach((slider, k) => { for (let i = 0; i < z.length; i++) z[i] += slider.value * directions[k * z.length + i]; });
  return z;
}

// The address: #seed=3&face=7 and whatever is not as usual.
const sliders = [];
function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (name, most) => {
    const value = given.has(name) ? Number(given.get(name)) : home[name] || 0;
    return Number.isFinite(value) ? Math.min(most, Math.max(0, value)) : home[name];
  };
  state = { seed: Math.floor(number("seed", 2 ** 31 - 1)), face: Math.floor(number("face", COUNT - 1)),
    to: Math.floor(number("to", COUNT - 1)), walk: number("walk", 1), truncation: number("truncation", 1.5) };
  sliders.forEach((slider, k) => { slider.value = Number(given.get(`d${k + 1}`)) || 0; });
  draw(true);
}
function write() {
  const words = [`seed=${state.seed}`, `face=${state.face}`];
  for (const name of ["to", "walk", "truncation"]) if (state[name] !== home[name]) words.push(`${name}=${+state[name].toFixed(2)}`);
  sliders.forEach((slider, k) => { if (Number(slider.value)) words.push(`d${k + 1}=${slider.value}`); });
  const hash = `#${words.join("&")}`;
  if (hash !== location.hash) history.replaceState(null, "", hash);
}
function draw(all) {
  find("seed").value = state.seed;
  find("walk").value = state.walk;
  find("truncation").value = state.truncation;
  for (const slider of [find("truncation"), ...sliders]) slider.nextElementSibling.value = Number(slider.value).toFixed(slider.min < 0 ? 1 : 2);
  find("way").textContent = `from face ${state.face + 1} to face ${state.to + 1}`;
  find("caption").textContent = `Seed ${state.seed}, face ${state.face + 1}${state.walk ? `, ${Math.round(state.walk * 100)} % of the way to face ${state.to + 1}` : ""}`;
  cells.forEach((cell, k) => {
    cell.setAttribute("aria-pressed", k === state.face);
    cell.tabIndex = k === state.face ? 0 : -1;
    cell.classList.toggle("to", k === state.to && k !== state.face);
    if (all) ask(k, latent(k));
  });
  ask("large", chosen());
  write();
}
const change = (values, all = false) => { Object.assign(state, values); draw(all); };

// The parts that there are several of.
const cells = Array.from({ length: COUNT }, (_, k) => {
  const cell = document.createElement("button"), canvas = document.createElement("canvas");
  cell.type = "button";
  cell.tabIndex = k ? -1 : 0;
  cell.setAttribute("aria-label", `Face ${k + 1}`);
  Object.assign(canvas, { width, height });
  canvases[k] = canvas;
  cell.append(canvas);
  cell.addEventListener("click", () => { if (choosing) { choose(false); change({ to: k }); } else pick(k); });
  find("grid").append(cell);
  return cell;
});
function pick(k) { // on a phone the large face may be out of sight
  stop();
  change({ face: k, walk: 0, to: k === state.to ? (k + 1) % COUNT : state.to });
  if (canvases.large.getBoundingClientRect().bottom < 60) canvases.large.scrollIntoView({ behavior: "smooth", block: "start" });
}
function addSliders() {
  for (let k = 0; k < model.directions.count; k++) {
    const label = document.createElement("label"), name = document.createElement("span");
    const slider = document.createElement("input"), output = document.createElement("output");
    label.className = "slide";
    name.textContent = `direction ${k + 1}`;
    Object.assign(slider, { type: "range", min: -4, max: 4, step: 0.1, value: 0 });
    slider.addEventListener("input", () => draw(false));
    label.append(name, slider, output);
    find("sliders").append(label);
    sliders.push(slider);
  }
}

// What one can do.
function save(canvas, name) {
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }, "image/png");
}
function sheet() {
  const all = document.createElement("canvas"), gap = 2, columns = 6, rows = COUNT / columns;
  Object.assign(all, { width: columns * (width + gap) - gap, height: rows * (height + gap) - gap });
  const context = all.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, all.width, all.height);
  cells.forEach((_, k) => context.drawImage(canvases[k], k % columns * (width + gap), Math.floor(k / columns) * (height + gap)));
  save(all, `faces-seed-${state.seed}.png`);
}
function choose(on) {
  choosing = on;
  find("grid").classList.toggle("choosing", on);
  find("choose").setAttribute("aria-pressed", on);
}
function stop() { playing = 0; find("play").setAttribute("aria-pressed", false); find("play").textContent = "Play"; }
function play() {
  if (playing) return stop();
  find("play").setAttribute("aria-pressed", true);
  find("play").textContent = "Stop";
  const turn = playing = Math.random();
  const begun = performance.now() - Math.acos(1 - 2 * state.walk) / Math.PI * 3000;
  const step = (now) => { // three seconds a way, slow at both ends
    if (turn !== playing) return;
    if (!busy) change({ walk: Math.round(50 - 50 * Math.cos((now - begun) / 3000 * Math.PI)) / 100 });
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}
const actions = {
  save: () => save(canvases.large, `face-seed-${state.seed}-${state.face + 1}.png`), sheet, play,
  new: () => { stop(); change({ seed: Math.floor(Math.random() * 1e6), walk: 0 }, true); },
  choose: () => choose(!choosing),
  again: () => { stop(); for (const slider of sliders) slider.value = 0; change({ walk: 0, truncation: 1 }, true); },
  pixels: () => find("pixels").setAttribute("aria-pressed", document.body.classList.toggle("crisp")),
};
for (const [id, action] of Object.entries(actions)) find(id).addEventListener("click", action);
find("walk").addEventListener("input", (event) => { stop(); change({ walk: Number(event.target.value) }); });
find("truncation").addEventListener("input", (event) => change({ truncation: Number(event.target.value) }, true));
find("seed").addEventListener("change", (event) => change({ seed: Math.min(2 ** 31 - 1, Math.max(0, Math.floor(Number(event.target.value)) || 0)), walk: 0 }, true));
addEventListener("hashchange", read);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
  const name = { n: "new", s: "save", p: "play", r: "again" }[event.key.toLowerCase()];
  if (name) return actions[name]();
  if (event.key === "Escape") return choose(false);
  const columns = getComputedStyle(find("grid")).gridTemplateColumns.split(" ").length;
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (!by || !find("grid").contains(document.activeElement)) return;
  event.preventDefault();
  const at = cells.indexOf(document.activeElement), to = Math.min(COUNT - 1, Math.max(0, at + by));
  cells[to].focus();
  if (!choosing) cells[to].click();
});
hire();

// The page to play with: knobs, pictures, and hidden aberrations to find by hand. Everything is computed here.

import { ABOUT, CYCLE, GREY, MAGMA, element, knobRow, number, option, paint, signed, turnedByHand } from "./view.js";
import { Renderer, counted, normal, uniform } from "./renderer.js";

const OPTICS = /* optics */ null;
const KNOBS = [["C10", 60, 0.2], ["C12a", 30, 0.2], ["C12b", 30, 0.2], ["C21a", 600, 2], ["C21b", 600, 2], ["C23a", 600, 2], ["C23b", 600, 2], ["C30", 20000, 100]]
  .map(([name, limit, step]) => ({ name, limit, step }));
const ZERO = Object.fromEntries(KNOBS.map(({ name }) => [name, 0]));
// What is hidden: standard deviations, nm; cut at twice that.
const LEVELS = [
  { name: "defocus and astigmatism", spread: { C10: 16, C12a: 7, C12b: 7 } },
  { name: "and coma, 3-fold astigmatism", spread: { C10: 16, C12a: 7, C12b: 7, C21a: 130, C21b: 130, C23a: 90, C23b: 90 } },
];
const START = { C10: 28, C12a: 6, C12b: -4 };
const EASY = 0.2; // a Strehl ratio above this would leave little to find
const NO_NOISE = 9; // the end of the slider
const PROBE_PIXELS = 96;

const get = (id) => document.getElementById(id);
const scope = new Renderer(OPTICS, KNOBS.map((knob) => knob.name));
const state = { knobs: {}, hidden: {}, secret: false, film: 1, shot: 1, turns: 0, due: false };
const dragging = new Set();
const drawn = [];

// --- pictures -----------------------------------------------------------------------------------

// What the beam has: what was hidden, and the knobs.
function present() {
  return Object.fromEntries(KNOBS.map(({ name }) => [name, (state.hidden[name] || 0) + (state.knobs[name] || 0)]));
}

function bytes(values, side, low, high) {
  const span = high > low ? high - low : 1;
  return { width: side, height: side, data: Uint8Array.from(values, (value) => Math.max(0, Math.min(255, ((value - low) * 255) / span))) };
}

// The value below which a share of the values lies, of every third of them.
function percentile(values, share) {
  const some = Float32Array.from({ length: Math.floor(values.length / 3) }, (_, k) => values[3 * k]).sort();
  return some[Math.min(some.length - 1, Math.floor(share * some.length))];
}

function draw() {
  state.due = false;
  const now = present(), fits = scope.holds(now);
  get("too-far").hidden = fits;
  get("ronchigram").style.visibility = fits ? "" : "hidden";
  if (fits) drawFrame(now);
  document.querySelectorAll(".secret").forEach((box) => box.classList.toggle("known", !state.secret));
  get("strehl").textContent = state.secret ? "–" : scope.strehl(now).toFixed(2);
  if (!state.secret) paint(get("phase"), scope.phasePlate(now), CYCLE);
  get("turns").textContent = state.turns;
  const time = performance.now();
  drawn.push(time);
  while (drawn[0] < time - 1000) drawn.shift();
  get("rate").textContent = `${drawn.length}/s`;
}

function drawFrame(now) {
  const { frame, probe } = scope.expose(now, PROBE_PIXELS), dose = 10 ** get("dose").value;
  const shown = Number(get("dose").value) < NO_NOISE ? counted(frame, dose, uniform(state.shot)) : frame;
  paint(get("ronchigram"), bytes(shown, scope.side, percentile(shown, 0.01), percentile(shown, 0.997)), GREY);
  const power = scope.spectrum(shown), side = Math.sqrt(power.length);
  paint(get("spectrum"), bytes(power, side, percentile(power, 0.3), Math.max(percentile(power, 0.996), percentile(power, 0.3) + 0.3)), MAGMA);
  if (!state.secret) paint(get("probe"), bytes(probe, PROBE_PIXELS, 0, probe.reduce((a, b) => Math.max(a, b))), MAGMA);
}

function redraw() {
  if (state.due) return;
  state.due = true;
  requestAnimationFrame(draw);
}

// --- knobs --------------------------------------------------------------------------------------

function turn(values) {
  for (const [name, value] of Object.entries(values)) {
    const { limit, step } = KNOBS.find((knob) => knob.name === name), held = Math.max(-limit, Math.min(limit, value));
    if (Math.abs(held - (state.knobs[name] || 0)) > 1e-9) state.turns += 1;
    state.knobs[name] = held;
    if (!dragging.has(name)) get(`knob-${name}`).value = held;
    get(`value-${name}`).value = held.toFixed(step < 1 ? 1 : 0);
  }
  state.shot += 1;
  if (!state.secret) tellLeft();
  redraw();
}

get("knobs").append(...KNOBS.map((knob) => knobRow(knob, turn, dragging)));
turnedByHand(get("ronchigram"), (name) => state.knobs[name] || 0, turn);
get("zero").onclick = () => turn(ZERO);
get("stage").onclick = () => { state.film += 1; scope.takeFilm(state.film); redraw(); };
get("dose").oninput = () => {
  const at = Number(get("dose").value);
  get("dose-value").textContent = at < NO_NOISE ? `${number(10 ** at)} e` : "no noise";
  redraw();
};

// --- hidden aberrations -------------------------------------------------------------------------

function hide(seed) {
  const { spread } = LEVELS[get("level").selectedIndex], random = uniform(seed);
  do state.hidden = Object.fromEntries(Object.entries(spread).map(([name, sigma]) => [name, sigma * Math.max(-2, Math.min(2, normal(random)))]));
  while (scope.strehl(state.hidden) > EASY);
  Object.assign(state, { secret: true, film: 1 + (seed % 1000), turns: 0 });
  scope.takeFilm(state.film);
  get("show").hidden = false;
  get("left-box").hidden = true;
  get("verdict").className = "hint";
  get("verdict").textContent = "Turn the knobs until the middle of the disc is large and smooth, then look how close you came.";
  turn(ZERO);
  state.turns = 0;
}

function show() {
  state.secret = false;
  get("show").hidden = true;
  const strehl = scope.strehl(present()), good = strehl >= 0.8;
  get("verdict").className = `hint ${good ? "good" : ""}`;
  get("verdict").textContent = `A Strehl ratio of ${strehl.toFixed(2)} after ${state.turns} turns: ${good ? "as sharp as the aperture allows." : strehl > 0.4 ? "close. The π/4 line should reach the rim of the phase plate." : "not yet. The π/4 line of the phase plate shows how far the beam is flat."}`;
  tellLeft();
  redraw();
}

function tellLeft() {
  get("left-box").hidden = !Object.keys(state.hidden).length;
  const rows = Object.entries(state.hidden).map(([name, value]) => [`${name} ${ABOUT[name]}`, signed(value, 1), signed(value + (state.knobs[name] || 0), 1)]);
  const cells = (tag, row) => element("tr", {}, ...row.map((text) => element(tag, { textContent: text })));
  get("left-table").replaceChildren(element("table", {}, cells("th", ["nm", "hidden", "left"]), ...rows.map((row) => cells("td", row))));
}

get("level").append(...LEVELS.map((level) => option(level.name)));
get("hide").onclick = () => hide(Math.floor(Math.random() * 1e9));
get("show").onclick = show;

// --- begin --------------------------------------------------------------------------------------

get("optics").textContent = `${OPTICS.energy_kev} kV, ${OPTICS.convergence_mrad} mrad, ${OPTICS.film.thickness_nm} nm of carbon`;
get("camera").textContent = `${(scope.side * scope.pixel_mrad).toFixed(0)} mrad wide`;
get("probe-field").textContent = `picture: ${(PROBE_PIXELS * OPTICS.sampling_nm).toFixed(1)} nm`;
get("dose").oninput();
scope.takeFilm(state.film);
turn({ ...ZERO, ...START });
state.turns = 0;
globalThis.stemtwin = { scope, state, turn, hide, show, present }; // for the console

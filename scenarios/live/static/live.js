// The live page: draws what the server sends, and says what the operator does. No library, no build step.
// A picture is confirmed once it is drawn; the server then draws the next one.

import { ABOUT, CYCLE, GREY, MAGMA, SIGNED, element, knobRow, number, option, paint, signed, turnedByHand, unpack } from "./view.js";

const $ = (id) => document.getElementById(id);
const page = { state: null, hello: null, views: {}, held: { a: null, b: null }, knobs: {}, dragging: new Set(), ended: "" };

// --- the line -----------------------------------------------------------------------------------

let socket = null;
let connected = false;

function connect() {
  socket = new WebSocket(`ws://${location.host}/ws${location.search}`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { connected = true; page.ended = ""; banner(""); };
  socket.onmessage = (event) => {
    if (typeof event.data === "string") hear(JSON.parse(event.data));
    else receive(event.data);
  };
  socket.onclose = (event) => {
    const was = connected;
    connected = false;
    document.body.classList.add("lost");
    if (event.code === 1013) banner("Too many pages are open: close one and reload.");
    else if (page.ended) banner(`The server has ended. ${page.ended}`, true);
    else banner(was ? "The connection is lost. What runs, goes on without this page. Trying again…"
      : "No connection to the server. It may have ended without a word; an instrument's audit log tells its state. Trying again…");
    if (page.state) render();
    if (event.code !== 1013) setTimeout(connect, 1000);
  };
}

function say(message) {
  if (connected) socket.send(JSON.stringify(message));
}

function hear(message) {
  if (message.kind === "hello") { page.hello = message; fillChoices(); }
  else if (message.kind === "state") { page.state = message; render(); }
  else if (message.kind === "notice") {
    notice(message.text);
    asked.knobs = null; // a refused knob goes back to where it was
    if (page.state) render();
  }
  else if (message.kind === "ending") banner(message.text, true);
  else if (message.kind === "ended") page.ended = message.text;
}

function banner(text, calm = false) {
  $("banner").textContent = text;
  $("banner").hidden = !text;
  $("banner").classList.toggle("calm", calm);
}

let noticeTimer = 0;
function notice(text) {
  $("notice").textContent = text;
  $("notice").classList.add("shown");
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => $("notice").classList.remove("shown"), 6000);
}

// --- pictures -----------------------------------------------------------------------------------

const waiting = new Map(); // while the page is hidden, the latest picture of each kind
function receive(buffer) {
  const message = unpack(buffer);
  if (document.hidden) waiting.set(message.header.kind, message);
  else show(message);
}
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  for (const message of waiting.values()) show(message);
  waiting.clear();
});

function show({ header, pictures }) {
  if (header.kind === "view") showView(header, pictures);
  else if (header.kind === "scan") showScan(header, pictures);
  else showRun(header, pictures);
  say({ do: "seen", kind: header.kind, number: header.number });
}

const minus = (text) => text.replace(/(^|\s)-(?=\d)/g, "$1−");
const listed = (names) => (!names ? "" : names.length > 3 ? `${names.length} coefficients` : names.join(", "));
const drawn = [];
const asked = { knobs: null, at: 0 };
function showView(header, pictures) {
  page.views.view = { header, pictures };
  $("view-empty").hidden = true;
  paint($("ronchigram"), pictures.ronchigram, GREY);
  paint($("spectrum"), pictures.spectrum, MAGMA);
  const known = Boolean(pictures.phase);
  document.querySelectorAll(".secret").forEach((box) => box.classList.toggle("known", known));
  if (known) {
    paint($("probe"), pictures.probe, MAGMA);
    paint($("phase"), pictures.phase, CYCLE);
  }
  $("probe-field").textContent = known ? `picture: ${pictures.probe.field_nm.toFixed(1)} nm` : "";
  const guessed = header.basis === "estimate";
  for (const tag of known ? document.querySelectorAll(".secret .tag") : []) tag.textContent = guessed ? `estimate: ${listed(header.covers)} alone` : "";
  $("strehl").textContent = known ? header.strehl.toFixed(2) : "–";
  if (guessed && header.strehl_std >= 0.005) $("strehl").append(element("small", { textContent: ` ± ${header.strehl_std.toFixed(2)}` }));
  $("basis").textContent = { truth: "(truth)", estimate: "(estimate)" }[header.basis] || "";
  $("strehl-about").textContent = `${{ truth: `${known ? header.strehl_calibrated?.toFixed(2) : ""} by ${listed(header.covers)} alone. `,
    estimate: `by ${listed(header.covers)} alone, which were estimated. ` }[header.basis] || ""}0.8 and more is good.`;
  $("clock").textContent = `${header.clock_s.toFixed(1)} s`;
  $("quality").textContent = header.draft ? "draft" : "full";
  const now = performance.now();
  drawn.push(now);
  while (drawn.length && drawn[0] < now - 1000) drawn.shift();
  $("rate").textContent = `${drawn.length}/s`;
  if (asked.knobs && Object.entries(asked.knobs).every(([name, value]) => Math.abs(header.knobs[name] - value) < 1e-3)) {
    $("delay").textContent = `${Math.round(now - asked.at)} ms`;
    asked.knobs = null;
  }
}

function showRun(header, pictures) {
  page.views[header.kind] = { header, pictures };
  paint($("run-ronchigram"), pictures.ronchigram, GREY);
  $("run-frame").textContent = header.name;
  const side = header.kind === "before" ? "a" : "b";
  hold(side, { header, pictures }, `Calibration, ${header.name.replace("Frame", "frame")}; ${number(header.dose_e)} electrons.`);
  if (header.kind === "before") clearHeld("b");
}

// --- compare ------------------------------------------------------------------------------------

function hold(side, view, about) {
  if (!view) { notice("There is no view yet."); return; }
  page.held[side] = view;
  paint($(`${side}-ronchigram`), view.pictures.ronchigram, GREY);
  paint($(`${side}-spectrum`), view.pictures.spectrum, MAGMA);
  $(`${side}-about`).textContent = about;
}

function clearHeld(side) {
  page.held[side] = null;
  for (const name of ["ronchigram", "spectrum"]) {
    const canvas = $(`${side}-${name}`);
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  }
  $(`${side}-about`).textContent = "Nothing held yet.";
}

function setBy(header) { // the knobs as the latest calibration left them, or of the operator's own
  const { run } = page.state, left = run && !run.running && run.cumulative_nm.some(Boolean);
  return left && run.names.every((name, i) => Math.abs(header.knobs[name] - run.cumulative_nm[i]) < 1e-3) ? "By calibration" : "By hand";
}
function knobsInWords(header) {
  return header.knobs ? Object.entries(header.knobs).map(([name, value]) => `${name} ${signed(value)} nm`).join(", ") : "";
}
for (const side of ["a", "b"]) {
  $(`hold-${side}`).onclick = () => {
    const view = page.views.view;
    hold(side, view, view && `${setBy(view.header)}: ${knobsInWords(view.header)}; ${number(view.header.dose_e)} electrons${view.header.strehl ? `; Strehl ratio ${view.header.strehl.toFixed(2)} (${view.header.basis})` : ""}.`);
  };
}

// --- words --------------------------------------------------------------------------------------

function fill(box, key, build) { // rebuild only what has changed, so that focus and scroll stay
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(...build());
}

// --- state --------------------------------------------------------------------------------------

function fillChoices() {
  const { controllers, days, scans, agents, source } = page.hello;
  const keep = $("controller").value;
  $("controller").replaceChildren(...controllers.map((one) => option(one.name, one.about)));
  $("controller").value = keep || "vae_em";
  aboutController();
  $("day").replaceChildren(...days.map((one) => option(one.name, one.about)));
  const scanned = source ? [{ name: source, about: "the source named on the command line" }, ...scans] : scans;
  $("scan-of").replaceChildren(...scanned.map((one) => option(one.name, one.about)));
  if (!source) $("scan-of").value = "calibrate_and_scan";
  aboutScan();
  const boxes = (usual) => agents.filter((one) => one.usual === usual).map((one) => {
    const input = element("input", { type: "checkbox", value: one.name, checked: ["adf", "ricom"].includes(one.name) });
    const box = element("label", { className: "check" }, input, one.name);
    input.setAttribute("aria-description", one.about);
    box.onpointerenter = () => tellAgent(one, box);
    input.onfocus = () => { if (input.matches(":focus-visible")) tellAgent(one, box); };
    box.onpointerleave = input.onblur = () => { $("agent-about").hidden = true; };
    return box;
  });
  $("usual-agents").replaceChildren(...boxes(true));
  $("other-agents").replaceChildren(...boxes(false));
}
function tellAgent({ name, about }, box) { // beside the panel: nothing moves, nothing is cut
  const tip = $("agent-about"), { top } = box.getBoundingClientRect(), { right } = $("agents").closest("aside").getBoundingClientRect();
  tip.textContent = `${name}: ${about}`;
  tip.hidden = false;
  tip.style.left = `${Math.max(8, Math.min(right + 8, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(8, Math.min(top, innerHeight - tip.offsetHeight - 8))}px`;
}
function aboutController() { $("controller-about").textContent = page.hello.controllers.find((one) => one.name === $("controller").value)?.about || ""; }
const BEAMS = { microscope: ["corrector as in Microscope", "The corrector as it stands in the panel Microscope, on the same hidden aberrations."],
  uncorrected: ["uncorrected", "The aberrations that the seed hides."], corrected: ["corrected", "What the corrector does not reach is left."] };
function aboutScan() {
  const scan = page.hello.scans.find((one) => one.name === $("scan-of").value);
  $("scan-about").textContent = scan ? `${scan.about}. Aperture: ${scan.convergence_mrad} mrad, that of the scenario.` : "the source named on the command line";
  $("beam-line").hidden = !scan;
  $("beam").replaceChildren(...Object.entries(BEAMS).map(([name, [word, about]]) => element("option", { value: name, textContent: word, title: about })));
  $("beam").value = !scan || scan.corrected ? "corrected" : "microscope";
  $("beam").title = BEAMS[$("beam").value][1];
}
$("controller").onchange = aboutController;
$("scan-of").onchange = aboutScan;
$("beam").onchange = () => { $("beam").title = BEAMS[$("beam").value][1]; };

const drives = () => connected && page.state?.role.drives;
const runs = () => Boolean(page.state?.run?.running);

function render() {
  const { scenario, microscope, role } = page.state;
  document.body.classList.toggle("lost", !connected);
  $("scenario").textContent = `${scenario.name}, seed ${scenario.seed}${microscope.twin ? "" : `, ${microscope.kind}${microscope.dry_run ? ", dry run" : ""}`}`;
  $("role").textContent = !connected ? "not connected" : role.drives ? (role.pages > 1 ? `this page drives, ${role.pages - 1} watching` : "this page drives") : "this page watches";
  $("drive").hidden = !connected || role.drives;
  renderMicroscope();
  renderRun();
  renderScan();
  markMore();
}

function renderMicroscope() {
  const { microscope, scenario } = page.state;
  const free = drives() && !runs() && microscope.connected;
  const why = whyNot(microscope);
  $("knobs-why").hidden = !why;
  $("knobs-why").textContent = why;
  fill($("knobs"), microscope.knobs.map((knob) => `${knob.name}${knob.limit}`).join(), () => microscope.knobs.map((knob) => knobRow(knob, turn, page.dragging, () => page.state.microscope.instrument)));
  for (const knob of microscope.knobs) setKnob(knob, free);
  const { energy_kev, convergence_mrad, camera_mrad } = microscope.optics;
  $("camera").textContent = `${energy_kev} kV, ${convergence_mrad} mrad, ${camera_mrad.toFixed(0)} mrad wide`;
  $("zero").disabled = !free;
  $("exposure").hidden = $("day-box").hidden = $("truth").hidden = !microscope.twin;
  $("connection").hidden = microscope.twin;
  $("connection-text").textContent = microscope.dry_run ? "A dry run: nothing is sent to the instrument; the simulator gives the frames. To move it, start with --move."
    : microscope.connected ? "In a session by hand, within the limits, with an audit log." : "Not connected.";
  $("connect").textContent = microscope.connected ? "Disconnect" : "Connect";
  $("connect").disabled = !drives() || runs();
  $("view-empty").textContent = microscope.connected ? "Waiting for the first frame…" : "Not connected to the instrument.";
  if (!microscope.connected) $("view-empty").hidden = false;
  for (const id of ["dose", "time", "stage", "live", "day", "seed", "draw", "truth"]) $(id).disabled = !free;
  $("live").disabled = $("truth").disabled = !drives();
  $("live").checked = microscope.live;
  if (microscope.twin) renderTwin(microscope, scenario);
}

function whyNot(microscope) { // why the knobs are grey
  const { run } = page.state;
  if (!connected) return "Not connected to the server.";
  if (!drives()) return "Another page drives: take the controls to turn the knobs.";
  if (!microscope.connected) return "Connect to the instrument to turn the knobs.";
  if (!runs()) return "";
  return run.finishing ? "The calibration is writing its report: the knobs come back in a moment." : "The calibration has the microscope: the knobs come back when it ends.";
}

function renderTwin(microscope, scenario) {
  setRange("dose", Math.log10(microscope.dose_e), `${number(microscope.dose_e)} e`);
  setRange("time", Math.log10(microscope.exposure_s), `${number(microscope.exposure_s)} s`);
  $("stage").textContent = `Next area (now ${microscope.region + 1})`;
  if (![...$("day").options].some((one) => one.value === scenario.name)) $("day").prepend(option(scenario.name, scenario.about));
  if (document.activeElement !== $("day")) $("day").value = scenario.name;
  if (document.activeElement !== $("seed")) $("seed").value = scenario.seed;
  $("day-about").textContent = scenario.about;
  $("truth").setAttribute("aria-pressed", microscope.truth_shown);
  $("truth").textContent = microscope.truth_shown ? "Hide the truth" : "Show the truth";
  $("truth-box").hidden = !microscope.truth;
  if (microscope.truth) {
    const rows = Object.entries(microscope.truth);
    fill($("truth-table"), JSON.stringify(rows), () => [element("table", {}, ...rows.map(([name, value]) =>
      element("tr", {}, element("td", { textContent: `${name} ${ABOUT[name] || ""}` }), element("td", { textContent: `${signed(value)} nm` }))))]);
  }
}

function setRange(id, value, text) {
  if (!page.dragging.has(id)) { $(id).value = value; $(`${id}-value`).textContent = text; }
}

// --- knobs --------------------------------------------------------------------------------------

function setKnob(knob, free) {
  if (!page.dragging.has(knob.name) && !asked.knobs) page.knobs[knob.name] = knob.value;
  const slider = $(`knob-${knob.name}`), box = $(`value-${knob.name}`);
  slider.disabled = box.disabled = !free;
  if (!page.dragging.has(knob.name) && !asked.knobs) slider.value = knob.value;
  if (document.activeElement !== box && !page.dragging.has(knob.name) && !asked.knobs) box.value = knob.value.toFixed(1);
}

function turn(values) {
  const limits = Object.fromEntries(page.state.microscope.knobs.map((knob) => [knob.name, knob.limit]));
  for (const name of Object.keys(values)) values[name] = Math.max(-limits[name], Math.min(limits[name], Math.round(values[name] * 1e4) / 1e4));
  for (const [name, value] of Object.entries(values)) { // shown at once; a refusal brings the old value back
    page.knobs[name] = value;
    if (!page.dragging.has(name)) $(`knob-${name}`).value = value;
    $(`value-${name}`).value = value.toFixed(1);
  }
  if (!asked.knobs) asked.at = performance.now();
  asked.knobs = { ...asked.knobs, ...values };
  if (performance.now() - asked.at > 2000) { asked.knobs = { ...values }; asked.at = performance.now(); }
  say({ do: "knobs", values });
}

turnedByHand($("ronchigram"), (name) => ($(`knob-${name}`)?.disabled === false ? page.knobs[name] : undefined), turn);
$("zero").onclick = () => turn(Object.fromEntries(page.state.microscope.knobs.map((knob) => [knob.name, 0])));
$("stage").onclick = () => say({ do: "stage" });
$("live").onchange = () => say({ do: "live", on: $("live").checked });
$("truth").onclick = () => say({ do: "truth", show: !page.state.microscope.truth_shown });
$("connect").onclick = () => say({ do: "connect", on: !page.state.microscope.connected });
$("drive").onclick = () => say({ do: "drive" });
function takeDay(seed) { say({ do: "day", scenario: $("day").value, seed }); }
$("day").onchange = () => { takeDay(page.state.scenario.seed); $("day").blur(); };
$("seed").onchange = () => { takeDay(Math.max(0, Math.round(Number($("seed").value)))); $("seed").blur(); };
$("draw").onclick = () => takeDay(Math.floor(Math.random() * 1e6));
for (const id of ["dose", "time"]) {
  $(id).onpointerdown = () => page.dragging.add(id);
  $(id).oninput = () => { $(`${id}-value`).textContent = `${number(10 ** $(id).value)} ${id === "dose" ? "e" : "s"}`; };
  $(id).onchange = () => {
    page.dragging.delete(id);
    const { dose_e, exposure_s } = page.state.microscope, value = 10 ** Number($(id).value);
    // At a constant current, a longer exposure has more electrons.
    say(id === "dose" ? { do: "expose", dose_e: value, exposure_s } : { do: "expose", dose_e: dose_e * (value / exposure_s), exposure_s: value });
  };
}

// --- calibration --------------------------------------------------------------------------------

$("start").onclick = () => say({ do: "calibrate", controller: $("controller").value, observations: Math.max(1, Math.round(Number($("observations").value))),
  stop: $("stop-rule").checked, paused: $("paused").checked });
document.querySelectorAll("[data-verb]").forEach((button) => { button.onclick = () => say({ do: "run", verb: button.dataset.verb }); });

function renderRun() {
  const run = page.state.run, active = runs();
  $("run-dot").hidden = !active;
  $("start").disabled = !drives() || active;
  for (const id of ["controller", "observations", "stop-rule", "paused"]) $(id).disabled = !drives() || active;
  const waits = active && run.waiting, asks = waits && (run.paused || run.waiting.kind === "keep");
  const going = active && !run.finishing;
  const allowed = { run: going && run.paused, pause: going && !run.paused && run.waiting?.kind !== "keep", step: waits && run?.paused && run.waiting.kind !== "keep", stop: going && run.waiting?.kind !== "keep", back: going, keep: waits && run?.waiting.kind === "keep" };
  document.querySelectorAll("[data-verb]").forEach((button) => { button.disabled = !drives() || !active || !allowed[button.dataset.verb]; });
  $("keep").hidden = !allowed.keep || !active;
  document.querySelector("[data-verb=stop]").title = allowed.keep ? "Every frame has been taken: keep the correction, or go back." : "End the run; an instrument returns to the last state with a good frame.";
  $("beginning").textContent = page.state.beginning;
  $("beginning").hidden = $("controller-about").hidden = active; // room for the run
  $("next").classList.toggle("waits", Boolean(asks));
  fill($("limits"), JSON.stringify(page.state.limits), () => page.state.limits.flatMap(([name, text]) => [element("dt", { textContent: name }), element("dd", { textContent: text })]));
  const [word, kind] = stateOf(run, active);
  $("run-state").textContent = word;
  $("run-state").className = `chip ${kind}`;
  const [strictly, strict] = (!active && run?.strictly) || [false, ""];
  $("run-strict").textContent = strict;
  $("run-strict").className = `chip ${strictly ? "good" : ""}`;
  $("next-title").textContent = nextTitle(run, active);
  $("run-progress").style.visibility = active && !run.waiting ? "visible" : "hidden"; // it keeps its place
  $("next-input").textContent = waits ? run.names.map((name, i) => `${name} ${signed(run.waiting.input_nm[i])} nm`).join("\n") : (!active && run?.left) || "";
  $("run-outcome").textContent = run && !active ? `${run.strict ? `${run.strictly[1]}: ${run.strict}. ` : ""}${run.outcome}${run.folder ? `; files in ${run.folder}` : ""}` : "";
  $("report").hidden = !run?.report;
  $("report").href = `report${location.search}`;
  const lines = run ? [...(run.audit ? run.audit.lines.map((text) => ({ text })) : run.log)].reverse() : [];
  fill($("log"), JSON.stringify(lines.slice(0, 3)) + lines.length, () => lines.map((line) => element("li", {}, ...(line.time ? [element("time", { textContent: line.time })] : []), minus(line.text))));
  $("audit-path").textContent = run?.audit ? `audit log: ${run.audit.path}` : "";
  $("posterior-empty").hidden = Boolean(run?.posterior);
  $("posterior-empty").textContent = !run ? "Choose a controller and press “Calibrate”. Each frame narrows the ellipses." : active ? (run.begun ? "The first frame…" : PREPARING) : run.outcome;
  $("error-legend").hidden = Boolean(run?.steps.length) && run.steps.every((step) => step.error_nm === null);
  $("tolerance-legend").hidden = !run?.posterior || !pairsOf(run.names.length).some(([i, j]) => toleranceSeen(run, i, j));
  $("truth-legend").hidden = !run?.steps.some((step) => step.truth_nm);
  renderNumbers(run);
  drawCharts();
}

function stateOf(run, active) {
  if (!run) return ["none", ""];
  if (active && !run.begun) return ["preparing", "busy"];
  if (active && run.waiting?.kind === "keep") return ["corrected", "busy"];
  if (active && run.finishing) return ["writing", "busy"];
  if (active && run.paused) return ["paused", "busy"];
  if (active) return [`frame ${run.steps.length} of ${run.observations}`, "busy"];
  if (run.status === "complete") return run.in_spec === null ? ["complete", "good"] : run.in_spec ? ["in spec", "good"] : ["not in spec", "bad"];
  return [run.status || "failed", "bad"];
}

function lastInSpec(run) {
  const last = run.steps[run.steps.length - 1];
  return Boolean(last?.in_spec);
}

const PREPARING = "Preparing the microscope and the controller: the first time takes up to half a minute…";
function nextTitle(run, active) {
  if (!active) return run?.left ? "Left after the correction (root of the sum of squares):" : "Nothing is waiting";
  if (run.finishing) return "Writing the report…";
  if (!run.begun) return PREPARING;
  if (!run.waiting) return run.exposing ? "A frame is being taken…" : "The controller is computing…";
  if (run.waiting.kind === "keep") return `Corrected${run.steps.length && run.steps[run.steps.length - 1].in_spec !== null ? (lastInSpec(run) ? ", in spec" : ", not in spec") : ""}. Keep it, or go back? Inputs in all:`;
  return `${run.waiting.kind === "correction" ? "The correction" : "The next input"}${run.paused ? " waits" : ""}, a change of:`;
}

function renderNumbers(run) {
  $("numbers-box").hidden = !run?.posterior;
  if (!run?.posterior) return;
  const last = run.steps[run.steps.length - 1], first = run.steps[0];
  const rows = run.names.map((name, i) => [`${name} ${ABOUT[name] || ""}`, `${signed(run.posterior.mean_nm[i])} ± ${last.std_nm[i].toFixed(2)}`, signed(run.cumulative_nm[i]), `±${run.tolerance_nm[i]}`]);
  if (last.error_nm !== null) rows.push(["error of the estimate, which only the twin knows", `${first.error_nm.toFixed(2)} at frame 1, ${last.error_nm.toFixed(2)} at frame ${last.observation}`, "", ""]);
  const cells = (tag, row) => element("tr", {}, ...row.map((text) => element(tag, { textContent: text })));
  fill($("numbers"), JSON.stringify(rows), () => [element("table", {}, element("thead", {}, cells("th", ["nm", "estimate of what the run began with", "inputs in all", "tolerance"])), element("tbody", {}, ...rows.map((row) => cells("td", row))))]);
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function prepare(canvas) {
  const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(box.width)), height = Math.max(1, Math.round(box.height));
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px system-ui, sans-serif";
  return { pen, width, height };
}

function drawCharts() {
  if ($("calibrate").hidden) return;
  const run = page.state?.run;
  fitPosterior(run);
  drawPosterior(prepare($("posterior")), run);
  drawCurve(prepare($("curve")), run);
}

function pairsOf(count) {
  if (count === 1) return [[0, 0]];
  if (count <= 3) return count === 2 ? [[0, 1]] : [[0, 1], [0, 2], [1, 2]];
  const pairs = [[0, 1]];
  for (let i = 1; i < count - 1; i += 2) pairs.push([i, i + 1]);
  return pairs;
}

const GAP = 46, UNDER = 34; // beside and under a pair: its axes
function fitPosterior(run) { // as high as its pairs, up to 55 % of the panel; the curve of errors takes the rest
  const canvas = $("posterior"), most = 0.55 * canvas.closest(".plots").clientHeight - 70;
  const pairs = run?.posterior ? pairsOf(run.names.length).length : 3, columns = Math.min(pairs, Math.max(1, Math.floor(canvas.clientWidth / 170)));
  canvas.style.height = `${Math.max(120, Math.min(most, Math.ceil(pairs / columns) * ((canvas.clientWidth - GAP * columns) / columns + UNDER) + 6))}px`;
}

function drawPosterior({ pen, width, height }, run) {
  if (!run?.posterior) return;
  const pairs = pairsOf(run.names.length), gap = GAP, columns = Math.min(pairs.length, Math.max(1, Math.floor(width / 170)));
  const rows = Math.ceil(pairs.length / columns), side = Math.min((width - gap * columns) / columns, (height - UNDER * rows) / rows);
  pairs.forEach(([i, j], k) => {
    const x = gap + (k % columns) * ((width - gap * columns) / columns + gap), y = 6 + Math.floor(k / columns) * (side + UNDER);
    drawPair(pen, x, y, side, run, i, j);
  });
}

function windowOf(run, i, j) { // half the side of a pair's plot and its centre, nm
  const { mean_nm: mean, cov_nm2: cov } = run.posterior;
  // The start box until the ellipse is small in it, then closer in steps of two, so that the eye can follow.
  const spread = 4 * Math.max(Math.sqrt(cov[i][i]), Math.sqrt(cov[j][j]), 0.5);
  let half = Math.max(run.start_nm[i], run.start_nm[j]) * 1.05, zoom = 1;
  while (half / zoom > 2 * spread) zoom *= 2;
  half /= zoom;
  return { half, centre: zoom === 1 ? [0, 0] : [mean[i], mean[j]] };
}

function toleranceSeen(run, i, j) { // whether a line of its box crosses the plot
  const { half, centre } = windowOf(run, i, j), { mean_nm: mean } = run.posterior;
  const off = [i, j].map((k, axis) => [mean[k] - centre[axis], run.tolerance_nm[k]]);
  const crosses = (axis) => off[axis].reduce((d, t) => Math.min(Math.abs(d - t), Math.abs(d + t))) < half;
  const meets = (axis) => Math.abs(off[axis][0]) - off[axis][1] < half;
  return (crosses(0) && meets(1)) || (crosses(1) && meets(0));
}

function drawPair(pen, left, top, side, run, i, j) {
  const { mean_nm: mean, cov_nm2: cov } = run.posterior, last = run.steps[run.steps.length - 1], { half, centre } = windowOf(run, i, j);
  const px = (v) => left + side / 2 + ((v - centre[0]) / half) * (side / 2), py = (v) => top + side / 2 - ((v - centre[1]) / half) * (side / 2);
  pen.save();
  pen.beginPath();
  pen.rect(left, top, side, side);
  pen.clip();
  pen.fillStyle = css("lift");
  pen.fillRect(left, top, side, side);
  pen.strokeStyle = css("limit");
  pen.setLineDash([2, 3]);
  pen.strokeRect(px(mean[i] - run.tolerance_nm[i]), py(mean[j] + run.tolerance_nm[j]), (run.tolerance_nm[i] / half) * side, (run.tolerance_nm[j] / half) * side);
  pen.setLineDash([]);
  const trail = run.steps.slice(-12);
  pen.strokeStyle = css("belief");
  pen.globalAlpha = 0.35;
  pen.beginPath();
  trail.forEach((step, k) => (k ? pen.lineTo(px(step.estimate_nm[i]), py(step.estimate_nm[j])) : pen.moveTo(px(step.estimate_nm[i]), py(step.estimate_nm[j]))));
  pen.stroke();
  pen.globalAlpha = 1;
  const [a, b, c] = [cov[i][i], cov[i][j], cov[j][j]], middle = (a + c) / 2, off = Math.hypot((a - c) / 2, b), r2 = 4.605; // chi2 of two at 90 %
  pen.beginPath();
  pen.ellipse(px(mean[i]), py(mean[j]), (Math.sqrt((middle + off) * r2) / half) * (side / 2), (Math.sqrt(Math.max(middle - off, 0) * r2) / half) * (side / 2), -0.5 * Math.atan2(2 * b, a - c), 0, 2 * Math.PI);
  pen.globalAlpha = 0.18;
  pen.fillStyle = css("belief");
  pen.fill();
  pen.globalAlpha = 1;
  pen.lineWidth = 2;
  pen.stroke();
  cross(pen, px(mean[i]), py(mean[j]), 5, css("ink"), true);
  if (last?.truth_nm) cross(pen, px(last.truth_nm[i]), py(last.truth_nm[j]), 8, css("truth"), false);
  pen.restore();
  pen.fillStyle = css("soft");
  pen.textAlign = "center";
  pen.fillText(`${run.names[i]} at the start (nm)`, left + side / 2, top + side + 26);
  pen.fillText((centre[0] - half).toFixed(0), left + 8, top + side + 13);
  pen.fillText((centre[0] + half).toFixed(0), left + side - 8, top + side + 13);
  pen.save();
  pen.translate(left - 30, top + side / 2);
  pen.rotate(-Math.PI / 2);
  pen.fillText(`${run.names[j]} at the start (nm)`, 0, 0);
  pen.restore();
  pen.textAlign = "right";
  pen.fillText((centre[1] - half).toFixed(0), left - 5, top + side);
  pen.fillText((centre[1] + half).toFixed(0), left - 5, top + 10);
}

function cross(pen, x, y, size, colour, diagonal) {
  const d = diagonal ? size : 0, s = diagonal ? 0 : size;
  pen.strokeStyle = colour;
  pen.lineWidth = 2;
  pen.beginPath();
  pen.moveTo(x - d - s, y - d);
  pen.lineTo(x + d + s, y + d);
  pen.moveTo(x - d, y + d + s);
  pen.lineTo(x + d, y - d - s);
  pen.stroke();
}

function drawCurve({ pen, width, height }, run) {
  const left = 46, right = width - 12, top = 8, bottom = height - 34;
  const steps = run?.steps || [], forecast = steps.map((step) => Math.hypot(...step.std_nm)), errors = steps.map((step) => step.error_nm);
  const tolerance = run ? Math.min(...run.tolerance_nm) : 10;
  const values = [...forecast, ...errors.filter((v) => v !== null), tolerance].map((v) => Math.max(v, 0.01));
  const low = Math.floor(Math.log10(Math.min(...values, 1))), high = Math.ceil(Math.log10(Math.max(...values, 100)));
  const last = Math.max(run?.observations || 10, 2), first = steps[0]?.observation || 1;
  const px = (k) => left + ((k - Math.min(first, 1)) / (last - Math.min(first, 1))) * (right - left), py = (v) => bottom - ((Math.log10(Math.max(v, 10 ** low)) - low) / (high - low)) * (bottom - top);
  pen.textAlign = "right";
  for (let decade = low; decade <= high; decade++) {
    pen.strokeStyle = css("line");
    line(pen, [[left, py(10 ** decade)], [right, py(10 ** decade)]]);
    pen.fillStyle = css("soft");
    pen.fillText(`${Number((10 ** decade).toPrecision(2))}`, left - 6, py(10 ** decade) + 4);
  }
  pen.textAlign = "center";
  const every = Math.max(1, Math.ceil(last / 12));
  for (let k = 1; k <= last; k += every) pen.fillText(k, px(k), bottom + 15);
  pen.fillText("observations", (left + right) / 2, bottom + 30);
  pen.save();
  pen.translate(12, (top + bottom) / 2);
  pen.rotate(-Math.PI / 2);
  pen.fillText("nm", 0, 0);
  pen.restore();
  pen.lineWidth = 1.5;
  pen.strokeStyle = css("limit");
  line(pen, [[left, py(tolerance)], [right, py(tolerance)]], [2, 4]);
  pen.lineWidth = 2;
  pen.strokeStyle = css("belief");
  line(pen, steps.map((step, k) => [px(step.observation), py(forecast[k])]), [6, 4]);
  pen.strokeStyle = pen.fillStyle = css("truth");
  const known = steps.filter((step) => step.error_nm !== null).map((step) => [px(step.observation), py(step.error_nm)]);
  line(pen, known);
  for (const [x, y] of known) { pen.beginPath(); pen.arc(x, y, 3.5, 0, 7); pen.fill(); }
}

function line(pen, points, dash = []) {
  pen.setLineDash(dash);
  pen.beginPath();
  points.forEach(([x, y], k) => (k ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
  pen.setLineDash([]);
}

// --- scan ---------------------------------------------------------------------------------------

$("scan-start").onclick = () => say({ do: "scan", scenario: $("scan-of").value, beam: $("beam-line").hidden ? "scenario" : $("beam").value, agents: [...$("agents").querySelectorAll("input:checked")].map((box) => box.value) });
$("scan-stop").onclick = () => say({ do: "scan_stop" });

function renderScan() {
  const scan = page.state.scan, active = Boolean(scan?.running);
  $("scan-dot").hidden = !active;
  $("scan-start").disabled = $("scan-of").disabled = $("beam").disabled = !drives() || active;
  $("scan-stop").disabled = !drives() || !active;
  if (!scan) return;
  $("scan-progress").value = scan.total ? scan.positions / scan.total : 0;
  if (active && !scan.total) $("scan-progress").removeAttribute("value");
  $("scan-state").textContent = scan.problem || scan.outcome || (scan.total ? `${scan.positions} of ${scan.total} positions, ${scan.rate_per_s.toFixed(0)} per second` : "Preparing the specimen…");
  $("scan-beam").textContent = minus(`Beam: ${scan.beam}.`);
  const box = $("scan-agents");
  fill(box, `${scan.what}:${scan.agents.map((agent) => `${agent.label}${agent.knobs.length}`).join()}`, () => scan.agents.map(agentCard));
  for (const agent of scan.agents) {
    const card = box.querySelector(`[data-agent="${agent.label}"]`);
    card.querySelector(".problem").textContent = agent.problem;
    card.querySelector(".note").textContent = agent.note;
    for (const knob of agent.knobs) setAgentKnob(card, knob);
  }
  drawRings();
}

const OTHER_PICTURES = {
  spread: { word: "error map", about: "standard deviation of each pixel", table: MAGMA },
  residual: { word: "residuals", about: "where the model fits: noise without a pattern", table: SIGNED },
};
const VERDICT = "A test whether the data fit the model behind this image. p: how often noise alone would leave residuals as large as these. Level of the test: probability of rejecting the right model; with a p below it the model does not fit.";
const knobText = (knob, at) => (at === null ? knob.none || "none" : `${Number(Number(at).toFixed(2))} ${knob.unit}`);
function agentCard(agent) {
  const card = element("figure", { className: "agent" });
  card.dataset.agent = agent.label;
  const flips = Object.entries(OTHER_PICTURES).map(([name, { word, about }]) => {
    const flip = element("button", { textContent: word, title: about, hidden: true });
    flip.dataset.picture = name;
    flip.setAttribute("aria-pressed", "false");
    flip.onclick = () => {
      const chosen = flip.getAttribute("aria-pressed") === "false";
      for (const one of flips) one.setAttribute("aria-pressed", chosen && one === flip);
      paintAgent(card);
    };
    return flip;
  });
  card.append(element("canvas", { width: 64, height: 64 }), element("figcaption", {}, element("b", { textContent: agent.label }), element("span", { className: "range", title: "black to white: 0.5 to 99.5 % of the pixels" }), element("span", { className: "flips" }, ...flips)),
    element("div", { className: "body" }, element("p", { className: "hint", textContent: agent.about }), ...agent.knobs.map((knob) => agentKnob(agent.label, knob)), // what comes and goes stands below the knobs
      element("div", { className: "told" }, element("p", { className: "verdict", title: VERDICT }), element("p", { className: "hint note" }), element("p", { className: "hint problem" }), element("p", { className: "hint notes" }))));
  if (page.views.scan) queueMicrotask(() => showScan(page.views.scan.header, page.views.scan.pictures));
  return card;
}

function agentKnob(label, knob) {
  const range = `${knob.low} to ${knob.high} ${knob.unit}`;
  const row = element("label", { className: "knob", title: knob.choices.length ? knob.about : `${knob.about} ${range}. Arrow keys: steps of ${knob.step} ${knob.unit}.` }), show = element("output");
  row.dataset.knob = knob.name;
  if (knob.choices.length) {
    const select = element("select", {}, ...knob.choices.map((name) => option(name)));
    select.onchange = () => tune(label, knob, select.value);
    row.append(element("span", { textContent: knob.label }), select, show);
    return row;
  }
  const slider = element("input", { type: "range", min: knob.low, max: knob.high, step: knob.step });
  if (knob.none && !knob.none_at) { // no end of the slider stands for it
    row.title += ` Double-click: ${knob.none}.`;
    row.ondblclick = () => { slider.value = 0; show.textContent = knob.none; tune(label, knob, null); };
  }
  slider.onpointerdown = () => page.dragging.add(`${label}.${knob.name}`);
  slider.onpointerup = () => page.dragging.delete(`${label}.${knob.name}`);
  slider.oninput = () => {
    const at = Number(slider.value), none = (knob.none_at === "high" && at >= knob.high - 1e-9) || (knob.none_at === "low" && at <= knob.low + 1e-9);
    show.textContent = knobText(knob, none ? null : at);
    tune(label, knob, none ? null : at);
  };
  row.append(element("span", { textContent: knob.label }, element("small", { textContent: range })), slider, show);
  return row;
}

function setAgentKnob(card, knob) {
  const row = card.querySelector(`[data-knob="${knob.name}"]`), control = row.querySelector("input, select");
  control.disabled = !drives();
  if (page.dragging.has(`${card.dataset.agent}.${knob.name}`) || document.activeElement === control) return;
  const none = knob.value === null;
  control.value = none ? (knob.none_at === "high" ? knob.high : knob.none_at === "low" ? knob.low : 0) : knob.value;
  if (!knob.choices.length) row.querySelector("output").textContent = knobText(knob, none ? null : knob.value);
}

const TUNE_MS = 60; // at most so often: a changed agent may have to take in the whole scan again
const due = new Map();
function tune(label, knob, value) {
  const waits = due.size > 0;
  due.set(`${label} ${knob.name}`, [label, knob, value]);
  if (waits) return;
  setTimeout(() => {
    const changes = [...due.values()];
    due.clear();
    for (const change of changes) tuneNow(...change);
  }, TUNE_MS);
}

function tuneNow(label, knob, value) {
  const [name, key] = knob.name.split(".");
  if (!key) { say({ do: "configure", agent: label, changes: { [name]: value } }); return; }
  const agent = page.state.scan.agents.find((one) => one.label === label);
  const all = Object.fromEntries(agent.knobs.filter((one) => one.name.startsWith(`${name}.`)).map((one) => [one.name.split(".")[1], one.value]));
  say({ do: "configure", agent: label, changes: { [name]: { ...all, [key]: value } } });
}

function showScan(header, pictures) {
  page.views.scan = { header, pictures };
  if (pictures.pattern) { page.pattern = pictures.pattern; drawRings(); }
  document.querySelectorAll(".agent").forEach((card) => {
    paintAgent(card);
    const told = header.agents[card.dataset.agent];
    if (!told) return;
    const verdict = card.querySelector(".verdict");
    verdict.textContent = told.verdict ? told.verdict.words : "";
    verdict.className = `verdict ${told.verdict ? (told.verdict.fits ? "good" : "bad") : ""}`;
    card.querySelector(".notes").textContent = told.notes.join(" · ");
  });
}

function paintAgent(card) {
  const { pictures } = page.views.scan || {};
  if (!pictures) return;
  const label = card.dataset.agent;
  let name = "image";
  for (const flip of card.querySelectorAll("figcaption button")) {
    flip.hidden = !pictures[`${label}/${flip.dataset.picture}`];
    if (!flip.hidden && flip.getAttribute("aria-pressed") === "true") name = flip.dataset.picture;
  }
  const picture = pictures[`${label}/${name}`];
  if (!picture) return;
  card.querySelector("canvas").style.aspectRatio = `${picture.width} / ${picture.height}`;
  paint(card.querySelector("canvas"), picture, OTHER_PICTURES[name]?.table || GREY);
  card.querySelector(".range").textContent = `${number3(picture.low)} to ${number3(picture.high)} ${picture.unit}`;
}
const number3 = (value) => `${Number(value.toPrecision(3))}`;

function drawRings() {
  const picture = page.pattern;
  if (!picture) return;
  const canvas = $("pattern"), small = document.createElement("canvas"), side = 512;
  paint(small, picture, MAGMA);
  canvas.width = canvas.height = side;
  const pen = canvas.getContext("2d"), [height, width] = picture.camera, scale = side / Math.max(width, height);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, width * scale, height * scale);
  const x = (picture.centre_px[1] + 0.5) * scale, y = (picture.centre_px[0] + 0.5) * scale;
  cross(pen, x, y, 10, "#57d8ff", false);
  if (!picture.pixel_mrad) return;
  const ring = (mrad, colour, dash) => {
    for (const [stroke, size] of [["#000000", 7], [colour, 3.5]]) { // a dark rim, so that it shows on the bright disc, too
      pen.setLineDash(dash);
      pen.strokeStyle = stroke;
      pen.lineWidth = size;
      pen.beginPath();
      pen.arc(x, y, (mrad / picture.pixel_mrad) * scale, 0, 7);
      pen.stroke();
    }
    pen.setLineDash([]);
  };
  if (picture.convergence_mrad) ring(picture.convergence_mrad, "#57d8ff", [12, 10]);
  for (const agent of page.state?.scan?.agents || []) for (const knob of agent.knobs) if (knob.unit === "mrad" && knob.value && knob.value < knob.high) ring(knob.value, "#ffffff", []);
  $("pattern-about").textContent = picture.convergence_mrad ? `dashed: aperture, ${picture.convergence_mrad} mrad; white: the knobs’ radii` : "centre and rings";
}

// --- what lies below the edge -------------------------------------------------------------------

const SCROLLERS = "aside, .agents, .left, #log, #compare";
let marking = 0;
function markMore() { // not with every state: it has the page laid out
  marking = marking || setTimeout(markNow, 200);
}
function markNow() {
  marking = 0;
  for (const box of document.querySelectorAll(SCROLLERS)) box.classList.toggle("more", box.scrollHeight - box.clientHeight - box.scrollTop > 8);
}
document.addEventListener("scroll", markMore, { capture: true, passive: true });
window.addEventListener("resize", markMore);

// --- panels -------------------------------------------------------------------------------------

const tabs = [...document.querySelectorAll("[role=tab]")];
function choose(tab, focus = false) {
  for (const one of tabs) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", chosen);
    one.tabIndex = chosen ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (focus) tab.focus();
  history.replaceState(null, "", `${location.pathname}${location.search}#/${tab.getAttribute("aria-controls")}`);
  drawCharts();
  markMore();
}
tabs.forEach((tab, k) => {
  tab.onclick = () => choose(tab);
  tab.onkeydown = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by) choose(tabs[(k + by + tabs.length) % tabs.length], true);
  };
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if ("1234".includes(event.key)) choose(tabs[Number(event.key) - 1], true);
});
window.addEventListener("resize", drawCharts);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
choose(tabs.find((tab) => `#/${tab.getAttribute("aria-controls")}` === location.hash) || tabs[0]);
connect();

// The notebook's widget: the twin's knobs and pictures; the kernel draws them. One picture is on its way at a time.

import { CYCLE, GREY, MAGMA, element, knobRow, paint, turnedByHand, unpack } from "./view.js";

const REST_MS = 200; // without a turn of a knob for so long, a full frame replaces the draft

function picture(title, size) {
  const canvas = element("canvas", { width: size, height: size });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", title);
  return { canvas, about: element("span"), box: element("figure") };
}

function render({ model, el }) {
  const parts = { ronchigram: picture("Ronchigram", 128), spectrum: picture("Spectrum", 64), probe: picture("Probe", 128), phase: picture("Phase plate", 128) };
  for (const part of Object.values(parts)) part.box.append(part.canvas, element("figcaption", {}, element("b", { textContent: part.canvas.getAttribute("aria-label") }), part.about));
  const strehl = element("b", { textContent: "–" }), truth = element("button", { textContent: "Show the truth" }), knobs = element("div", { className: "knobs" });
  const side = element("div", { className: "side" }, knobs, element("div", { className: "readout" }, strehl, element("span", { textContent: "Strehl ratio" }), truth));
  el.classList.add("stemtwin-scope");
  el.append(parts.ronchigram.box, element("div", { className: "small" }, parts.spectrum.box, parts.probe.box, parts.phase.box), side);

  const dragging = new Set(), values = {};
  let waiting = {}, busy = false, rest = 0, known = false;
  const rowOf = (name) => knobs.querySelector(`[data-knob="${name}"]`);
  const say = (message) => { busy = true; model.send(message); };
  function turn(changes) {
    for (const [name, value] of Object.entries(changes)) {
      const { limit } = model.get("coefficients").find((knob) => knob.name === name);
      values[name] = waiting[name] = Math.max(-limit, Math.min(limit, value));
    }
    clearTimeout(rest);
    if (!busy) send();
  }
  function send() {
    const changes = waiting;
    waiting = {};
    say({ do: "knobs", values: changes });
  }
  for (const knob of model.get("coefficients")) {
    const row = knobRow(knob, turn, dragging);
    row.dataset.knob = knob.name;
    values[knob.name] = 0;
    knobs.append(row);
  }
  parts.ronchigram.canvas.tabIndex = 0;
  turnedByHand(parts.ronchigram.canvas, (name) => values[name], turn);
  truth.onclick = () => say({ do: "truth", show: !known });

  function show(message, buffers) {
    busy = false;
    if (message.kind === "view") {
      const [view] = buffers, { header, pictures } = unpack(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
      known = Boolean(pictures.phase);
      paint(parts.ronchigram.canvas, pictures.ronchigram, GREY);
      paint(parts.spectrum.canvas, pictures.spectrum, MAGMA);
      parts.ronchigram.about.textContent = header.draft ? "draft" : "full";
      for (const [name, table] of [["probe", MAGMA], ["phase", CYCLE]]) {
        parts[name].box.classList.toggle("hidden", !known);
        if (known) paint(parts[name].canvas, pictures[name], table);
      }
      strehl.textContent = known ? header.strehl.toFixed(2) : "–";
      truth.textContent = known ? "Hide the truth" : "Show the truth";
      if (header.draft) rest = setTimeout(() => say({ do: "seen", kind: "view", number: header.number }), REST_MS);
      if (!Object.keys(waiting).length) for (const [name, value] of Object.entries(header.knobs)) setRow(name, value);
    }
    if (Object.keys(waiting).length) { clearTimeout(rest); send(); }
  }
  function setRow(name, value) {
    values[name] = value;
    const [slider, box] = rowOf(name).querySelectorAll("input");
    if (!dragging.has(name)) slider.value = value;
    box.value = value.toFixed(1);
  }

  model.on("msg:custom", show);
  say({ do: "seen", kind: "view", number: 0 });
  return () => { clearTimeout(rest); model.off("msg:custom", show); };
}

export default { render };

// Pictures and knobs of a microscope: for the live page, the notebook's widget and the page to play with.

// --- pictures -----------------------------------------------------------------------------------

export function ramp(stops) {
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (stops.length - 1), k = Math.min(Math.floor(at), stops.length - 2), f = at - k;
    const [r, g, b] = [0, 1, 2].map((c) => Math.round(stops[k][c] * (1 - f) + stops[k + 1][c] * f));
    table[i] = (255 << 24) | (b << 16) | (g << 8) | r;
  }
  return table;
}
export const GREY = ramp([[0, 0, 0], [255, 255, 255]]);
export const MAGMA = ramp([[0, 0, 4], [40, 17, 89], [114, 31, 129], [183, 55, 121], [241, 96, 93], [254, 159, 109], [252, 253, 191]]);
// Zero is light, negative blue, positive red; readable without colour vision by what is dark.
export const SIGNED = ramp([[24, 62, 130], [96, 142, 200], [238, 236, 232], [214, 120, 84], [134, 34, 26]]);
// Cyclic and readable without colour vision: light at 0, dark at pi, blue on one way and red on the other.
export const CYCLE = ramp([[38, 20, 60], [94, 60, 153], [110, 150, 196], [226, 223, 226], [200, 140, 110], [130, 44, 78], [38, 20, 60]]);
CYCLE[254] = (255 << 24) | (0x57 << 16) | (0xd8 << 8) | 0xff;
CYCLE[255] = (255 << 24) | (0x1a << 16) | (0x15 << 8) | 0x10;

export function paint(canvas, picture, table) {
  const { width, height, data } = picture;
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = table[data[i]];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let offset = 4 + length;
  const pictures = {};
  for (const one of header.pictures) {
    const size = one.width * one.height;
    pictures[one.name] = { ...one, data: new Uint8Array(buffer, offset, size) };
    offset += size;
  }
  return { header, pictures };
}

// --- words --------------------------------------------------------------------------------------

export const ABOUT = { C10: "defocus", C12a: "astigmatism 0°", C12b: "astigmatism 45°", C21a: "coma x", C21b: "coma y",
  C23a: "3-fold astig. a", C23b: "3-fold astig. b", C30: "spherical" };
export const signed = (value, digits = 2) => (value === null || value === undefined ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`);
export const number = (value) => (value >= 1e4 ? value.toExponential(1).replace("e+", "e") : `${Number(value.toPrecision(3))}`);
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
export function option(name, about = "") { return element("option", { value: name, textContent: name, title: about }); }

// --- knobs --------------------------------------------------------------------------------------

// A slider and a number for one coefficient. `turn` gets { name: value }; `waits` says whether only a slider that was let
// go counts, as for an instrument; `dragging` holds the names of the sliders that are held.
export function knobRow(knob, turn, dragging, waits = () => false) {
  const step = knob.step || 0.1, about = ABOUT[knob.name] || "";
  const row = element("label", { className: "knob", title: `${knob.name}${about && `, ${about}`}: −${knob.limit} to +${knob.limit} nm. Arrow keys on the slider: ${step} nm; Page Up and Page Down: larger steps; or type a number.` });
  const slider = element("input", { type: "range", min: -knob.limit, max: knob.limit, step, id: `knob-${knob.name}` });
  const box = element("input", { type: "number", min: -knob.limit, max: knob.limit, step: 5 * step, id: `value-${knob.name}` });
  slider.setAttribute("aria-label", `${knob.name}, ${about}, nm`);
  box.setAttribute("aria-label", `${knob.name} in nm`);
  slider.onpointerdown = () => dragging.add(knob.name);
  slider.onpointerup = slider.onpointercancel = () => dragging.delete(knob.name);
  slider.oninput = () => { box.value = Number(slider.value).toFixed(1); if (!waits()) turn({ [knob.name]: Number(slider.value) }); };
  slider.onchange = () => { dragging.delete(knob.name); turn({ [knob.name]: Number(slider.value) }); };
  box.onchange = () => { slider.value = box.value; turn({ [knob.name]: Number(box.value) }); };
  row.append(element("span", { textContent: knob.name }, element("small", { textContent: `${about} ±${knob.limit} nm`.trim() })), slider, box);
  return row;
}

export const BY_HAND = "Wheel up: defocus C10 +1 nm (with Shift 0.2 nm). Drag right: C12a up, drag up: C12b up; back to where the drag began is the value it began with.";
const NM_PER_PIXEL = 0.15;

// Wheel and arrow keys turn the defocus, dragging the astigmatism. `valueOf` tells the value of a name, undefined for one
// that cannot be turned; `turn` gets { name: value }. A drag counts from where it began, so that it can be taken back.
export function turnedByHand(canvas, valueOf, turn) {
  const turnBy = (name, change) => { const value = valueOf(name); if (value !== undefined) turn({ [name]: value + change }); };
  canvas.title = BY_HAND;
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    turnBy("C10", -Math.sign(event.deltaY || event.deltaX) * (event.shiftKey ? 0.2 : 1)); // with Shift, some wheels turn sideways
  }, { passive: false });
  canvas.onkeydown = (event) => {
    const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (by) { event.preventDefault(); turnBy("C10", by * (event.shiftKey ? 0.2 : 1)); }
  };
  let began = null;
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    began = { x: event.clientX, y: event.clientY, C12a: valueOf("C12a"), C12b: valueOf("C12b"), moved: false };
  };
  canvas.onpointerup = canvas.onpointercancel = () => { began = null; };
  canvas.onpointermove = (event) => {
    if (!began || !canvas.hasPointerCapture(event.pointerId)) return;
    const changes = { C12a: (event.clientX - began.x) * NM_PER_PIXEL, C12b: (began.y - event.clientY) * NM_PER_PIXEL };
    began.moved = began.moved || Boolean(changes.C12a || changes.C12b);
    if (!began.moved) return;
    const known = Object.entries(changes).filter(([name]) => began[name] !== undefined);
    if (known.length) turn(Object.fromEntries(known.map(([name, change]) => [name, began[name] + change])));
  };
}

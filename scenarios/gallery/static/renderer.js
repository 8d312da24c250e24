// A small renderer of Ronchigrams: |F[T(r) F^-1[A exp(-i chi)]]|^2 with one phase screen, in plain JavaScript.
// Conventions: docs/conventions.md. Planes are flat arrays, rows along y; those of a transform have zero frequency first.

// --- transforms ---------------------------------------------------------------------------------

// Transforms of squares whose side is a power of two, in place.
export class Fourier {
  constructor(side) {
    this.side = side;
    this.cos = new Float64Array(side / 2);
    this.sin = new Float64Array(side / 2);
    for (let k = 0; k < side / 2; k++) {
      this.cos[k] = Math.cos((2 * Math.PI * k) / side);
      this.sin[k] = Math.sin((2 * Math.PI * k) / side);
    }
    this.reversed = new Uint16Array(side);
    for (let i = 0, bits = Math.log2(side); i < side; i++) {
      for (let b = 0; b < bits; b++) this.reversed[i] |= ((i >> b) & 1) << (bits - 1 - b);
    }
    this.re = new Float64Array(side);
    this.im = new Float64Array(side);
  }

  // Forward with sign -1, inverse with +1 and 1 / side^2.
  plane(re, im, sign) {
    const { side } = this;
    for (let row = 0; row < side; row++) this.line(re, im, row * side, 1, sign, 1);
    const scale = sign > 0 ? 1 / (side * side) : 1;
    for (let column = 0; column < side; column++) this.line(re, im, column, side, sign, scale);
  }

  line(planeRe, planeIm, start, step, sign, scale) {
    const { side, re, im, cos, sin, reversed } = this;
    for (let i = 0; i < side; i++) {
      const from = start + reversed[i] * step;
      re[i] = planeRe[from];
      im[i] = planeIm[from];
    }
    for (let half = 1; half < side; half *= 2) {
      const stride = side / (2 * half);
      for (let k = 0; k < half; k++) {
        const c = cos[k * stride], s = sign * sin[k * stride];
        for (let i = k; i < side; i += 2 * half) {
          const j = i + half, r = re[j] * c - im[j] * s, m = re[j] * s + im[j] * c;
          re[j] = re[i] - r;
          im[j] = im[i] - m;
          re[i] += r;
          im[i] += m;
        }
      }
    }
    for (let i = 0, to = start; i < side; i++, to += step) {
      planeRe[to] = re[i] * scale;
      planeIm[to] = im[i] * scale;
    }
  }
}

// --- random numbers -----------------------------------------------------------------------------

// Uniform numbers from 0 to 1 of a seed (mulberry32).
export function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export function normal(random) {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

// A number of electrons with this expectation; from 30 on by its normal approximation.
function poisson(expected, random) {
  if (expected > 30) return Math.max(0, Math.round(expected + Math.sqrt(expected) * normal(random)));
  const least = Math.exp(-expected);
  let count = 0;
  for (let product = random(); product > least; product *= random()) count++;
  return count;
}

// --- aberrations --------------------------------------------------------------------------------

// Krivanek's names: order n, multiplicity m, and a (cosine) or b (sine).
export function term(name) {
  const [, n, m, part] = /^C(\d)(\d)([ab]?)$/.exec(name);
  return { n: Number(n), m: Number(m), part };
}

// Phase per nm of a coefficient at an angle in rad.
export function phasePerNm({ n, m, part }, x, y, wavelength) {
  const theta = Math.hypot(x, y), phi = Math.atan2(y, x);
  const turn = part === "b" ? Math.sin(m * phi) : Math.cos(m * phi);
  return (((2 * Math.PI) / wavelength) * theta ** (n + 1) * turn) / (n + 1);
}

// --- the microscope -----------------------------------------------------------------------------

// Optics: grid, sampling_nm, wavelength_nm, convergence_mrad, film { step_per_nm, phase_nm }. Names: the coefficients, nm.
export class Renderer {
  constructor(optics, names) {
    Object.assign(this, { optics, names });
    const { grid, sampling_nm, wavelength_nm, convergence_mrad } = optics;
    this.fourier = new Fourier(grid);
    this.pixel_mrad = (1e3 * wavelength_nm) / (grid * sampling_nm);
    this.side = 2 * Math.ceil((1.12 * convergence_mrad) / this.pixel_mrad); // of a frame
    this.re = new Float32Array(grid * grid);
    this.im = new Float32Array(grid * grid);
    const places = [], x = [], y = [];
    for (let row = 0; row < grid; row++) for (let column = 0; column < grid; column++) {
      const fx = ((column + grid / 2) % grid) - grid / 2, fy = ((row + grid / 2) % grid) - grid / 2;
      if (Math.hypot(fx, fy) * this.pixel_mrad > convergence_mrad) continue;
      places.push(row * grid + column);
      x.push(fx * this.pixel_mrad * 1e-3);
      y.push(fy * this.pixel_mrad * 1e-3);
    }
    Object.assign(this, { places: Uint32Array.from(places), x: Float64Array.from(x), y: Float64Array.from(y) });
    this.basis = names.map((name) => Float64Array.from(x, (_, k) => phasePerNm(term(name), x[k], y[k], wavelength_nm)));
    this.rays = this.raysOver();
    this.chi = new Float64Array(places.length);
  }

  // Draw a region of the film: noise with the spectrum of the film's projected phase.
  takeFilm(seed) {
    const { grid, sampling_nm, film } = this.optics, random = uniform(seed), size = grid * grid;
    const re = Float32Array.from({ length: size }, () => normal(random)), im = new Float32Array(size);
    this.fourier.plane(re, im, -1);
    for (let row = 0; row < grid; row++) for (let column = 0; column < grid; column++) {
      const fx = ((column + grid / 2) % grid) - grid / 2, fy = ((row + grid / 2) % grid) - grid / 2;
      const at = Math.hypot(fx, fy) / (grid * sampling_nm) / film.step_per_nm, k = Math.floor(at), i = row * grid + column;
      const amplitude = i ? (film.phase_nm[k] * (k + 1 - at) + film.phase_nm[k + 1] * (at - k)) / sampling_nm : 0;
      re[i] *= amplitude;
      im[i] *= amplitude;
    }
    this.fourier.plane(re, im, 1);
    this.phase = re;
    this.cos = re.map(Math.cos);
    this.sin = re.map(Math.sin);
  }

  phaseOver(aberrations) {
    const { chi, basis } = this;
    chi.fill(0);
    this.names.forEach((name, k) => {
      const value = aberrations[name] || 0, of = basis[k];
      if (value) for (let i = 0; i < chi.length; i++) chi[i] += value * of[i];
    });
    return chi;
  }

  // The expected frame, fractions of the beam, (side, side) with zero angle at side / 2; and the probe, (pixels, pixels).
  expose(aberrations, pixels = 96) {
    const { re, im, places, side, fourier } = this, { grid } = this.optics, chi = this.phaseOver(aberrations);
    re.fill(0);
    im.fill(0);
    const amplitude = 1 / Math.sqrt(places.length);
    for (let k = 0; k < places.length; k++) {
      re[places[k]] = amplitude * Math.cos(chi[k]);
      im[places[k]] = -amplitude * Math.sin(chi[k]);
    }
    fourier.plane(re, im, 1);
    const probe = this.middle(pixels, (i) => re[i] * re[i] + im[i] * im[i]);
    for (let i = 0; i < grid * grid; i++) {
      const r = re[i], m = im[i];
      re[i] = r * this.cos[i] - m * this.sin[i];
      im[i] = r * this.sin[i] + m * this.cos[i];
    }
    fourier.plane(re, im, -1);
    return { frame: this.middle(side, (i) => re[i] * re[i] + im[i] * im[i]), probe };
  }

  // The middle of a plane whose zero comes first.
  middle(side, valueAt) {
    const { grid } = this.optics, made = new Float32Array(side * side);
    for (let row = 0; row < side; row++) for (let column = 0; column < side; column++) {
      const from = ((row - side / 2 + grid) % grid) * grid + ((column - side / 2 + grid) % grid);
      made[row * side + column] = valueAt(from);
    }
    return made;
  }

  // Logarithm of the power spectrum of a frame in a round window, (pixels, pixels), smoothed for the eye.
  spectrum(frame, pixels = 80) {
    const { side, fourier } = this, { grid, convergence_mrad } = this.optics, radius = convergence_mrad / this.pixel_mrad;
    const re = new Float32Array(grid * grid), im = new Float32Array(grid * grid), window = new Float32Array(side * side);
    let sum = 0, weights = 0;
    for (let i = 0; i < frame.length; i++) {
      const at = Math.hypot((i % side) - side / 2, Math.floor(i / side) - side / 2) / radius;
      window[i] = at < 1 ? Math.cos((Math.PI * at) / 2) ** 2 : 0;
      sum += window[i] * frame[i];
      weights += window[i];
    }
    const mean = sum / weights || 1;
    for (let i = 0; i < frame.length; i++) re[Math.floor(i / side) * grid + (i % side)] = window[i] * (frame[i] / mean - 1);
    fourier.plane(re, im, -1);
    const power = this.middle(pixels + 2, (i) => re[i] * re[i] + im[i] * im[i]);
    const made = new Float32Array(pixels * pixels);
    for (let row = 0; row < pixels; row++) for (let column = 0; column < pixels; column++) {
      let total = 0;
      for (let r = 0; r < 3; r++) for (let c = 0; c < 3; c++) total += power[(row + r) * (pixels + 2) + column + c];
      made[row * pixels + column] = Math.log10(total / 9 + 1e-9);
    }
    return made;
  }

  // |<exp(-i chi)>|^2 over the aperture, without the tilt that displaces the probe.
  strehl(aberrations) {
    const chi = this.phaseOver(aberrations), { x, y } = this;
    let xx = 0, tx = 0, ty = 0;
    for (let k = 0; k < chi.length; k++) { xx += x[k] * x[k]; tx += x[k] * chi[k]; ty += y[k] * chi[k]; }
    let re = 0, im = 0;
    for (let k = 0; k < chi.length; k++) {
      const phase = chi[k] - (tx * x[k] + ty * y[k]) / xx;
      re += Math.cos(phase);
      im += Math.sin(phase);
    }
    return (re * re + im * im) / chi.length ** 2;
  }

  // chi over the aperture modulo 2 pi as 0 to 253; 254 on the contour of pi / 4, 255 outside.
  phasePlate(aberrations, pixels = 128) {
    if (this.plate?.pixels !== pixels) this.plate = this.plateOf(pixels);
    const { inside, basis } = this.plate, chi = new Float64Array(pixels * pixels), data = new Uint8Array(chi.length);
    this.names.forEach((name, k) => {
      const value = aberrations[name] || 0, of = basis[k];
      if (value) for (let i = 0; i < chi.length; i++) chi[i] += value * of[i];
    });
    const steep = (i) => i >= 0 && i < chi.length && Math.abs(chi[i]) > Math.PI / 4;
    for (let i = 0; i < chi.length; i++) {
      const turns = chi[i] / (2 * Math.PI) + 0.5;
      data[i] = !inside[i] ? 255
        : !steep(i) && (steep(i + 1) || steep(i - 1) || steep(i + pixels) || steep(i - pixels)) ? 254
          : Math.floor((turns - Math.floor(turns)) * (254 - 1e-6));
    }
    return { width: pixels, height: pixels, data };
  }

  plateOf(pixels) {
    const { wavelength_nm, convergence_mrad } = this.optics, reach = 1.04e-3 * convergence_mrad;
    const x = Float64Array.from({ length: pixels * pixels }, (_, i) => ((2 * (i % pixels)) / (pixels - 1) - 1) * reach);
    const y = Float64Array.from(x, (_, i) => ((2 * Math.floor(i / pixels)) / (pixels - 1) - 1) * reach);
    const basis = this.names.map((name) => Float64Array.from(x, (_, i) => phasePerNm(term(name), x[i], y[i], wavelength_nm)));
    return { pixels, basis, inside: x.map((_, i) => Math.hypot(x[i], y[i]) <= 1e-3 * convergence_mrad) };
  }

  raysOver() {
    const { wavelength_nm, convergence_mrad } = this.optics, step = 1e-7 * convergence_mrad, rays = [];
    for (let ring = 1; ring <= 4; ring++) for (let k = 0; k < 48; k++) {
      const radius = (1e-3 * convergence_mrad * ring) / 4, x = radius * Math.cos((2 * Math.PI * k) / 48), y = radius * Math.sin((2 * Math.PI * k) / 48);
      rays.push(this.names.map(term).map((one) => [[1, 0], [0, 1]].map(([dx, dy]) => (wavelength_nm / (2 * Math.PI))
        * (phasePerNm(one, x + dx * step, y + dy * step, wavelength_nm) - phasePerNm(one, x - dx * step, y - dy * step, wavelength_nm)) / (2 * step))));
    }
    return rays;
  }

  // Width of the geometric probe along the wider axis, nm: the window has to hold it.
  extent(aberrations) {
    const ranges = [[0, 0], [0, 0]];
    for (const ray of this.rays) for (let axis = 0; axis < 2; axis++) {
      const place = this.names.reduce((sum, name, k) => sum + (aberrations[name] || 0) * ray[k][axis], 0);
      ranges[axis] = [Math.min(ranges[axis][0], place), Math.max(ranges[axis][1], place)];
    }
    return Math.max(...ranges.map(([low, high]) => high - low));
  }

  holds(aberrations) { return 1.1 * this.extent(aberrations) <= this.optics.grid * this.optics.sampling_nm; }
}

// A frame as counted with this many electrons in the beam.
export function counted(frame, dose_e, random) { return frame.map((share) => poisson(share * dose_e, random)); }

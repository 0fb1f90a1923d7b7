"use strict";

const volumes = JSON.parse(document.getElementById("facts").textContent).volumes;
const SVG = document.getElementById("filters").namespaceURI;
const COLOURS = 8; // of lines in the chart; then they repeat, dashed
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Make an element; text goes in as text, whatever it holds. */
function make(tag, attributes = {}, text = null, namespace = null) {
  const element = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}

const drawn = (tag, attributes, text = null) => make(tag, attributes, text, SVG);

/* ---- table of scores ---- */

function sortScores(header) {
  const descending = header.getAttribute("aria-sort") === "ascending";
  const rows = [...document.querySelectorAll("#scores tbody tr")];
  const value = (row) => row.cells[header.cellIndex].dataset.value;
  const numeric = header.classList.contains("number");
  const compare = (a, b) => (numeric ? value(a) - value(b) : value(a).localeCompare(value(b), "en", { numeric: true }));
  rows.sort((a, b) => {
    if (!value(a) || !value(b)) return !value(a) - !value(b); // blanks last, either way
    return descending ? compare(b, a) : compare(a, b);
  });
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  document.querySelector("#scores tbody").append(...rows);
}

for (const button of document.querySelectorAll("#scores thead button")) {
  button.addEventListener("click", () => sortScores(button.closest("th")));
}

/* ---- viewers ---- */

class Viewer {
  constructor(volume, number) {
    this.volume = volume;
    this.number = number;
    this.seen = false; // pictures are decoded once the viewer comes near the window
    this.element = document.getElementById("viewer").content.firstElementChild.cloneNode(true);
    this.element.id = `volume-${number}`;
    this.element.querySelector("h3").textContent = volume.file;
    const [height, width] = volume.size;
    this.element.style.setProperty("--ratio", `${width} / ${height}`);
    for (const name of ["slice", "level", "window", "panels", "which", "zoom"]) {
      this[`${name}Part`] = this.element.querySelector(`.${name}`);
    }
    for (const note of volume.notes) this.element.querySelector(".notes").append(make("li", {}, note));
    this.slicePart.max = volume.shown.length - 1;
    this.slicePart.disabled = volume.shown.length < 2;
    this.panelsPart.setAttribute("aria-label", `pictures of ${volume.file}`);
    this.addFilter();
    this.addPanels();
    this.listen();
    this.position = volume.shown.length >> 1;
    this.reset();
  }

  /** Add the filter that maps grey values through level and window; all grey panels share it. */
  addFilter() {
    const filter = drawn("filter", { id: `window-${this.number}`, "color-interpolation-filters": "sRGB" });
    const transfer = drawn("feComponentTransfer", {});
    this.transfers = ["R", "G", "B"].map((channel) => drawn(`feFunc${channel}`, { type: "linear" }));
    transfer.append(...this.transfers);
    filter.append(transfer);
    document.querySelector("#filters defs").append(filter);
  }

  addPanels() {
    this.pictures = new Map();
    for (const panel of this.volume.panels) {
      const figure = make("figure", { class: panel.kind });
      const caption = make("figcaption", { title: panel.title }, panel.title);
      const frame = make("div", { class: "frame" });
      const picture = make("img", { draggable: "false" });
      const coloured = panel.kind === "error" || panel.kind === "uncertainty";
      if (!coloured) figure.classList.add("grey");
      if (!coloured) frame.style.filter = `url(#window-${this.number})`;
      frame.append(picture);
      figure.append(caption, frame);
      figure.append(make("div", { class: "bar", "aria-hidden": "true" }), make("div", { class: "range" }, panel.range));
      this.pictures.set(panel.kind, picture);
      this.panelsPart.append(figure);
    }
  }

  listen() {
    this.slicePart.addEventListener("input", () => this.show(this.slicePart.valueAsNumber));
    for (const part of [this.levelPart, this.windowPart]) part.addEventListener("input", () => this.update());
    const buttons = { ".in": () => this.zoomBy(1.25), ".out": () => this.zoomBy(0.8), ".reset": () => this.reset() };
    for (const [name, action] of Object.entries(buttons)) {
      this.element.querySelector(name).addEventListener("click", action);
    }
    this.element.addEventListener("keydown", (event) => this.press(event));
    const panels = this.panelsPart;
    panels.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    panels.addEventListener("pointerdown", (event) => {
      const frame = event.target.closest(".frame");
      if (frame && event.button === 0) frame.setPointerCapture(event.pointerId);
    });
    panels.addEventListener("pointermove", (event) => {
      const frame = event.target.closest(".frame");
      if (!frame || !frame.hasPointerCapture(event.pointerId)) return;
      this.panBy(event.movementX / frame.clientWidth, event.movementY / frame.clientHeight);
    });
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const zooms = { "+": () => this.zoomBy(1.25), "=": () => this.zoomBy(1.25), "-": () => this.zoomBy(0.8), 0: () => this.reset() };
    const last = this.volume.shown.length - 1;
    const slices = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -last, End: last };
    const pans = { ArrowRight: [-1, 0], ArrowLeft: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const onPanels = event.target === this.panelsPart; // sliders have arrow keys of their own
    if (event.key in zooms) zooms[event.key]();
    else if (onPanels && event.shiftKey && event.key in pans) this.panBy(...pans[event.key].map((step) => step / 10));
    else if (onPanels && event.key in slices) this.show(this.position + slices[event.key]);
    else return;
    event.preventDefault();
  }

  wheel(event) {
    const frame = event.target.closest(".frame");
    if (!frame || !(event.ctrlKey || this.panelsPart.contains(document.activeElement))) return; // the page scrolls
    event.preventDefault();
    const box = frame.getBoundingClientRect();
    const place = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    this.zoomBy(Math.exp(-clamp(event.deltaY, -100, 100) / 400), ...place);
  }

  /** Zoom about a place in the frame, in fractions of its size. */
  zoomBy(factor, across = 0.5, down = 0.5) {
    const zoom = clamp(this.zoom * factor, 1, 32);
    const ratio = zoom / this.zoom;
    this.zoom = zoom;
    this.x = across - (across - this.x) * ratio;
    this.y = down - (down - this.y) * ratio;
    this.panBy(0, 0);
  }

  panBy(across, down) {
    this.x = clamp(this.x + across, 1 - this.zoom, 0);
    this.y = clamp(this.y + down, 1 - this.zoom, 0);
    this.update();
  }

  reset() {
    [this.zoom, this.x, this.y] = [1, 0, 0];
    this.windowPart.value = Math.round(100 * this.volume.window);
    this.levelPart.value = this.windowPart.value / 2; // black at 0
    this.update();
  }

  show(position) {
    this.position = clamp(position, 0, this.volume.shown.length - 1);
    this.update();
  }

  showSlice(k) {
    const distances = this.volume.shown.map((shown) => Math.abs(shown - k));
    this.show(distances.indexOf(Math.min(...distances)));
  }

  /** Bring what is on the screen in line with slice, window, zoom and pan. */
  update() {
    const k = this.volume.shown[this.position];
    const scores = Object.entries(this.volume.scores).map(([metric, values]) => told(metric, values[k]));
    const which = [`slice ${k} (0 to ${this.volume.slices - 1})`, ...scores].join(", ");
    this.slicePart.value = this.position;
    this.slicePart.setAttribute("aria-valuetext", `slice ${k}`);
    if (this.whichPart.textContent !== which) this.whichPart.textContent = which;
    const [level, width] = [this.levelPart.valueAsNumber / 100, this.windowPart.valueAsNumber / 100];
    const [low, high] = [level - width / 2, level + width / 2].map((value) => (value * this.volume.white).toPrecision(3));
    for (const range of this.element.querySelectorAll(".grey .range")) range.textContent = `${low} to ${high}`;
    for (const transfer of this.transfers) {
      transfer.setAttribute("slope", 1 / width);
      transfer.setAttribute("intercept", 0.5 - level / width);
    }
    this.zoomPart.textContent = `${Math.round(100 * this.zoom)} %`;
    this.element.style.setProperty("--zoom", this.zoom);
    this.element.style.setProperty("--x", `${100 * this.x}%`);
    this.element.style.setProperty("--y", `${100 * this.y}%`);
    this.element.classList.toggle("zoomed", this.zoom > 1);
    this.element.classList.toggle("near", this.zoom > 3);
    if (this.seen) this.decode(k);
  }

  decode(k) {
    for (const [kind, picture] of this.pictures) {
      if (picture.dataset.slice === String(k)) continue;
      picture.dataset.slice = k;
      picture.alt = `${kind}, slice ${k}`;
      picture.src = document.getElementById(`picture-${this.number}-${k}-${kind}`).textContent;
    }
  }

  open(k) {
    this.showSlice(k);
    this.element.scrollIntoView();
    this.panelsPart.focus({ preventScroll: true });
  }
}

function told(metric, value) {
  if (value === null) return `${metric} ∞`;
  return metric === "PSNR" ? `PSNR ${value.toFixed(2)} dB` : `${metric} ${value.toFixed(4)}`;
}

const viewers = volumes.map((volume, number) => new Viewer(volume, number));
document.getElementById("volumes").append(...viewers.map((viewer) => viewer.element));

function reveal(viewer) {
  viewer.seen = true;
  viewer.update();
}

const observer = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      reveal(viewers[Number(entry.target.id.split("-")[1])]);
      observer.unobserve(entry.target);
    }
  },
  { rootMargin: "800px" },
);
for (const viewer of viewers) observer.observe(viewer.element);
addEventListener("beforeprint", () => viewers.forEach(reveal));

/* ---- chart of slices ---- */

const WIDTH = 600, HEIGHT = 250, LEFT = 52, RIGHT = 12, TOP = 26, BOTTOM = 36;

/** Choose round values from low to high, about five, each with its text. */
function ticks(low, high, whole = false) {
  const rough = (high - low || 1) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  if (whole) step = Math.max(1, step);
  const values = [];
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  for (let n = Math.ceil(low / step); n * step <= high; n += 1) values.push([n * step, (n * step).toFixed(digits)]);
  return values;
}

class Plot {
  constructor(metric, unit, scored) {
    this.metric = metric;
    const known = scored.flatMap(({ volume }) => volume.scores[metric]).filter((value) => value !== null);
    const [least, most] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
    const margin = (most - least) * 0.08 || 0.5;
    this.low = least - margin;
    this.high = most + margin;
    this.last = Math.max(...scored.map(({ volume }) => volume.slices)) - 1;
    this.svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" });
    this.svg.append(drawn("text", { class: "name", x: LEFT, y: 15 }, unit ? `${metric} / ${unit}` : metric));
    for (const [value, text] of ticks(this.low, this.high)) {
      const y = this.y(value);
      this.svg.append(drawn("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y }));
      this.svg.append(drawn("text", { x: LEFT - 7, y: y + 4, "text-anchor": "end" }, text));
    }
    for (const [k, text] of ticks(0, this.last, true)) {
      this.svg.append(drawn("text", { x: this.x(k), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, text));
    }
    this.svg.append(drawn("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, "slice"));
    this.groups = scored.map((entry) => this.line(entry));
    this.ring = drawn("circle", { class: "current", r: 7, visibility: "hidden" });
    this.svg.append(...this.groups, this.ring);
  }

  x(k) {
    return LEFT + 12 + (k / Math.max(this.last, 1)) * (WIDTH - LEFT - RIGHT - 24);
  }

  y(value) {
    return TOP + ((this.high - value) / (this.high - this.low)) * (HEIGHT - TOP - BOTTOM);
  }

  line({ volume, number }) {
    const group = drawn("g", number < COLOURS ? {} : { class: "again" });
    group.style.setProperty("--colour", `var(--c${number % COLOURS})`);
    const points = volume.scores[this.metric].flatMap((value, k) => (value === null ? [] : [[this.x(k), this.y(value)]]));
    group.append(drawn("polyline", { points: points.map((point) => point.join(",")).join(" ") }));
    const radius = volume.slices > 60 ? 2 : 3.5;
    for (const [cx, cy] of points) group.append(drawn("circle", { cx, cy, r: radius }));
    return group;
  }
}

class Chart {
  constructor(element) {
    this.element = element;
    this.scored = volumes.map((volume, number) => ({ volume, number })).filter(({ volume }) => volume.scores.PSNR);
    this.readout = element.querySelector("output");
    if (!this.scored.length) {
      this.readout.textContent = "No volume has a target here, so no slice has a score.";
      element.removeAttribute("tabindex");
      element.setAttribute("role", "group");
      return;
    }
    this.plots = [new Plot("PSNR", "dB", this.scored), new Plot("SSIM", "", this.scored)];
    element.querySelector(".plots").append(...this.plots.map((plot) => plot.svg));
    for (const { volume, number } of this.scored) {
      const item = make("li", number < COLOURS ? {} : { class: "again" }, volume.file);
      item.style.setProperty("--colour", `var(--c${number % COLOURS})`);
      element.querySelector(".legend").append(item);
    }
    for (const plot of this.plots) {
      plot.svg.addEventListener("pointermove", (event) => this.point(plot, event));
      plot.svg.addEventListener("click", (event) => {
        this.point(plot, event);
        this.open();
      });
    }
    element.addEventListener("pointerleave", () => this.clear());
    element.addEventListener("blur", () => this.clear());
    element.addEventListener("focus", () => this.select(this.row ?? 0, this.k ?? 0));
    element.addEventListener("keydown", (event) => this.press(event));
  }

  /** Select the point that is nearest to the pointer. */
  point(plot, event) {
    const box = plot.svg.getBoundingClientRect();
    const [x, y] = [((event.clientX - box.left) * WIDTH) / box.width, ((event.clientY - box.top) * HEIGHT) / box.height];
    let nearest = [Infinity, 0, 0];
    this.scored.forEach(({ volume }, row) =>
      volume.scores[plot.metric].forEach((value, k) => {
        const distance = Math.hypot(plot.x(k) - x, (value === null ? TOP : plot.y(value)) - y);
        if (distance < nearest[0]) nearest = [distance, row, k];
      }),
    );
    this.select(nearest[1], nearest[2]);
  }

  select(row, k) {
    this.row = clamp(row, 0, this.scored.length - 1);
    const { volume } = this.scored[this.row];
    this.k = clamp(k, 0, volume.slices - 1);
    const scores = this.plots.map(({ metric }) => told(metric, volume.scores[metric][this.k]));
    this.readout.textContent = `${volume.file}, slice ${this.k}: ${scores.join(", ")}`;
    for (const plot of this.plots) {
      const value = volume.scores[plot.metric][this.k];
      plot.groups.forEach((group, other) => group.classList.toggle("behind", other !== this.row));
      plot.ring.setAttribute("visibility", value === null ? "hidden" : "visible");
      plot.ring.setAttribute("cx", plot.x(this.k));
      plot.ring.setAttribute("cy", value === null ? TOP : plot.y(value));
    }
  }

  clear() {
    this.readout.textContent = "";
    for (const plot of this.plots) {
      plot.ring.setAttribute("visibility", "hidden");
      for (const group of plot.groups) group.classList.remove("behind");
    }
  }

  press(event) {
    const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    if (event.key === "Enter") this.open();
    else if (event.key in steps) this.select(this.row + steps[event.key][0], this.k + steps[event.key][1]);
    else return;
    event.preventDefault();
  }

  open() {
    viewers[this.scored[this.row].number].open(this.k);
  }
}

new Chart(document.getElementById("chart"));

/* ---- raw JSON ---- */

const raw = document.getElementById("raw");

document.getElementById("copy").addEventListener("click", async () => {
  const told = document.getElementById("copied");
  try {
    await navigator.clipboard.writeText(raw.textContent);
    told.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(raw); // where the browser keeps the clipboard to itself
    told.textContent = "selected; copy it with Ctrl + C";
  }
});

document.getElementById("download").addEventListener("click", (event) => {
  const address = URL.createObjectURL(new Blob([raw.textContent], { type: "application/json" }));
  make("a", { href: address, download: event.target.dataset.name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
});

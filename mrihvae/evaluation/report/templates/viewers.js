/* ---- viewers ---- */

class Viewer {
  constructor(volume, number) {
    this.volume = volume;
    this.number = number;
    this.visible = false; // pictures are decoded once the viewer comes near the window
    this.element = document.getElementById("viewer").content.firstElementChild.cloneNode(true);
    this.element.id = `volume-${number}`;
    this.element.querySelector("h3").textContent = volume.file;
    const [height, width] = volume.size.map((count, axis) => count * (volume.voxel ? volume.voxel[axis] : 1)); // mm
    this.element.style.setProperty("--ratio", `${width} / ${height}`);
    for (const name of ["slice", "level", "window", "panels", "which", "zoom"]) {
      this[`${name}Part`] = this.element.querySelector(`.${name}`);
    }
    for (const text of volume.warnings) this.element.querySelector(".alerts").append(make("li", {}, text));
    for (const [name, text] of Object.entries(volume.promises)) this.addPromise(name, text);
    if (volume.voxel) volume.notes.push(`voxels of ${volume.voxel.map((size) => size.toPrecision(3)).join(" x ")} mm`);
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

  /** Say what is promised of the volume, with the meaning of the word as a tooltip. */
  addPromise(name, text) {
    const item = make("li");
    item.append(make("abbr", { title: terms[name] }, name), `: ${text}`);
    this.element.querySelector(".notes").append(item);
  }

  /** Add the filter that maps gray values through level and window; all gray panels share it. */
  addFilter() {
    const filter = makeSvg("filter", { id: `window-${this.number}`, "color-interpolation-filters": "sRGB" });
    const transfer = makeSvg("feComponentTransfer", {});
    this.transfers = ["R", "G", "B"].map((channel) => makeSvg(`feFunc${channel}`, { type: "linear" }));
    transfer.append(...this.transfers);
    filter.append(transfer);
    document.querySelector("#filters defs").append(filter);
  }

  addPanels() {
    this.pictures = new Map();
    for (const panel of this.volume.panels) {
      const figure = make("figure", { class: panel.kind });
      const caption = make("figcaption", { title: tooltip(panel) }, panel.title);
      const frame = make("div", { class: "frame" });
      const picture = make("img", { draggable: "false" });
      const colored = panel.kind === "error" || panel.kind === "uncertainty";
      if (!colored) figure.classList.add("gray");
      if (!colored) frame.style.filter = `url(#window-${this.number})`;
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
    const scores = Object.entries(this.volume.scores).map(([metric, values]) => formatScore(metric, values[k]));
    const which = [`slice ${k} (0 to ${this.volume.slices - 1})`, ...scores].join(", ");
    this.slicePart.value = this.position;
    this.slicePart.setAttribute("aria-valuetext", `slice ${k}`);
    if (this.whichPart.textContent !== which) this.whichPart.textContent = which;
    const [level, width] = [this.levelPart.valueAsNumber / 100, this.windowPart.valueAsNumber / 100];
    const [low, high] = [level - width / 2, level + width / 2].map((value) => (value * this.volume.white).toPrecision(3));
    for (const range of this.element.querySelectorAll(".gray .range")) range.textContent = `${low} to ${high}`;
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
    if (this.visible) this.decode(k);
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

/** Say what a panel shows: its title, which may be cut, and the meaning of that. */
function tooltip(panel) {
  return panel.kind in terms ? `${panel.title}: ${terms[panel.kind]}` : panel.title;
}

function formatScore(metric, value) {
  if (value === null) return `${metric} ∞`;
  return metric === "PSNR" ? `PSNR ${value.toFixed(2)} dB` : `${metric} ${value.toFixed(4)}`;
}

const viewers = volumes.map((volume, number) => new Viewer(volume, number));
document.getElementById("volumes").append(...viewers.map((viewer) => viewer.element));

function reveal(viewer) {
  viewer.visible = true;
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
addEventListener("beforeprint", () => {
  viewers.forEach(reveal);
  for (const words of document.querySelectorAll("details.terms")) words.open = true;
});

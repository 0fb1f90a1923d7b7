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
    this.svg = makeSvg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" });
    this.svg.append(makeSvg("text", { class: "name", x: LEFT, y: 15 }, unit ? `${metric} / ${unit}` : metric));
    for (const [value, text] of ticks(this.low, this.high)) {
      const y = this.y(value);
      this.svg.append(makeSvg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y }));
      this.svg.append(makeSvg("text", { x: LEFT - 7, y: y + 4, "text-anchor": "end" }, text));
    }
    for (const [k, text] of ticks(0, this.last, true)) {
      this.svg.append(makeSvg("text", { x: this.x(k), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, text));
    }
    this.svg.append(makeSvg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, "slice"));
    this.groups = scored.map((entry) => this.line(entry));
    this.ring = makeSvg("circle", { class: "current", r: 7, visibility: "hidden" });
    this.svg.append(...this.groups, this.ring);
  }

  x(k) {
    return LEFT + 12 + (k / Math.max(this.last, 1)) * (WIDTH - LEFT - RIGHT - 24);
  }

  y(value) {
    return TOP + ((this.high - value) / (this.high - this.low)) * (HEIGHT - TOP - BOTTOM);
  }

  line({ volume, number }) {
    const group = makeSvg("g", number < COLORS ? {} : { class: "again" });
    group.style.setProperty("--color", `var(--c${number % COLORS})`);
    const points = volume.scores[this.metric].flatMap((value, k) => (value === null ? [] : [[this.x(k), this.y(value)]]));
    group.append(makeSvg("polyline", { points: points.map((point) => point.join(",")).join(" ") }));
    const radius = volume.slices > 60 ? 2 : 3.5;
    for (const [cx, cy] of points) group.append(makeSvg("circle", { cx, cy, r: radius }));
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
      const item = make("li", number < COLORS ? {} : { class: "again" }, volume.file);
      item.style.setProperty("--color", `var(--c${number % COLORS})`);
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
    const scores = this.plots.map(({ metric }) => formatScore(metric, volume.scores[metric][this.k]));
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

const chart = document.getElementById("chart");
if (chart) new Chart(chart); // there is none without scores

/* Curves and stacked areas as inline SVG. In: steps, series, marks. Out: figures that share one
   cursor: what is hovered in one is read off in all. Knows no metric. */
"use strict";
(function () {
  const { h, svg, num } = PVRL;
  const H = 132;
  const PAD = { left: 40, right: 8, top: 8, bottom: 18 };
  const shown = new Set();

  /* Forget all charts: the page is drawn anew. */
  PVRL.clearCharts = () => shown.clear();

  /* Exponential mean without the start's bias; gaps stay gaps. */
  PVRL.smooth = function (values, weight) {
    if (!weight) return values;
    let sum = 0;
    let norm = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = weight * sum + (1 - weight) * value;
      norm = weight * norm + (1 - weight);
      return sum / norm;
    });
  };

  function ticks(low, high, count) {
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
    const first = Math.ceil(low / step - 1e-9);
    const last = Math.floor(high / step + 1e-9);
    return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  }

  function extent(lists, options) {
    let low = Infinity;
    let high = -Infinity;
    for (const values of lists)
      for (const v of values)
        if (v !== null && !(options.log && v <= 0)) {
          if (v < low) low = v;
          if (v > high) high = v;
        }
    if (low > high) return null;
    if (options.log) return { low: Math.log10(low) - 0.05, high: Math.log10(high) + 0.05 };
    if (options.share) return { low: 0, high: Math.max(1, high) };
    if (low > 0 && low < 0.6 * high) low = 0;
    if (low === 0 && high === 0) return { low: 0, high: 1 };
    if (high - low < 1e-9 * Math.abs(high)) low = high;
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    return { low: low === 0 ? 0 : low - room, high: high + room };
  }

  class Chart {
    /* spec: { title, hint, series: [{name, values, band, points}], stacked, share, log }
       shared: { steps, marks, smoothing, pick } */
    constructor(spec, shared) {
      Object.assign(this, { spec, shared });
      this.cursor = null;
      this.value = h("span", { class: "readout" });
      this.plot = h("div", { class: "plot" });
      this.legend = h("ul", { class: "legend" });
      this.entries = spec.series.map((series, i) => {
        const value = h("span", { class: "n" });
        const item = h("li", { class: `c${i % 8}` }, h("i", {}), series.name, value);
        return { item, value };
      });
      const many = spec.series.length > 1;
      if (many) this.legend.append(...this.entries.map((e) => e.item));
      this.node = h(
        "figure",
        { class: "chart", data: { metric: spec.title } },
        h("figcaption", { title: spec.hint || null }, h("b", {}, spec.title), this.value),
        this.plot,
        many ? this.legend : null,
      );
      this.plot.addEventListener("pointermove", (event) => hover(this, event));
      this.plot.addEventListener("pointerleave", () => point(this.shared, null));
      this.plot.addEventListener("click", (event) => {
        const i = this.nearest(event);
        if (i !== null) this.shared.pick(this.shared.steps[i]);
      });
      shown.add(this);
    }

    x(i) {
      const { steps } = this.shared;
      const [first, last] = [steps[0], steps[steps.length - 1]];
      const share = last > first ? (steps[i] - first) / (last - first) : 0.5;
      return PAD.left + share * (this.width - PAD.left - PAD.right);
    }

    y(value) {
      const { low, high } = this.range;
      const at = this.spec.log ? Math.log10(value) : value;
      return PAD.top + (1 - (at - low) / (high - low)) * (H - PAD.top - PAD.bottom);
    }

    draw() {
      this.width = Math.max(180, this.plot.clientWidth || 320);
      const { spec, shared } = this;
      const smoothed = (values) =>
        PVRL.smooth(values, spec.stacked ? shared.smoothing / 2 : shared.smoothing);
      this.lines = spec.series.map((s) => (s.points ? s.values : smoothed(s.values)));
      this.tops = spec.stacked ? stack(this.lines) : this.lines;
      const bands = spec.series.flatMap((s) => (s.band ? s.band.map(smoothed) : []));
      const raw = spec.stacked ? [] : spec.series.map((s) => s.values);
      this.range = extent([...this.tops, ...raw, ...bands, spec.stacked ? [0] : []], spec);
      const root = svg("svg", {
        viewBox: `0 0 ${this.width} ${H}`,
        width: this.width,
        height: H,
        role: "img",
        "aria-label": this.told(),
      });
      if (this.range) {
        root.append(this.axes(), this.marks());
        spec.series.forEach((series, i) => root.append(this.series(series, i, smoothed)));
        this.line = svg("line", {
          class: "cursor",
          y1: PAD.top,
          y2: H - PAD.bottom,
          x1: -9,
          x2: -9,
        });
        root.append(this.line);
      }
      PVRL.replace(this.plot, root);
      this.show(this.cursor);
    }

    series(series, i, smoothed) {
      const group = svg("g", { class: `c${i % 8}` });
      if (this.spec.stacked) {
        const below = i ? this.tops[i - 1] : this.tops[i].map((v) => (v === null ? null : 0));
        group.append(svg("path", { class: "area", d: this.area(below, this.tops[i]) }));
        return group;
      }
      if (series.band) {
        const [low, high] = series.band.map(smoothed);
        group.append(svg("path", { class: "band", d: this.area(low, high) }));
      }
      if (this.shared.smoothing && !series.points)
        group.append(svg("path", { class: "raw", d: this.path(series.values) }));
      group.append(svg("path", { class: "curve", d: this.path(this.lines[i]) }));
      const lone = this.lines[i].filter((v) => v !== null).length < 3 || series.points;
      if (lone)
        this.lines[i].forEach((v, k) => {
          if (v !== null) group.append(svg("circle", { cx: this.x(k), cy: this.y(v), r: 2.5 }));
        });
      return group;
    }

    path(values) {
      let d = "";
      let pen = "M";
      values.forEach((v, i) => {
        if (v === null || (this.spec.log && v <= 0)) {
          /* Evaluations come now and then: their points are joined. */
          if (!this.spec.sparse) pen = "M";
          return;
        }
        d += `${pen}${this.x(i).toFixed(1)} ${this.y(v).toFixed(1)}`;
        pen = "L";
      });
      return d;
    }

    area(low, high) {
      const whole = high
        .map((v, i) => (v === null || low[i] === null ? -1 : i))
        .filter((i) => i >= 0);
      if (!whole.length) return "";
      const edge = (values, list) =>
        list.map((i) => `${this.x(i).toFixed(1)} ${this.y(values[i]).toFixed(1)}`).join("L");
      return `M${edge(high, whole)}L${edge(low, [...whole].reverse())}Z`;
    }

    axes() {
      const group = svg("g", { class: "axes" });
      const { low, high } = this.range;
      const places = ticks(low, high, this.spec.log ? 2 : 4);
      const apart = places.length > 1 ? places[1] - places[0] : high - low;
      for (const at of places) {
        const y = PAD.top + (1 - (at - low) / (high - low)) * (H - PAD.top - PAD.bottom);
        const text = this.spec.log ? short(10 ** at, 0) : short(at, apart);
        group.append(
          svg("line", { x1: PAD.left, x2: this.width - PAD.right, y1: y, y2: y }),
          svg("text", { x: PAD.left - 6, y: y + 3.5, "text-anchor": "end" }, text),
        );
      }
      const { steps } = this.shared;
      const last = steps.length - 1;
      group.append(svg("text", { x: PAD.left, y: H - 4 }, steps[0]));
      if (last > 0)
        group.append(
          svg("text", { x: this.width - PAD.right, y: H - 4, "text-anchor": "end" }, steps[last]),
        );
      return group;
    }

    marks() {
      const group = svg("g", { class: "marks" });
      for (const mark of this.shared.marks) {
        const i = this.shared.steps.indexOf(mark.step);
        if (i < 0) continue;
        const x = this.x(i);
        group.append(
          svg(
            "g",
            { class: mark.kind },
            svg("title", {}, `step ${mark.step}: ${mark.text}`),
            svg("line", { x1: x, x2: x, y1: PAD.top, y2: H - PAD.bottom }),
            svg("path", { d: `M${x - 4} ${PAD.top - 6}h8l-4 6z` }),
          ),
        );
      }
      return group;
    }

    nearest(event) {
      if (!this.range) return null;
      const x = event.clientX - this.plot.getBoundingClientRect().left;
      let best = null;
      this.shared.steps.forEach((_, i) => {
        if (best === null || Math.abs(this.x(i) - x) < Math.abs(this.x(best) - x)) best = i;
      });
      return best;
    }

    /* Read the values off at a place among the steps; null reads the last ones. */
    show(i) {
      this.cursor = i;
      const values = this.spec.series.map((s) =>
        i === null ? lastOf(s.values) : s.points && s.values[i] === null ? null : s.values[i],
      );
      if (this.entries.length === 1) this.value.textContent = num(values[0]);
      else {
        this.value.textContent = "";
        this.entries.forEach((e, k) => (e.value.textContent = num(values[k])));
      }
      if (this.line)
        for (const end of ["x1", "x2"]) this.line.setAttribute(end, i === null ? -9 : this.x(i));
    }

    told() {
      const parts = this.spec.series.map((s) => `${s.name} ${num(lastOf(s.values))}`);
      return `${this.spec.title}, at the last step: ${parts.join(", ")}`;
    }
  }

  /* A label of at most six characters, with the digits that the distance of two labels asks for. */
  function short(value, apart) {
    const digits = apart ? Math.max(0, -Math.floor(Math.log10(apart) + 1e-9)) : 9;
    const near = Math.abs(value) < apart / 1000 ? 0 : value;
    if (digits > 3 || Math.abs(near) >= 1e6) return near === 0 ? "0" : near.toExponential(0).replace("-", "−");
    return num(near, digits);
  }

  function stack(lines) {
    let below = lines[0].map(() => 0);
    return lines.map((values) => {
      const top = values.map((v, i) =>
        v === null && below[i] === 0
          ? lines.every((l) => l[i] === null)
            ? null
            : 0
          : below[i] + (v || 0),
      );
      below = top.map((v) => v || 0);
      return top;
    });
  }

  function lastOf(values) {
    for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null) return values[i];
    return null;
  }
  PVRL.lastOf = lastOf;

  let queued = 0;
  function hover(chart, event) {
    const i = chart.nearest(event);
    cancelAnimationFrame(queued);
    queued = requestAnimationFrame(() => point(chart.shared, i));
  }

  function point(shared, i) {
    for (const chart of shown) if (chart.shared === shared) chart.show(i);
    shared.pointed(i);
  }

  PVRL.chart = (spec, shared) => new Chart(spec, shared);
  PVRL.drawCharts = () => shown.forEach((chart) => chart.draw());

  let resized = 0;
  window.addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(PVRL.drawCharts, 120);
  });
})();

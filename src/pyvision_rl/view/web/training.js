/* The training page: curves of a run, or of a study's variants; alarms; a table of steps.
   In: the run. Out: nodes. Which numbers go together is said in metrics.js. */
"use strict";
(function () {
  const { h, num } = PVRL;
  const kept = { smoothing: 0.6 };

  PVRL.trainingPage = function ({ run, index }) {
    PVRL.clearCharts();
    const study = run.study && run.study.variants.some((v) => v.seeds.some((s) => s.metrics));
    const sources = study ? variantsOf(run.study) : [{ name: "", metrics: [run.metrics] }];
    const steps = [...new Set(sources.flatMap((s) => s.metrics.flatMap((m) => m.steps)))];
    steps.sort((a, b) => a - b);
    const parts = [headline(run, index, steps)];
    if (!steps.length) {
      parts.push(h("p", { class: "soft" }, "This run noted no numbers."));
    } else {
      const shared = {
        steps,
        marks: marksOf(run.events),
        smoothing: kept.smoothing,
        pick: (step) => {
          if (index.groupsOf.has(step)) PVRL.go(PVRL.at.step(step));
        },
        pointed: () => {},
      };
      parts.push(
        controls(shared, sources, index),
        alarms(run.events, index),
        plots(sources, shared),
      );
    }
    if (run.study) parts.push(studyRuns(run));
    if (index.size) parts.push(stepTable(run, index));
    return parts;
  };
  PVRL.trainingDrawn = () => PVRL.drawCharts();

  function variantsOf(study) {
    return study.variants
      .map((v) => ({
        name: v.label || v.name,
        metrics: v.seeds.map((s) => s.metrics).filter((m) => m && m.steps.length),
      }))
      .filter((v) => v.metrics.length);
  }

  function headline(run, index, steps) {
    const last = (name) => PVRL.lastOf(PVRL.column(run.metrics, name));
    const cards = [
      ["steps", steps.length ? num(steps[steps.length - 1]) : num(run.steps.length)],
      ["trajectories", index.size ? num(index.size) : null],
      ["reward", last("reward")],
      ["accuracy", last("accuracy")],
      ["held out", last("eval_accuracy")],
      ["tool calls", last("tool_calls")],
    ].filter(([, value]) => value !== null);
    return h(
      "section",
      { "aria-label": "Where the run stands" },
      h("h1", {}, run.study ? run.study.title : "Training"),
      h(
        "dl",
        { class: "cards" },
        cards.map(([name, value]) =>
          h(
            "div",
            {},
            h("dt", {}, name),
            h("dd", {}, typeof value === "number" ? num(value, 3) : value),
          ),
        ),
      ),
    );
  }

  function marksOf(events) {
    return events
      .filter((e) => e.step !== null && /^(alarm|alarm_cleared|failed)$/.test(e.name))
      .map((e) => ({
        step: e.step,
        text: e.text,
        kind: e.name === "alarm_cleared" ? "cleared" : "alarm",
      }));
  }

  function controls(shared, sources, index) {
    const told = h("output", {}, kept.smoothing.toFixed(2));
    const slider = h("input", {
      type: "range",
      id: "smoothing",
      min: 0,
      max: 0.95,
      step: 0.05,
      value: kept.smoothing,
      on: {
        input: () => {
          kept.smoothing = shared.smoothing = Number(slider.value);
          told.textContent = kept.smoothing.toFixed(2);
          PVRL.drawCharts();
        },
      },
    });
    const at = h("span", { class: "soft at" }, hint(index));
    shared.pointed = (i) => {
      at.textContent = i === null ? hint(index) : `step ${shared.steps[i]}${markAt(shared, i)}`;
    };
    const names =
      sources.length > 1
        ? h(
            "ul",
            { class: "legend big", "aria-label": "Variants" },
            sources.map((s, i) => h("li", { class: `c${i % 8}` }, h("i", {}), s.name, seedsOf(s))),
          )
        : null;
    return h(
      "div",
      { class: "controls" },
      h("label", { for: "smoothing" }, "Smoothing"),
      slider,
      told,
      names,
      at,
    );
  }

  const hint = (index) =>
    index.size
      ? "Click a step to see its groups"
      : "Lines are means of seeds, bands reach from lowest to highest";
  const seedsOf = (s) => h("span", { class: "soft" }, PVRL.count(s.metrics.length, "seed"));

  function markAt(shared, i) {
    const texts = shared.marks.filter((m) => m.step === shared.steps[i]).map((m) => m.text);
    return texts.length ? `: ${texts.join(" · ")}` : "";
  }

  function alarms(events, index) {
    const told = events.filter((e) => /alarm|failed/.test(e.name));
    if (!told.length) return null;
    return h(
      "details",
      { class: "alarms", open: told.length <= 4 },
      h("summary", {}, PVRL.count(told.length, "alarm or failure", "alarms and failures")),
      h(
        "ul",
        {},
        told.map((e) =>
          h(
            "li",
            { class: e.name === "alarm_cleared" ? "cleared" : "alarm" },
            stepLink(e.step, index),
            PVRL.bdi(e.text),
          ),
        ),
      ),
    );
  }

  function stepLink(step, index) {
    if (step === null) return h("span", { class: "when" }, "–");
    if (!index.groupsOf.has(step)) return h("span", { class: "when" }, `step ${step}`);
    return h("a", { class: "when", href: PVRL.at.step(step) }, `step ${step}`);
  }

  function plots(sources, shared) {
    const names = [...new Set(sources.flatMap((s) => s.metrics.flatMap((m) => m.names)))].filter(
      (name) =>
        sources.some((s) => s.metrics.some((m) => PVRL.column(m, name).some((v) => v !== null))),
    );
    return PVRL.plots(names).map((section) => {
      const specs = section.plots.flatMap((plot) => specsOf(plot, sources, shared.steps));
      const grid = h(
        "div",
        { class: "grid" },
        specs.map((spec) => PVRL.chart(spec, shared).node),
      );
      if (!section.folded)
        return h("section", { class: "plots" }, h("h2", {}, section.title), grid);
      const summary = h(
        "summary",
        {},
        h("h2", {}, section.title),
        " ",
        h("span", { class: "soft" }, PVRL.count(specs.length, "plot")),
      );
      return h("details", { class: "plots", on: { toggle: PVRL.drawCharts } }, summary, grid);
    });
  }

  /* One plot with a curve per number; of several variants, a plot per number with a curve each. */
  function specsOf(plot, sources, steps) {
    const options = { hint: plot.hint, share: plot.share, log: plot.log, stacked: plot.stacked };
    if (sources.length === 1 && sources[0].metrics.length === 1) {
      const series = plot.names.map(({ name, label }) => seriesOf(label, sources[0], name, steps));
      return [{ title: plot.title, series, ...options, sparse: true }];
    }
    return plot.names.map(({ name, label }) => ({
      title: plot.names.length > 1 ? `${plot.title}: ${label}` : plot.title,
      series: sources.map((source) => seriesOf(source.name, source, name, steps)),
      ...options,
      stacked: false,
      sparse: true,
    }));
  }

  function seriesOf(label, source, name, steps) {
    const seeds = source.metrics.map((metrics) => spread(metrics, name, steps));
    const points = /^eval_/.test(name);
    if (seeds.length === 1) return { name: label, values: seeds[0], points };
    const over = (take) =>
      steps.map((_, i) => {
        const known = seeds.map((s) => s[i]).filter((v) => v !== null);
        return known.length ? take(known) : null;
      });
    const band = [over((v) => Math.min(...v)), over((v) => Math.max(...v))];
    return { name: label, values: over(PVRL.mean), band, points };
  }

  function spread(metrics, name, steps) {
    const column = PVRL.column(metrics, name);
    const at = new Map(metrics.steps.map((step, i) => [step, i]));
    return steps.map((step) =>
      at.has(step) && column[at.get(step)] !== undefined ? column[at.get(step)] : null,
    );
  }

  function studyRuns(run) {
    const links = run.runs || [];
    if (!links.length) return null;
    const items = links.map((r) => {
      const sure = /^runs\/[A-Za-z0-9._/-]+\.html$/.test(r.href) && !r.href.includes("..");
      const name = r.label || r.name;
      const chip = h("span", { class: "chip" }, r.verb);
      return h("li", {}, sure ? h("a", { href: r.href }, name) : name, " ", chip);
    });
    return h("section", {}, h("h2", {}, "Runs of this study"), h("ul", { class: "runs" }, items));
  }

  /* The same numbers for those who read rather than look; every step leads to its groups. */
  function stepTable(run, index) {
    const columns = ["reward", "accuracy", "tool_calls", "train_entropy"].filter(
      (n) => run.metrics.columns[n],
    );
    const at = new Map(run.metrics.steps.map((step, i) => [step, i]));
    const rows = run.steps.map((s) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, h("a", { href: PVRL.at.step(s.step) }, `step ${s.step}`)),
        h("td", {}, num((index.groupsOf.get(s.step) || []).length)),
        h("td", {}, num(s.num)),
        h("td", {}, num(s.kept)),
        columns.map((n) =>
          h("td", {}, num(at.has(s.step) ? PVRL.column(run.metrics, n)[at.get(s.step)] : null)),
        ),
      ),
    );
    const head = ["step", "groups", "trajectories", "kept", ...columns.map(PVRL.words)];
    return h(
      "section",
      {},
      h("h2", {}, "Steps"),
      h(
        "div",
        { class: "scroll short", tabindex: 0, role: "region", "aria-label": "Steps" },
        h(
          "table",
          {},
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              head.map((n) => h("th", { scope: "col" }, n)),
            ),
          ),
          h("tbody", {}, rows),
        ),
      ),
    );
  }
})();

/* The evaluation page: headline, categories with intervals, all numbers, the items.
   In: result.json as it is, and the index. Out: nodes. Computes no score but an item's own mean,
   and intervals where a result of an earlier release has none. */
"use strict";
(function () {
  const { h, num } = PVRL;
  const Z = 1.96;

  PVRL.evaluationPage = function (state) {
    const { run, index } = state;
    const { result } = run;
    if (run.study) return studyResult(run);
    const overall = result && typeof result.overall === "object" ? result.overall : null;
    return [
      h("h1", {}, "Evaluation"),
      overall
        ? headline(result)
        : h(
            "p",
            { class: "soft" },
            "This run has no result file; the items below are what it wrote so far.",
          ),
      overall ? bars(result) : null,
      overall ? table(result) : null,
      index.size ? items(state) : null,
      result ? rest(result) : null,
    ];
  };

  const isNumber = (v) => typeof v === "number";

  /* The 95 % interval of an accuracy: the result's own, or 1.96 standard errors to each side; null
     where neither is known. An error of 0 is no certainty: all items were right, or all wrong. */
  function intervalOf(scores, estimate) {
    const found = estimate && typeof estimate === "object" ? estimate.accuracy_interval : null;
    if (found && isNumber(found.low) && isNumber(found.high))
      return { low: found.low, high: found.high, method: String(found.method || "") };
    const { accuracy, accuracy_se: se } = scores;
    if (!isNumber(accuracy) || !isNumber(se) || se <= 0) return null;
    return {
      low: Math.max(0, accuracy - Z * se),
      high: Math.min(1, accuracy + Z * se),
      method: "1.96 standard errors to each side",
    };
  }

  const estimatesOf = (result) =>
    result.estimates && typeof result.estimates === "object" ? result.estimates : {};

  const between = ({ low, high }) =>
    h("small", {}, ` ${num(100 * low, 1)} to ${num(100 * high, 1)}`);

  function headline(result) {
    const { overall } = result;
    const known = intervalOf(overall, estimatesOf(result).overall);
    const wanted = [
      "accuracy",
      "tasks",
      "episodes",
      "tool_calls",
      "tool_share",
      "answered",
      "ungraded",
      "failed",
    ];
    const shares = new Set(["accuracy", "tool_share", "answered"]);
    const cards = wanted
      .filter((n) => isNumber(overall[n]))
      .map((n) => {
        const spread = n === "accuracy" && known ? between(known) : null;
        return h(
          "div",
          {},
          h("dt", {}, PVRL.words(n)),
          h("dd", {}, shares.has(n) ? PVRL.percent(overall[n], 1) : num(overall[n]), spread),
        );
      });
    const told = Object.entries(result.headline || {}).map(([name, value]) =>
      h("div", {}, h("dt", {}, PVRL.words(name)), h("dd", {}, isNumber(value) ? num(value) : "–")),
    );
    return h("dl", { class: "cards" }, [...told, ...cards]);
  }

  function rowsOf(result) {
    const categories = Object.entries(result.categories || {}).filter(
      ([, v]) => v && typeof v === "object",
    );
    return [["all", result.overall], ...categories];
  }

  function bars(result) {
    const { overall, categories } = estimatesOf(result);
    /* The first row is all of them, whatever a category is called. */
    const rows = rowsOf(result)
      .map(([name, v], k) => [name, v, intervalOf(v, k ? (categories || {})[name] : overall)])
      .filter(([, v]) => isNumber(v.accuracy));
    if (!rows.length) return null;
    const methods = [...new Set(rows.flatMap(([, , known]) => (known ? [known.method] : [])))];
    const bar = ([name, v, known]) => {
      const spread = known
        ? h("b", {
            class: "whisker",
            css: { left: `${100 * known.low}%`, width: `${100 * (known.high - known.low)}%` },
          })
        : null;
      return h(
        "div",
        { class: `score${name === "all" ? " all" : ""}` },
        h("span", { class: "name" }, PVRL.bdi(PVRL.words(name))),
        h("span", { class: "track" }, h("i", { css: { width: `${100 * v.accuracy}%` } }), spread),
        h(
          "span",
          { class: "n" },
          PVRL.percent(v.accuracy, 1),
          known ? between(known) : null,
        ),
        h("span", { class: "n soft" }, isNumber(v.tasks) ? PVRL.count(v.tasks, "item") : ""),
      );
    };
    return h(
      "section",
      {},
      h("h2", {}, "Accuracy by category"),
      h("div", { class: "bars" }, rows.map(bar)),
      h(
        "p",
        { class: "soft small" },
        methods.length
          ? `Lines are 95 % intervals: ${methods.join("; ")}. Where there is none, tasks are too few.`
          : "Tasks are too few for intervals.",
      ),
    );
  }

  function table(result) {
    const rows = rowsOf(result);
    const names = [
      ...new Set(rows.flatMap(([, v]) => Object.keys(v).filter((n) => isNumber(v[n])))),
    ];
    return h(
      "details",
      { class: "plots" },
      h("summary", {}, h("h2", {}, "All numbers")),
      h(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": "All numbers" },
        h(
          "table",
          {},
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", { scope: "col" }, "category"),
              names.map((n) => h("th", { scope: "col" }, PVRL.words(n))),
            ),
          ),
          h(
            "tbody",
            {},
            rows.map(([name, v]) =>
              h(
                "tr",
                {},
                h("th", { scope: "row" }, PVRL.bdi(PVRL.words(name))),
                names.map((n) => h("td", {}, num(v[n]))),
              ),
            ),
          ),
        ),
      ),
    );
  }

  /* What a result holds beside: a suite, its protocol, its report. */
  function rest(result) {
    const other = Object.fromEntries(
      Object.entries(result).filter(([n]) => n !== "overall" && n !== "categories"),
    );
    return Object.keys(other).length
      ? h(
          "details",
          { class: "plots" },
          h("summary", {}, h("h2", {}, "The rest of the result")),
          PVRL.tree(other),
        )
      : null;
  }

  /* Items with the mean over their samples; the worst stand first. */
  function items({ index, other }) {
    const found = index.ofTask.size
      ? [...index.ofTask.entries()].map(([task, places]) => item(index, task, places))
      : [];
    if (other) {
      const grades = PVRL.gradesOf(other);
      for (const it of found) PVRL.setBeside(it, grades.get(it.task.id) || null);
    }
    found.sort((a, b) => (a.mean === null ? 2 : a.mean) - (b.mean === null ? 2 : b.mean));
    const list = new PVRL.Rows({
      label: "Items",
      open: (it) => it && PVRL.go(it.href),
      draw: itemRow,
    });
    PVRL.list = list;
    requestAnimationFrame(() => list.set(found));
    const flips = other ? PVRL.flips(found, other, (shown) => list.set(shown)) : null;
    const wrong = PVRL.at.samples({ correct: "wrong" });
    return h(
      "section",
      {},
      h("h2", {}, "Items"),
      h(
        "p",
        { class: "soft" },
        `${PVRL.count(found.length, "item")}, wrong ones first. `,
        h("a", { href: wrong }, "Filter the wrong ones"),
      ),
      flips,
      h("div", { class: `listing items${other ? " beside" : ""}` }, list.node),
    );
  }

  function item(index, task, places) {
    const rows = places.flatMap((p) => index.rowsOf(p.step, p.group));
    /* As in every evaluation: what failed by our own fault is wrong. */
    const failed = (r) => index.ends[index.end[r]] === "failed";
    const graded = rows
      .map((r) => (failed(r) ? 0 : index.correct[r]))
      .filter((c) => c !== null);
    const href =
      rows.length === 1 ? index.addressOf(rows[0]) : PVRL.at.group(places[0].step, places[0].group);
    return {
      task: index.tasks[task],
      rows,
      mean: PVRL.mean(graded),
      right: graded.filter(Boolean).length,
      graded: graded.length,
      end: index.ends[index.end[rows[0]]],
      calls: PVRL.mean(rows.map((r) => index.calls[r])),
      href,
    };
  }

  function itemRow(it) {
    const cell = (name, ...content) => h("span", { class: `k-${name}` }, content);
    const one = it.rows.length === 1;
    return h(
      "a",
      { href: it.href },
      cell("correct", one ? PVRL.mark(it.graded ? it.mean : null) : `${it.right}/${it.graded}`),
      it.theirs === undefined ? null : cell("theirs", PVRL.theirMark(it)),
      cell("question", PVRL.bdi(it.task.question)),
      cell("end", PVRL.words(it.task.category || "")),
      cell("kept", one ? PVRL.words(it.end) : ""),
      cell("calls", `${num(it.calls, 1)} calls`),
    );
  }

  function studyResult(run) {
    return [
      h("h1", {}, run.study.title),
      run.study.tables
        ? h("pre", { class: "tables", tabindex: 0 }, PVRL.longText(run.study.tables, 40000))
        : h("p", { class: "soft" }, "This study has no tables yet."),
      run.study.result
        ? h(
            "details",
            { class: "plots" },
            h("summary", {}, h("h2", {}, "The result as it is")),
            PVRL.tree(run.study.result),
          )
        : null,
    ];
  }

  const SMALL = 12;

  /* Nested names and values, folded where there are many. */
  PVRL.tree = function (value, depth = 0) {
    if (value === null || typeof value !== "object")
      return h(
        "span",
        { class: "leaf" },
        value === null
          ? h("span", { class: "soft" }, "–")
          : isNumber(value)
            ? num(value)
            : PVRL.longText(value, 600),
      );
    const entries = Array.isArray(value) ? value.map((v, i) => [i, v]) : Object.entries(value);
    if (!entries.length) return h("span", { class: "soft" }, "none");
    if (Array.isArray(value) && entries.every(([, v]) => v === null || typeof v !== "object"))
      return PVRL.longText(value.join(", "), 600);
    return h(
      "dl",
      { class: "tree" },
      entries.map(([name, v]) => {
        const nested = v !== null && typeof v === "object" && Object.keys(v).length > 0;
        const shown = PVRL.bdi(name);
        if (!nested) return h("div", {}, h("dt", {}, shown), h("dd", {}, PVRL.tree(v, depth + 1)));
        const open = depth < 1 && Object.keys(v).length <= SMALL;
        return h("details", { open }, h("summary", {}, shown), PVRL.tree(v, depth + 1));
      }),
    );
  };

  /* What was run, with what, and how it was configured. */
  PVRL.aboutPage = function ({ run }) {
    const versions = Object.entries(run.versions || {})
      .map(([n, v]) => `${n} ${v}`)
      .join(", ");
    return [
      h("h1", {}, "This run"),
      PVRL.facts(
        [
          ["name", PVRL.bdi(run.name)],
          ["created", run.created],
          ["command", run.command ? h("code", {}, PVRL.longText(run.command)) : null],
          ["versions", versions],
          [
            "pictures",
            run.num_media
              ? `${num(run.num_media.here)} of ${num(run.num_media.named)} are here`
              : run.media,
          ],
        ],
        "facts tall",
      ),
      (run.resumed || []).length
        ? h(
            "section",
            {},
            h("h2", {}, "Resumed"),
            h(
              "ul",
              {},
              run.resumed.map((r) =>
                h("li", {}, `at step ${r.step}, ${r.created} `, h("code", {}, PVRL.bdi(r.command))),
              ),
            ),
          )
        : null,
      run.problems.length
        ? h(
            "section",
            {},
            h("h2", {}, "What could not be read"),
            h(
              "ul",
              {},
              run.problems.map((p) => h("li", {}, PVRL.longText(p, 600))),
            ),
          )
        : null,
      run.events.length
        ? h(
            "section",
            {},
            h("h2", {}, "Events"),
            h(
              "ul",
              { class: "alarms plain" },
              run.events.map((e) =>
                h(
                  "li",
                  { class: /alarm$|failed/.test(e.name) ? "alarm" : "cleared" },
                  h("span", { class: "when" }, e.step === null ? "–" : `step ${e.step}`),
                  h("b", {}, PVRL.words(e.name)),
                  " ",
                  PVRL.longText(e.text, 600),
                ),
              ),
            ),
          )
        : null,
      run.config ? h("section", {}, h("h2", {}, "Configuration"), PVRL.tree(run.config)) : null,
    ];
  };
})();

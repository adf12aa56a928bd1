/* The list of all trajectories: filters, order, count. In: the index and the query of the address.
   Out: nodes; the order of rows that j and k follow. What a filter means is said in filter.js. */
"use strict";
(function () {
  const { h, num } = PVRL;
  const COLUMNS = [
    ["step", "step"],
    ["question", "question"],
    ["correct", ""],
    ["end", "end"],
    ["reward", "reward"],
    ["advantage", "advantage"],
    ["kept", "kept or why not"],
    ["calls", "calls"],
    ["errors", "errors"],
    ["images", "pictures"],
    ["tokens", "tokens"],
    ["seconds", "seconds"],
  ];

  PVRL.samplesPage = function (state, route) {
    const { index } = state;
    const query = Object.fromEntries(route.query);
    const count = h("p", { class: "count", id: "count" });
    const head = h("div", { class: "row head" });
    const list = new PVRL.Rows({
      draw: (row) => rowOf(index, row),
      label: "Trajectories",
      open: (row) => row !== undefined && PVRL.go(index.addressOf(row)),
    });
    let waiting = 0;
    const apply = () => {
      const started = performance.now();
      const rows = PVRL.filter(index, query);
      list.set(rows);
      state.order = rows;
      const all = rows.length === index.size;
      count.textContent = all
        ? `All ${num(rows.length)} trajectories`
        : `${num(rows.length)} of ${num(index.size)} trajectories`;
      drawHead(head, query, change);
      document.documentElement.dataset.filterMs = (performance.now() - started).toFixed(1);
      PVRL.stay(PVRL.at.samples(query));
      clearTimeout(waiting);
      waiting = setTimeout(() => PVRL.say(count.textContent), 500);
    };
    const change = (changes) => {
      for (const [name, value] of Object.entries(changes))
        if (value === "" || value === null) delete query[name];
        else query[name] = value;
      apply();
    };
    const form = filters(index, query, change);
    PVRL.list = list;
    requestAnimationFrame(apply);
    return [
      h("h1", {}, "Trajectories"),
      form,
      h("div", { class: "listing" }, count, head, list.node),
    ];
  };

  function filters(index, query, change) {
    const pick = (name, label, options) =>
      options.length < 2 && !query[name] ? null : selectOf(name, label, options, query, change);
    const named = (names) => names.map((n) => [n, PVRL.words(n) || "(none)"]);
    const search = h("input", {
      type: "search",
      id: "f-q",
      value: query.q || "",
      placeholder: index.answer ? "Words of the question or the answer" : "Words of the question",
      on: { input: () => change({ q: search.value }) },
    });
    const form = h(
      "form",
      { class: "filters", role: "search", on: { submit: (e) => e.preventDefault() } },
      h("div", { class: "field wide" }, h("label", { for: "f-q" }, "Search"), search),
      pick("correct", "Answer", [
        ["right", "right"],
        ["wrong", "wrong"],
        ["none", "not graded"],
      ]),
      pick("end", "End", named(index.ends)),
      pick("kept", "Fate", [["kept", "kept"], ["dropped", "left out"], ...named(index.reasons)]),
      pick("category", "Category", named(index.categories.filter(Boolean))),
      pick("source", "Source", named(index.sources.filter(Boolean))),
      pick("media", "Pictures", [
        ["image", "code showed some"],
        ["none", "code showed none"],
        ["video", "the task has a video"],
      ]),
      rangeOf("step", "Step", query, change),
      rangeOf("reward", "Reward", query, change),
      rangeOf("calls", "Calls", query, change),
      rangeOf("errors", "Errors", query, change),
      h(
        "div",
        { class: "field" },
        PVRL.button("Clear", () => PVRL.go("#samples?"), { class: "small" }),
      ),
    );
    const asked = Object.keys(query).filter((name) => name !== "sort" && name !== "down");
    const narrow = window.innerWidth < 720;
    return h(
      "details",
      { class: "filterbox", open: !narrow || asked.length > 0 },
      h("summary", {}, "Filters"),
      form,
    );
  }

  function selectOf(name, label, options, query, change) {
    const select = h(
      "select",
      { id: `f-${name}`, on: { change: () => change({ [name]: select.value }) } },
      h("option", { value: "" }, "any"),
      options.map(([value, text]) => h("option", { value }, text)),
    );
    select.value = query[name] || "";
    return h("div", { class: "field" }, h("label", { for: `f-${name}` }, label), select);
  }

  function rangeOf(name, label, query, change) {
    const input = (end, told) => {
      const key = `${name}_${end}`;
      const node = h("input", {
        type: "number",
        step: "any",
        value: query[key] || "",
        placeholder: end,
        "aria-label": `${label}, ${told}`,
        on: { input: () => change({ [key]: node.value }) },
      });
      return node;
    };
    const group = h(
      "div",
      { class: "pair" },
      input("min", "at least"),
      "–",
      input("max", "at most"),
    );
    return h(
      "div",
      { class: "field", role: "group", "aria-label": label },
      h("span", { class: "label" }, label),
      group,
    );
  }

  function drawHead(head, query, change) {
    PVRL.replace(
      head,
      COLUMNS.map(([name, label]) => {
        const on = query.sort === name;
        const down = query.down === "1";
        const arrow = on ? (down ? " ↓" : " ↑") : "";
        /* Numbers are wanted largest first; a third click takes the order of the files. */
        const next = !on
          ? { sort: name, down: /step|question|end|kept/.test(name) ? "" : "1" }
          : down === /step|question|end|kept/.test(name)
            ? { sort: "", down: "" }
            : { down: down ? "" : "1" };
        return PVRL.button((label || "✓") + arrow, () => change(next), {
          class: `k-${name}`,
          "aria-label": `Sort by ${label || "correctness"}${on ? (down ? ", now falling" : ", now rising") : ""}`,
        });
      }),
    );
  }

  function rowOf(x, r) {
    const reason = x.reason[r] < 0 ? null : x.reasons[x.reason[r]];
    const cell = (name, ...content) => h("span", { class: `k-${name}` }, content);
    const advantage = x.advantage[r];
    return h(
      "a",
      { href: x.addressOf(r) },
      cell("step", `${x.step[r]}/${x.group[r]}/${x.rollout[r]}`),
      cell("question", PVRL.bdi(x.taskOf(r).question)),
      cell("correct", PVRL.mark(x.correct[r])),
      cell("end", PVRL.words(x.ends[x.end[r]])),
      cell("reward", num(x.reward[r], 2)),
      cell(
        "advantage",
        h(
          "span",
          { class: advantage > 0 ? "good" : advantage < 0 ? "bad" : "" },
          PVRL.signed(advantage, 2),
        ),
      ),
      cell(
        "kept",
        reason === null
          ? h("span", { class: "good" }, "kept")
          : h("span", { class: "soft", title: PVRL.why(reason) }, PVRL.words(reason)),
      ),
      cell("calls", num(x.calls[r])),
      cell("errors", x.errors[r] ? h("span", { class: "bad" }, num(x.errors[r])) : "0"),
      cell("images", num(x.images[r])),
      cell("tokens", num(x.tokens[r])),
      cell("seconds", num(x.seconds[r], 1)),
    );
  }
})();

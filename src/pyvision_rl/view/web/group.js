/* A step's groups, a group's rollouts side by side, and one prompt at two steps.
   In: the index and chunks. Out: nodes. */
"use strict";
(function () {
  const { h, num } = PVRL;

  /* The chunk entry of a group; rejects when its file is not there. */
  PVRL.groupData = async function (index, step, group) {
    const row = index.rowsOf(step, group)[0];
    if (row === undefined) throw new Error(`there is no group ${group} in step ${step}`);
    const { name, stamp } = index.chunks[index.chunk[row]];
    const chunk = await PVRL.need(name, stamp || "");
    const found = chunk.groups.find((g) => g.group === group);
    if (!found) throw new Error(`data/${name}.js has no group ${group}: load the page again`);
    return found;
  };

  PVRL.stepPage = function (state, route) {
    const { index, run } = state;
    const { step } = route;
    const groups = (index.groupsOf.get(step) || []).map((g) => index.summary(step, g));
    if (!groups.length)
      return [
        h("h1", {}, `Step ${step}`),
        h("p", { class: "soft" }, "No trajectories of this step are here."),
      ];
    const sort = route.query.get("sort") || "rank";
    const orders = {
      rank: (g) => g.rank ?? Number.MAX_VALUE /* nothing of it was graded */,
      number: (g) => g.group,
      reward: (g) => -g.mean,
      accuracy: (g) => -g.accuracy,
      calls: (g) => -g.calls,
      kept: (g) => -g.kept,
    };
    const by = orders[sort] || orders.rank;
    groups.sort((a, b) => by(a) - by(b) || a.group - b.group);
    state.order = groups.flatMap((g) => g.rows);
    const select = h(
      "select",
      { id: "step-sort", on: { change: () => PVRL.go(`#${step}?sort=${select.value}`) } },
      [
        ["rank", "spread of rewards"],
        ["number", "number"],
        ["reward", "mean reward"],
        ["accuracy", "accuracy"],
        ["calls", "tool calls"],
        ["kept", "kept"],
      ].map(([value, text]) => h("option", { value }, text)),
    );
    select.value = orders[sort] ? sort : "rank";
    return [
      h("div", { class: "title" }, h("h1", {}, `Step ${step}`), stepLinks(index, step)),
      stepNumbers(run, step),
      stepEvents(run, step),
      h(
        "div",
        { class: "controls" },
        h("label", { for: "step-sort" }, "Groups by"),
        select,
        h(
          "span",
          { class: "soft" },
          `${PVRL.count(groups.length, "group")}; a dot is a rollout, filled when it was kept`,
        ),
      ),
      h("ol", { class: "groups" }, groups.map(groupRow)),
    ];
  };

  function stepLinks(index, step) {
    const steps = index.steps;
    const at = steps.indexOf(step);
    const link = (to, text, label) =>
      to === undefined
        ? h("span", { class: "soft" }, text)
        : h("a", { href: PVRL.at.step(to), "aria-label": label }, text);
    const select = h(
      "select",
      { "aria-label": "Step", on: { change: () => PVRL.go(PVRL.at.step(Number(select.value))) } },
      steps.map((s) => h("option", { value: s }, `step ${s}`)),
    );
    select.value = String(step);
    return h(
      "nav",
      { class: "pager", "aria-label": "Steps" },
      link(steps[at - 1], "←", "the step before"),
      select,
      link(steps[at + 1], "→", "the next step"),
    );
  }

  function stepNumbers(run, step) {
    const at = run.metrics.steps.indexOf(step);
    if (at < 0) return null;
    const wanted = [
      "reward",
      "accuracy",
      "tool_calls",
      "zero_tool_share",
      "sampled_tokens",
      "kept",
      "train_entropy",
      "train_mismatch",
      "sample_s",
      "update_s",
    ];
    return PVRL.facts(
      wanted
        .filter((n) => run.metrics.columns[n])
        .map((n) => [PVRL.words(n), num(PVRL.column(run.metrics, n)[at])]),
    );
  }

  function stepEvents(run, step) {
    const told = run.events.filter((e) => e.step === step);
    if (!told.length) return null;
    return h(
      "ul",
      { class: "alarms plain" },
      told.map((e) =>
        h(
          "li",
          { class: /alarm$|failed/.test(e.name) ? "alarm" : "cleared" },
          h("b", {}, PVRL.words(e.name)),
          " ",
          PVRL.bdi(e.text),
        ),
      ),
    );
  }

  function groupRow(g) {
    const { index } = PVRL.state;
    return h(
      "li",
      {},
      h(
        "a",
        { class: "grouprow", href: PVRL.at.group(g.step, g.group) },
        h(
          "span",
          { class: "rank", title: "Rank by the spread of rewards within the step" },
          g.rank === null ? "–" : g.rank,
        ),
        h(
          "span",
          { class: "q" },
          PVRL.bdi(g.task.question),
          h(
            "span",
            { class: "soft" },
            [g.task.category, g.task.source].filter(Boolean).map(PVRL.words).join(" · "),
          ),
        ),
        h(
          "span",
          { class: "dots", role: "img", "aria-label": dotsTold(index, g.rows) },
          g.rows.map((r) => dot(index, r)),
        ),
        h("span", { class: "n" }, h("small", {}, "reward"), `${num(g.mean, 2)} ± ${num(g.std, 2)}`),
        h("span", { class: "n" }, h("small", {}, "kept"), `${g.kept} / ${g.rows.length}`),
      ),
    );
  }

  function dot(index, r) {
    const c = index.correct[r];
    return h("i", {
      class: `${c === null ? "none" : c ? "good" : "bad"}${index.reason[r] < 0 ? " kept" : ""}`,
    });
  }

  function dotsTold(index, rows) {
    const right = rows.filter((r) => index.correct[r] === 1).length;
    return `${right} of ${rows.length} right`;
  }

  PVRL.groupPage = async function (state, route) {
    const { index } = state;
    const { step, group } = route;
    const data = await PVRL.groupData(index, step, group);
    const numbers = index.groupsOf.get(step);
    state.order = index.rowsOf(step, group);
    const at = numbers.indexOf(group);
    const link = (to, text, label) =>
      to === undefined
        ? h("span", { class: "soft" }, text)
        : h("a", { href: PVRL.at.group(step, to), "aria-label": label }, text);
    const others = index.ofTask.get(index.task[index.rowsOf(step, group)[0]]);
    return [
      h(
        "nav",
        { class: "crumbs", "aria-label": "Where this is" },
        h("a", { href: PVRL.at.step(step) }, `Step ${step}`),
        " › ",
        h("span", { "aria-current": "page" }, `group ${group}`),
      ),
      h(
        "div",
        { class: "title" },
        h("h1", {}, `Group ${group}`),
        h(
          "nav",
          { class: "pager", "aria-label": "Groups" },
          link(numbers[at - 1], "←", "the group before"),
          h("span", { class: "soft" }, `${at + 1} of ${numbers.length}`),
          link(numbers[at + 1], "→", "the next group"),
        ),
      ),
      PVRL.taskCard(data.task),
      h(
        "p",
        { class: "soft" },
        rankTold(data, step),
        others.length > 1
          ? [
              " ",
              h(
                "a",
                {
                  href: PVRL.at.task(
                    data.task.id,
                    `${others[0].step}/${others[0].group}`,
                    `${step}/${group}`,
                  ),
                },
                `The same prompt at ${others.length} places of the run`,
              ),
              ".",
            ]
          : null,
      ),
      PVRL.rolloutCards(data, step),
    ];
  };

  function rankTold(data, step) {
    if (data.std === null) return "Nothing in this group was graded.";
    const rank = data.std_rank === null ? "" : `, rank ${data.std_rank} of step ${step}`;
    return `Rewards differ by a std of ${num(data.std, 3)}${rank}.`;
  }

  /* One prompt at two places of the run, beside each other. */
  PVRL.taskPage = async function (state, route) {
    const { index } = state;
    const number = index.tasks.findIndex((t) => t.id === route.task);
    const places = number < 0 ? [] : index.ofTask.get(number) || [];
    if (!places.length)
      return [
        h("h1", {}, "Task"),
        h("p", {}, "No trajectory of this task is here: ", PVRL.bdi(route.task)),
      ];
    const key = (p) => `${p.step}/${p.group}`;
    const find = (asked, other) => places.find((p) => key(p) === asked) || other;
    const a = find(route.query.get("a"), places[0]);
    const b = find(route.query.get("b"), places[places.length - 1]);
    const sides = await Promise.all([a, b].map((p) => PVRL.groupData(index, p.step, p.group)));
    state.order = [a, b].flatMap((p) => index.rowsOf(p.step, p.group));
    const choose = (side, current) => {
      const select = h(
        "select",
        {
          "aria-label": `The ${side === "a" ? "left" : "right"} group`,
          on: {
            change: () =>
              PVRL.go(
                PVRL.at.task(
                  route.task,
                  side === "a" ? select.value : key(a),
                  side === "b" ? select.value : key(b),
                ),
              ),
          },
        },
        places.map((p) => h("option", { value: key(p) }, `step ${p.step}, group ${p.group}`)),
      );
      select.value = key(current);
      return select;
    };
    return [
      h("h1", {}, "One prompt, two steps"),
      PVRL.taskCard(sides[0].task),
      h(
        "div",
        { class: "compare" },
        [a, b].map((p, i) =>
          h(
            "section",
            { "aria-label": `step ${p.step}` },
            h(
              "div",
              { class: "controls" },
              choose(i ? "b" : "a", p),
              h("a", { href: PVRL.at.group(p.step, p.group) }, "open"),
              summaryOf(index, p),
            ),
            PVRL.rolloutCards(sides[i], p.step),
          ),
        ),
      ),
    ];
  };

  function summaryOf(index, p) {
    const s = index.summary(p.step, p.group);
    return h(
      "span",
      { class: "soft" },
      `reward ${num(s.mean, 2)} ± ${num(s.std, 2)} · accuracy ${PVRL.percent(s.accuracy)} · calls ${num(s.calls, 1)}`,
    );
  }
})();

/* The page of one trajectory: outcome, conversation, tokens, sources, notes.
   In: the address. Out: nodes. Turns are drawn in turns.js, pictures in media.js. */
"use strict";
(function () {
  const { h, num } = PVRL;

  PVRL.trajectoryPage = async function (state, route) {
    const { index } = state;
    const { step, group, rollout } = route;
    const row = index.rowOf(step, group, rollout);
    const data = await PVRL.groupData(index, step, group);
    const t = data.trajectories.find((x) => x.rollout === rollout);
    if (row === undefined || !t)
      throw new Error(`there is no rollout ${rollout} in group ${group} of step ${step}`);
    if (!state.order.includes(row)) state.order = index.rowsOf(step, group);
    const turns = t.turns.map((turn, i) => PVRL.turnView(turn, i + 1));
    return [
      crumbs(step, group, rollout),
      h(
        "div",
        { class: "title" },
        h("h1", {}, `Rollout ${rollout}`),
        PVRL.mark(t.reward ? t.reward.correct : null),
        pager(state, row),
      ),
      h(
        "div",
        { class: "twosided" },
        h(
          "div",
          { class: "talk" },
          views(index, row, turns),
          h("div", { class: "rawtext", hidden: true }),
          h("div", { class: "turns" }, t.prompt.map(PVRL.messageView), turns, ending(t)),
        ),
        h(
          "aside",
          { class: "side", "aria-label": "Outcome, tokens, sources and notes" },
          outcome(data, t),
          tokens(state, t),
          sources(data.task, t),
          card("Notes", PVRL.notesPanel(state, { step, task: data.task.id, rollout })),
        ),
      ),
    ];
  };

  const card = (title, ...content) => h("section", { class: "card" }, h("h2", {}, title), content);

  function crumbs(step, group, rollout) {
    return h(
      "nav",
      { class: "crumbs", "aria-label": "Where this is" },
      h("a", { href: PVRL.at.step(step) }, `Step ${step}`),
      " › ",
      h("a", { href: PVRL.at.group(step, group) }, `group ${group}`),
      " › ",
      h("span", { "aria-current": "page" }, `rollout ${rollout}`),
    );
  }

  function pager(state, row) {
    const { index, order } = state;
    const at = order.indexOf(row);
    const link = (to, text, label) =>
      to === undefined
        ? h("span", { class: "soft" }, text)
        : h("a", { href: index.addressOf(to), "aria-label": label }, text);
    return h(
      "nav",
      { class: "pager", "aria-label": "Trajectories" },
      link(order[at - 1], "←", "the one before (k)"),
      h("span", { class: "soft" }, `${num(at + 1)} of ${num(order.length)}`),
      link(order[at + 1], "→", "the next one (j)"),
    );
  }

  /* Other ways to read the same turns, each loaded when it is asked for. */
  function views(index, row, turns) {
    const problem = h("span", { class: "soft small", role: "status" });
    const raw = PVRL.toggle("Raw text", async (on) => {
      const place = document.querySelector(".rawtext");
      place.hidden = !on;
      document.querySelector(".turns").hidden = on;
      if (on && !place.childNodes.length)
        await withSegments(index, row, problem, (list) =>
          place.append(...list.map(PVRL.rawSegment)),
        );
    });
    const shade = PVRL.toggle("Log-probabilities", async (on) => {
      for (const node of turns) {
        node.querySelector(".written").hidden = on;
        node.querySelector(".extra").hidden = !on;
      }
      if (!on || turns.every((node) => node.querySelector(".extra").childNodes.length)) return;
      await withSegments(index, row, problem, (list) => {
        const sampled = list.filter((s) => s.sampled);
        turns.forEach((node, i) =>
          node
            .querySelector(".extra")
            .append(
              sampled[i]
                ? PVRL.shaded(sampled[i])
                : h("p", { class: "soft" }, "Its tokens were not written."),
            ),
        );
      });
      if (turns.some((node) => !node.querySelector(".extra").childNodes.length))
        for (const node of turns) node.querySelector(".written").hidden = false;
    });
    return h("div", { class: "controls" }, raw, shade, problem);
  }

  async function withSegments(index, row, problem, use) {
    try {
      const list = await PVRL.segments(index, row);
      if (list === null) problem.textContent = "The tokens of this run are not here.";
      else use(list);
    } catch (error) {
      problem.textContent = error.message;
    }
  }

  function ending(t) {
    const told = h("b", {}, PVRL.words(t.end));
    return h(
      "p",
      { class: `ending ${t.end === "answered" ? "" : "early"}` },
      "Ended: ",
      told,
      t.error ? [". ", PVRL.bdi(t.error)] : null,
    );
  }

  function outcome(data, t) {
    const most = Math.max(1e-9, ...data.trajectories.map((x) => Math.abs(x.advantage || 0)));
    const top = Math.max(1, ...data.trajectories.map((x) => (x.reward ? x.reward.total : 0)));
    return card(
      "Outcome",
      PVRL.facts([
        [
          "answer",
          t.answer === null ? h("span", { class: "soft" }, "none") : PVRL.longText(t.answer, 600),
        ],
        ["reference", PVRL.longText(data.task.gold, 600)],
        ["decided", t.reward && t.reward.why ? PVRL.longText(t.reward.why, 600) : null],
        ["by", t.reward && t.reward.rung ? PVRL.words(t.reward.rung) : null],
        ["end", PVRL.words(t.end)],
        ["error", t.error ? PVRL.longText(t.error, 600) : null],
      ]),
      PVRL.rewardBars(t.reward, top),
      PVRL.advantageBar(t.advantage, most),
      PVRL.fate(t),
      h(
        "p",
        { class: "soft small" },
        `group std ${num(data.std, 3)}${data.std_rank ? `, rank ${data.std_rank} of the step` : ""}${t.weights_step === null ? "" : ` · weights of step ${t.weights_step}`}`,
      ),
    );
  }

  function tokens(state, t) {
    const rollout = state.run.config && state.run.config.rollout;
    const bar = PVRL.contextBar(t, rollout ? rollout.max_context_tokens : null);
    return bar ? card("Tokens", bar) : null;
  }

  function sources(task, t) {
    const maps = PVRL.cropMaps(t);
    const lines = PVRL.timelines(task, t);
    if (!maps.length && !lines.length) return null;
    return card("Where it looked", maps, lines);
  }
})();

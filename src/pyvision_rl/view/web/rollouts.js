/* A task, and the rollouts of its group side by side: answer, reward by part, advantage, and why it
   was kept or not. In: TASK and TRAJECTORY records of a chunk. Out: nodes. */
"use strict";
(function () {
  const { h, num } = PVRL;

  function taskCard(task) {
    return h(
      "section",
      { class: "task", "aria-label": "The task" },
      h(
        "div",
        { class: "taskmedia" },
        task.media.map((m) => PVRL.mediaView(m, { small: true })),
      ),
      h(
        "div",
        {},
        h("p", { class: "question" }, PVRL.longText(task.question)),
        PVRL.facts([
          ["reference", PVRL.longText(task.gold)],
          ["type", PVRL.words(task.answer_type)],
          ["category", task.category && PVRL.bdi(task.category)],
          ["source", task.source && PVRL.bdi(task.source)],
          ["task", PVRL.bdi(task.id)],
        ]),
        task.facts && Object.keys(task.facts).length
          ? h(
              "details",
              { class: "small" },
              h("summary", {}, "What a scorer was told"),
              PVRL.tree(task.facts),
            )
          : null,
      ),
    );
  }
  PVRL.taskCard = taskCard;

  /* The rollouts of a group side by side. */
  PVRL.rolloutCards = function (data, step) {
    const most = Math.max(1e-9, ...data.trajectories.map((t) => Math.abs(t.advantage || 0)));
    const top = Math.max(1, ...data.trajectories.map((t) => (t.reward ? t.reward.total : 0)));
    return h(
      "ul",
      { class: "rollouts" },
      data.trajectories.map((t) => card(t, step, data.group, most, top)),
    );
  };

  function card(t, step, group, most, top) {
    const shown = t.turns.flatMap((turn) => (turn.execution ? turn.execution.images : []));
    const calls = t.turns.filter((turn) => turn.execution);
    const bad = calls.filter((turn) => turn.execution.status !== "ok").length;
    return h(
      "li",
      { class: `rollout ${t.kept ? "kept" : "dropped"}` },
      h(
        "a",
        { class: "open", href: PVRL.at.trajectory(step, group, t.rollout) },
        h("span", { class: "rolloutname" }, `Rollout ${t.rollout}`),
        PVRL.mark(t.reward ? t.reward.correct : null),
      ),
      h(
        "p",
        { class: "answer" },
        t.answer === null
          ? h("span", { class: "soft" }, PVRL.words(t.end))
          : PVRL.longText(t.answer, 200),
      ),
      PVRL.rewardBars(t.reward, top),
      PVRL.advantageBar(t.advantage, most),
      fate(t),
      h(
        "p",
        { class: "soft small" },
        [
          PVRL.count(calls.length, "call"),
          bad ? `${bad} failed` : null,
          PVRL.count(
            t.turns.reduce((n, turn) => n + turn.tokens, 0),
            "token",
          ),
          PVRL.words(t.end),
        ]
          .filter(Boolean)
          .join(" · "),
      ),
      shown.length
        ? h(
            "div",
            { class: "strip" },
            shown.slice(0, 4).map((m) => PVRL.mediaView(m, { small: true, bare: true })),
            shown.length > 4
              ? h(
                  "a",
                  { class: "small", href: PVRL.at.trajectory(step, group, t.rollout) },
                  `and ${shown.length - 4} more`,
                )
              : null,
          )
        : null,
    );
  }

  function fate(t) {
    return t.kept
      ? h("p", { class: "fate" }, h("span", { class: "chip good" }, "kept"))
      : h(
          "p",
          { class: "fate" },
          h("span", { class: "chip warn" }, PVRL.words(t.reason || "left out")),
          " ",
          h("span", { class: "soft small" }, PVRL.why(t.reason || "")),
        );
  }
  PVRL.fate = fate;

  PVRL.rewardBars = function (reward, top) {
    if (!reward) return h("p", { class: "soft small" }, "not graded");
    const bars = Object.entries(reward.parts).map(([name, value], i) =>
      h(
        "div",
        { class: `part c${i % 8}` },
        h("span", {}, PVRL.words(name)),
        h(
          "span",
          { class: "track" },
          h("i", {
            class: value < 0 ? "minus" : "",
            css: { width: `${Math.min(100, (100 * Math.abs(value)) / top)}%` },
          }),
        ),
        h("span", { class: "n" }, num(value, 2)),
      ),
    );
    return h(
      "div",
      { class: "parts" },
      bars,
      h(
        "div",
        { class: "part total" },
        h("span", {}, "reward"),
        h("span", {}),
        h("span", { class: "n" }, num(reward.total, 2)),
      ),
    );
  };

  /* To the right of the middle is above the group's baseline. */
  PVRL.advantageBar = function (advantage, most) {
    const known = typeof advantage === "number";
    const width = known ? (50 * Math.abs(advantage)) / most : 0;
    return h(
      "div",
      { class: "part advantage" },
      h("span", {}, "advantage"),
      h(
        "span",
        { class: "track middle" },
        known
          ? h("i", {
              class: advantage < 0 ? "bad" : "good",
              css: { width: `${width}%`, left: `${advantage < 0 ? 50 - width : 50}%` },
            })
          : null,
      ),
      h("span", { class: "n" }, known ? PVRL.signed(advantage, 2) : "–"),
    );
  };
})();

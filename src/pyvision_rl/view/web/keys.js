/* The keyboard. In: key presses outside of fields. Out: places to go to, and the list of keys.
   Keys with Ctrl, Alt or Meta are the browser's. */
"use strict";
(function () {
  const { h } = PVRL;
  const TOLD = [
    ["j / k", "next or previous trajectory, or row of a list"],
    ["J / K", "next or previous group"],
    ["g", "the step of what is shown"],
    ["u", "one level up"],
    ["[ / ]", "previous or next step"],
    ["t", "training"],
    ["l", "list of trajectories"],
    ["/", "search"],
    ["Enter", "open the active row"],
    ["Esc", "close, or leave a field"],
    ["?", "this list"],
  ];

  function help() {
    const dialog = document.getElementById("keys");
    PVRL.replace(
      dialog,
      h(
        "header",
        {},
        h("h2", { id: "keys-title" }, "Keys"),
        h("span", { class: "push" }),
        PVRL.button("Close", () => dialog.close(), { class: "small" }),
      ),
      h(
        "dl",
        { class: "keys" },
        TOLD.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what))),
      ),
    );
    dialog.showModal();
  }

  function here() {
    return PVRL.route(location.hash);
  }

  function sample(by) {
    const { index, order } = PVRL.state;
    const at = here();
    if (at.page !== "trajectory") {
      if (PVRL.list && PVRL.list.node.isConnected) PVRL.list.move(by);
      else if (order.length && at.page !== "training" && at.page !== "")
        PVRL.go(index.addressOf(order[0]));
      return;
    }
    const next = order[order.indexOf(index.rowOf(at.step, at.group, at.rollout)) + by];
    if (next !== undefined) PVRL.go(index.addressOf(next));
  }

  function group(by) {
    const { index } = PVRL.state;
    const at = here();
    if (at.group === undefined) return;
    const groups = index.groupsOf.get(at.step) || [];
    const next = groups[groups.indexOf(at.group) + by];
    if (next === undefined) return;
    const rows = index.rowsOf(at.step, next);
    PVRL.go(at.page === "trajectory" ? index.addressOf(rows[0]) : PVRL.at.group(at.step, next));
  }

  function step(by) {
    const steps = PVRL.state.index.steps;
    const at = here();
    const next =
      steps[at.step === undefined ? (by > 0 ? 0 : steps.length - 1) : steps.indexOf(at.step) + by];
    if (next !== undefined) PVRL.go(PVRL.at.step(next));
  }

  function up() {
    const at = here();
    if (at.page === "trajectory") PVRL.go(PVRL.at.group(at.step, at.group));
    else if (at.page === "group") PVRL.go(PVRL.at.step(at.step));
    else PVRL.go("#training");
  }

  async function search() {
    if (here().page !== "samples") {
      const gone = new Promise((done) =>
        window.addEventListener("hashchange", done, { once: true }),
      );
      PVRL.go("#samples");
      await gone;
    }
    await PVRL.drawn();
    const box = document.querySelector(".filterbox");
    if (box) box.open = true;
    const field = document.getElementById("f-q");
    if (field) field.focus();
  }

  function open() {
    const list = PVRL.list;
    if (!list || !list.node.isConnected) return false;
    const row = list.node.querySelector(".row.active");
    if (row) PVRL.go(row.getAttribute("href"));
    return Boolean(row);
  }

  const ACTS = {
    j: () => sample(1),
    k: () => sample(-1),
    J: () => group(1),
    K: () => group(-1),
    g: () => {
      const at = here();
      if (at.step !== undefined) PVRL.go(PVRL.at.step(at.step));
      else step(1);
    },
    u: up,
    "[": () => step(-1),
    "]": () => step(1),
    t: () => PVRL.go("#training"),
    l: () => PVRL.go("#samples"),
    "/": search,
    "?": help,
    Enter: open,
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]"))
      return;
    const field = event.target.closest("input, textarea, select");
    if (field) {
      if (event.key === "Escape") field.blur();
      return;
    }
    if (event.key === "Enter" && event.target.closest("a, button, summary, .rows")) return;
    if (!PVRL.state || !Object.hasOwn(ACTS, event.key)) return;
    if (event.key !== "Enter") event.preventDefault();
    ACTS[event.key]();
  });

  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("help").addEventListener("click", help);
    for (const dialog of document.querySelectorAll("dialog"))
      dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  });
})();

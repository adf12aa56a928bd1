/* How another run did on the same items: what both, one of them or none had right.
   In: items of the evaluation page, and data/other.js. Out: the counts, as buttons that choose what
   the list shows. Tests nothing: `pvrl compare` does. */
"use strict";
(function () {
  const { h } = PVRL;

  /* An item of several samples is right where more than half of them are. */
  const right = ([good, graded]) => good > graded / 2;

  /* Of data/other.js: task id -> [right, graded]. */
  PVRL.gradesOf = (other) => new Map(other.tasks.map(([id, good, graded]) => [id, [good, graded]]));

  /* Notes on an item what the other run made of it; `theirs` is null where it has no grade. */
  PVRL.setBeside = function (it, known) {
    it.theirs = known && known[1] ? known : null;
    const mine = it.graded ? right([it.right, it.graded]) : null;
    const their = it.theirs ? right(it.theirs) : null;
    if (mine === null || their === null) it.flip = "alone";
    else if (mine) it.flip = their ? "both" : "mine";
    else it.flip = their ? "theirs" : "none";
  };

  PVRL.theirMark = function ({ theirs }) {
    if (!theirs) return h("span", { class: "soft" }, "–");
    return theirs[1] === 1 ? PVRL.mark(theirs[0]) : `${theirs[0]}/${theirs[1]}`;
  };

  PVRL.flips = function (items, other, show) {
    const name = () => PVRL.bdi(other.name);
    const kinds = [
      ["", "all"],
      ["mine", "only this run right"],
      ["theirs", ["only ", name(), " right"]],
      ["both", "both right"],
      ["none", "both wrong"],
      ["alone", "graded in one only"],
    ];
    const counted = (kind) => items.filter((it) => !kind || it.flip === kind);
    const buttons = kinds
      .map(([kind, words]) => [kind, words, counted(kind)])
      .filter(([kind, , found]) => !kind || found.length)
      .map(([kind, words, found]) =>
        h(
          "button",
          {
            type: "button",
            class: "flip",
            "aria-pressed": String(!kind),
            on: {
              click: (event) => {
                for (const b of event.currentTarget.parentNode.children)
                  b.setAttribute("aria-pressed", String(b === event.currentTarget));
                show(found);
                PVRL.say(PVRL.count(found.length, "item"));
              },
            },
          },
          h("b", {}, PVRL.num(found.length)),
          " ",
          words,
        ),
      );
    const common = items.filter((it) => it.flip !== "alone");
    const share = (of) => PVRL.percent(PVRL.mean(common.map(of)), 1);
    const told = common.length
      ? [
          `On ${PVRL.count(common.length, "common item")} the mean of this run is `,
          `${share((it) => it.mean)}, that of `,
          name(),
          ` ${share((it) => it.theirs[0] / it.theirs[1])}. Marks: this run, then the other. `,
          h("code", {}, "pvrl compare"),
          " tests the difference.",
        ]
      : ["No item has a grade in both this run and ", name(), "."];
    return [
      h("p", { class: "soft" }, told),
      h("div", { class: "flips", role: "group", "aria-label": "Which items" }, buttons),
    ];
  };
})();

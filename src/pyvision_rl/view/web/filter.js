/* Which trajectories are asked for, and in which order. In: the index and a query (texts by name,
   as they stand in the address). Out: row numbers. Pure; 10,000 rows take a few milliseconds. */
"use strict";
(function () {
  /* name -> the value of a row; what a list may be sorted by. */
  const SORTS = {
    step: (x, r) => x.step[r],
    group: (x, r) => x.group[r],
    question: (x, r) => x.taskOf(r).question,
    end: (x, r) => x.ends[x.end[r]],
    correct: (x, r) => x.correct[r],
    reward: (x, r) => x.reward[r],
    advantage: (x, r) => x.advantage[r],
    std: (x, r) => (x.std ? x.std[r] : null),
    kept: (x, r) => (x.reason[r] < 0 ? "" : x.reasons[x.reason[r]]),
    calls: (x, r) => x.calls[r],
    errors: (x, r) => x.errors[r],
    turns: (x, r) => x.turns[r],
    tokens: (x, r) => x.tokens[r],
    visual: (x, r) => x.visual[r],
    images: (x, r) => x.images[r],
    seconds: (x, r) => x.seconds[r],
  };
  PVRL.sorts = Object.keys(SORTS);

  /* Rows that the query asks for, sorted as it says. */
  PVRL.filter = function (index, query) {
    const tests = testsOf(index, query);
    const rows = [];
    for (let row = 0; row < index.size; row++) {
      let good = true;
      for (let i = 0; good && i < tests.length; i++) good = tests[i](row);
      if (good) rows.push(row);
    }
    return sorted(index, rows, query.sort || "", query.down === "1");
  };

  function testsOf(x, query) {
    const tests = [];
    const add = (test) => test && tests.push(test);
    add(fromList(x.end, x.ends, query.end));
    add(fromList(x.category, x.categories, query.category));
    add(fromList(x.source, x.sources, query.source));
    add(grade(x.correct, query.correct));
    add(fate(x, query.kept));
    for (const name of ["step", "reward", "calls", "errors", "turns", "images", "tokens"])
      add(between(x[name], query[`${name}_min`], query[`${name}_max`]));
    if (query.media === "image") add((r) => x.images[r] > 0);
    if (query.media === "none") add((r) => x.images[r] === 0);
    if (query.media === "video") add((r) => x.taskOf(r).video === true);
    add(text(x, query.q));
    return tests;
  }

  function fromList(column, names, wanted) {
    if (wanted === undefined || wanted === "") return null;
    const at = names.indexOf(wanted);
    return (r) => column[r] === at;
  }

  function grade(correct, wanted) {
    const value = { right: 1, wrong: 0, none: null }[wanted];
    return value === undefined ? null : (r) => correct[r] === value;
  }

  function fate(x, wanted) {
    if (!wanted) return null;
    if (wanted === "kept") return (r) => x.reason[r] === -1;
    if (wanted === "dropped") return (r) => x.reason[r] !== -1;
    const at = x.reasons.indexOf(wanted);
    return (r) => x.reason[r] === at;
  }

  function between(column, low, high) {
    const min = low === undefined || low === "" ? null : Number(low);
    const max = high === undefined || high === "" ? null : Number(high);
    if ((min === null || Number.isNaN(min)) && (max === null || Number.isNaN(max))) return null;
    return (r) => {
      const v = column[r];
      return v !== null && !(min !== null && v < min) && !(max !== null && v > max);
    };
  }

  /* Every word must be in the question, the id, or the answer as far as the index has it. */
  function text(x, asked) {
    const words = (asked || "").toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return null;
    if (!x.haystacks) x.haystacks = x.tasks.map((t) => `${t.question}\n${t.id}`.toLowerCase());
    const missing = x.haystacks.map((hay) => words.filter((word) => !hay.includes(word)));
    return (r) => {
      const left = missing[x.task[r]];
      if (!left.length) return true;
      const answer = x.answer && x.answer[r];
      return Boolean(answer) && left.every((word) => answer.toLowerCase().includes(word));
    };
  }

  /* Unknown values stand last whichever way; equal ones as in the files. */
  function sorted(x, rows, name, down) {
    const read = SORTS[name];
    if (!read) return rows;
    const values = new Map(rows.map((r) => [r, read(x, r)]));
    const sign = down ? -1 : 1;
    return rows.sort((a, b) => {
      const [p, q] = [values.get(a), values.get(b)];
      if (p === null || q === null) return (p === null) - (q === null) || a - b;
      return p < q ? -sign : p > q ? sign : a - b;
    });
  }
})();

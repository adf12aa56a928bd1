/* The index of all trajectories, with the ways into it.
   In: the columns of data/index.js. Out: rows (numbers into the columns) by step, group, task and
   key, and for each group the spread of its rewards and its rank within the step. Reads no chunk. */
"use strict";
(function () {
  PVRL.Index = class {
    constructor(columns) {
      Object.assign(this, columns);
      this.size = columns.step.length;
      this.byKey = new Map();
      this.groupsOf = new Map();
      this.ofTask = new Map();
      this.groups = new Map();
      for (let row = 0; row < this.size; row++) this._file(row);
      this._ranks = new Map();
    }

    _file(row) {
      const step = this.step[row];
      const key = `${step}/${this.group[row]}`;
      this.byKey.set(`${key}/${this.rollout[row]}`, row);
      if (!this.groups.has(key)) {
        this.groups.set(key, []);
        if (!this.groupsOf.has(step)) this.groupsOf.set(step, []);
        this.groupsOf.get(step).push(this.group[row]);
        const task = this.task[row];
        if (!this.ofTask.has(task)) this.ofTask.set(task, []);
        this.ofTask.get(task).push({ step, group: this.group[row] });
      }
      this.groups.get(key).push(row);
    }

    get steps() {
      return [...this.groupsOf.keys()].sort((a, b) => a - b);
    }

    rowsOf(step, group) {
      return this.groups.get(`${step}/${group}`) || [];
    }

    rowOf(step, group, rollout) {
      return this.byKey.get(`${step}/${group}/${rollout}`);
    }

    taskOf(row) {
      return this.tasks[this.task[row]];
    }

    addressOf(row) {
      return PVRL.at.trajectory(this.step[row], this.group[row], this.rollout[row]);
    }

    /* What a group's rewards say: numbers over its graded members. */
    summary(step, group) {
      const rows = this.rowsOf(step, group);
      const rewards = rows.map((r) => this.reward[r]).filter((x) => x !== null);
      const graded = rows.filter((r) => this.correct[r] !== null);
      return {
        step,
        group,
        rows,
        task: this.taskOf(rows[0]),
        mean: mean(rewards),
        std: std(rewards),
        accuracy: graded.length ? mean(graded.map((r) => this.correct[r])) : null,
        calls: mean(rows.map((r) => this.calls[r])),
        kept: rows.filter((r) => this.reason[r] === -1).length,
        rank: this.rank(step, group),
      };
    }

    /* 1 is the group whose rewards spread most in its step, equal ones share a rank; null without
       rewards. */
    rank(step, group) {
      if (!this._ranks.has(step)) {
        /* Of the index, not computed again: equal ones must be equal to the last bit. */
        const found = (this.groupsOf.get(step) || []).map((g) => [
          g,
          this.std[this.rowsOf(step, g)[0]],
        ]);
        const known = found.map(([, s]) => s).filter((s) => s !== null);
        known.sort((a, b) => b - a);
        this._ranks.set(
          step,
          new Map(found.map(([g, s]) => [g, s === null ? null : known.indexOf(s) + 1])),
        );
      }
      return this._ranks.get(step).get(group);
    }
  };

  function mean(values) {
    return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
  }

  function std(values) {
    const middle = mean(values);
    return middle === null ? null : Math.sqrt(mean(values.map((x) => (x - middle) ** 2)));
  }

  PVRL.mean = mean;
  PVRL.std = std;

  /* Why selection left a trajectory out, in words (docs/selection.md). */
  const WHY = {
    infra: "failed by our own fault; never trained on",
    ungraded: "it has no grade",
    over_length: "cut off by the token or image limit",
    no_tool_image: "no tool showed a picture",
    end_reason: "it ended in a way that is not kept",
    malformed: "too many malformed turns",
    correct_negative_advantage: "right, and yet below its group's baseline",
    zero_std: "the rewards of its group do not differ: nothing to learn",
    too_small: "too few of its group survived the filters",
    surplus: "its group was ranked below those the step had room for",
    stale: "carried on for too many steps",
    carried: "offered again to the next step",
  };
  PVRL.why = (reason) => WHY[reason] || `left out by ${PVRL.words(reason)}`;
})();

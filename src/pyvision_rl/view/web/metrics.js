/* Which numbers of a run belong into one plot, and in which order. In: the names of metrics. Out:
   sections of plots; a name that is not known here gets a plot of its own under "More". */
"use strict";
(function () {
  /* [title, [names or a prefix ending in *], options] */
  const SECTIONS = [
    [
      "Learning",
      [
        ["Reward", ["reward"]],
        ["Reward, by part", ["reward_*"]],
        ["Accuracy", ["accuracy", "eval_accuracy"], { labels: ["training", "held out"], share: 1 }],
        ["Accuracy, by category", ["accuracy_*"], { share: 1 }],
        [
          "Held-out accuracy, by category",
          ["eval_accuracy_*"],
          { share: 1, not: ["eval_accuracy_se"] },
        ],
        [
          "Accuracy with and without a call",
          ["correct_with_tool", "correct_without_tool"],
          { share: 1, labels: ["with", "without"] },
        ],
      ],
    ],
    [
      "Looking",
      [
        [
          "Tool calls",
          ["tool_calls", "executions", "eval_tool_calls"],
          { labels: ["calls", "code run", "held out"] },
        ],
        ["Share without a call", ["zero_tool_share"], { share: 1 }],
        ["Share with a call", ["tool_share"], { share: 1 }],
        ["Tool calls, by category", ["tool_calls_*"]],
        ["Malformed turns", ["malformed_share"]],
        ["Pictures and turns", ["images", "turns"]],
        [
          "Frames of videos",
          ["frames_fetched", "frames_shown", "frames_unique"],
          { labels: ["fetched", "shown", "distinct"] },
        ],
        ["Share of the video seen", ["video_share"], { share: 1 }],
      ],
    ],
    [
      "Episodes",
      [
        ["How episodes end", ["end_*"], { stacked: true, share: 1 }],
        ["Sampled tokens", ["sampled_tokens"]],
        ["Given tokens", ["text_tokens", "visual_tokens"], { labels: ["text", "visual"] }],
        [
          "Kept and dropped",
          ["kept", "dropped_*", "carried_out"],
          { stacked: true, hint: "Trajectories of the step, by what selection made of them" },
        ],
        ["Groups", ["groups", "groups_trained"], { labels: ["rolled out", "trained on"] }],
        [
          "Groups all right, all wrong",
          ["groups_all_right", "groups_all_wrong"],
          { share: 1, labels: ["all right", "all wrong"] },
        ],
        [
          "Right, and pushed down",
          ["correct_negative_advantage"],
          { hint: "Right answers with a negative advantage in the batch" },
        ],
        ["Time limits met", ["time_limits"]],
      ],
    ],
    [
      "Optimisation",
      [
        ["Entropy", ["train_entropy"], { hint: "Mean over sampled tokens, nats" }],
        [
          "Mismatch",
          ["train_mismatch"],
          { log: true, hint: "Largest |log-probability at sampling − at training|" },
        ],
        ["Mismatch, divergence", ["train_mismatch_kl"], { log: true }],
        ["Effective share", ["train_effective_share"], { share: 1 }],
        ["Loss", ["train_loss", "loss", "eval_loss"], { labels: ["loss", "loss", "held out"] }],
        ["Gradient norm", ["train_grad_norm", "grad_norm"]],
        [
          "Divergence",
          ["train_approx_kl", "train_kl_reference"],
          { labels: ["from sampling", "from the reference"] },
        ],
        ["Clipped share", ["train_clip_fraction"]],
        ["Learning rate", ["train_learning_rate", "learning_rate"]],
        [
          "Seconds per step",
          ["sample_s", "update_s", "eval_s"],
          { stacked: true, labels: ["sampling", "update", "evaluation"] },
        ],
        [
          "GPU memory at most, GiB",
          ["sample_gib", "update_gib", "step_gib"],
          { labels: ["sampling", "update", "step"] },
        ],
      ],
    ],
  ];

  /* Sections with the names that a run has; `names` in its order. */
  PVRL.plots = function (names) {
    const left = new Set(names);
    const sections = SECTIONS.map(([title, plots]) => ({
      title,
      plots: plots.map((plot) => taken(plot, left, names)).filter(Boolean),
    }));
    const rest = [...left].map((name) => ({
      title: PVRL.words(name),
      names: [{ name, label: name }],
    }));
    sections.push({ title: "More", plots: rest, folded: true });
    return sections.filter((section) => section.plots.length);
  };

  function taken([title, patterns, options = {}], left, names) {
    const found = [];
    patterns.forEach((pattern, i) => {
      const label = options.labels ? options.labels[i] : null;
      for (const name of matching(pattern, names, options.not || []))
        if (left.delete(name)) found.push({ name, label: label || labelOf(pattern, name) });
    });
    return found.length ? { title, names: found, ...options } : null;
  }

  function matching(pattern, names, not) {
    if (!pattern.endsWith("*")) return names.includes(pattern) ? [pattern] : [];
    const prefix = pattern.slice(0, -1);
    return names.filter((name) => name.startsWith(prefix) && !not.includes(name));
  }

  const labelOf = (pattern, name) =>
    PVRL.words(pattern.endsWith("*") ? name.slice(pattern.length - 1) : name);

  /* The column of a metric as numbers; what is no finite number is a gap. */
  PVRL.column = (metrics, name) =>
    (metrics.columns[name] || []).map((v) =>
      typeof v === "number" && Number.isFinite(v) ? v : null,
    );
})();

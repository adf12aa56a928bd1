/* Tokens: how full the context is, how sure the policy was, and the text as it was written with its
   special tokens. In: a trajectory and, on demand, its token file. Out: nodes. */
"use strict";
(function () {
  const { h, num } = PVRL;

  /* Segments of one trajectory; null where the run wrote none. */
  PVRL.segments = async function (index, row) {
    const entry = index.chunks[index.chunk[row]];
    if (!entry.tokens) return null;
    const file = await PVRL.need(entry.tokens, entry.stamp || "");
    return file.trajectories[index.at[row]] || null;
  };

  /* What was given and sampled, in the order it was read. */
  function pieces(trajectory) {
    const found = [];
    const add = (kind, tokens, turn) => tokens && found.push({ kind, tokens, turn });
    if (trajectory.prompted) {
      add("text", trajectory.prompted.text, -1);
      add("visual", trajectory.prompted.visual, -1);
    }
    trajectory.turns.forEach((turn, t) => {
      add("sampled", turn.tokens, t);
      add("text", turn.observed.text, t);
      add("visual", turn.observed.visual, t);
    });
    return found;
  }

  PVRL.contextBar = function (trajectory, max) {
    const list = pieces(trajectory);
    const total = list.reduce((n, p) => n + p.tokens, 0);
    if (!total) return null;
    /* A short episode in a large context would be a sliver. */
    const whole = max && total > max / 20 ? Math.max(max, total) : total;
    const sum = (kind) => list.filter((p) => p.kind === kind).reduce((n, p) => n + p.tokens, 0);
    const told = `${num(total)} tokens${max ? ` of ${num(max)} (${PVRL.percent(total / max, 1)})` : ""}`;
    return h(
      "div",
      { class: "context" },
      h(
        "p",
        {},
        h("b", { class: "n" }, num(total)),
        max ? ` of ${num(max)} tokens, ${PVRL.percent(total / max, 1)}` : " tokens",
      ),
      h(
        "div",
        {
          class: "contextbar",
          role: "img",
          "aria-label": `${told}: ${num(sum("sampled"))} sampled, ${num(sum("text"))} text, ${num(sum("visual"))} visual`,
        },
        list.map((p) =>
          h("i", {
            class: p.kind,
            title: `${p.turn < 0 ? "prompt" : `turn ${p.turn + 1}`}: ${num(p.tokens)} ${p.kind}`,
            css: { width: `${(100 * p.tokens) / whole}%` },
          }),
        ),
      ),
      h(
        "p",
        { class: "key soft small" },
        ["sampled", "text", "visual"].map((kind) => [
          h("i", { class: kind }),
          `${kind} ${num(sum(kind))} `,
        ]),
      ),
      perTurn(trajectory),
    );
  };

  function perTurn(trajectory) {
    let sum = trajectory.prompted ? trajectory.prompted.text + trajectory.prompted.visual : 0;
    const line = (name, cells) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, name),
        cells.map((c) => h("td", {}, num(c))),
      );
    const rows = trajectory.prompted
      ? [line("prompt", [null, trajectory.prompted.text, trajectory.prompted.visual, sum])]
      : [];
    trajectory.turns.forEach((turn, t) => {
      sum += turn.tokens + turn.observed.text + turn.observed.visual;
      rows.push(
        line(`turn ${t + 1}`, [turn.tokens, turn.observed.text, turn.observed.visual, sum]),
      );
    });
    const head = ["", "sampled", "text", "visual", "so far"].map((n) =>
      h("th", { scope: "col" }, n),
    );
    return h(
      "div",
      { class: "scroll" },
      h("table", { class: "tight" }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows)),
    );
  }

  const SURE = 0.05;
  const DARKEST = 4;

  /* The tokens of a sampled segment, darker where the policy was less sure. */
  PVRL.shaded = function (segment) {
    if (!segment.logprobs)
      return h("p", { class: "soft" }, "The policy told no log-probabilities.");
    const texts = segment.texts || segment.ids.map((id) => ` ${id} `);
    const node = h("pre", { class: "tokens" });
    texts.forEach((text, i) => {
      const told = segment.logprobs[i];
      const known = typeof told === "number";
      const shown = text === "\n" ? "↵\n" : text;
      const span = h(
        "span",
        {
          class: "tok",
          title: known
            ? `${JSON.stringify(text)}  log-probability ${told.toFixed(3)}, probability ${(100 * Math.exp(told)).toFixed(1)} %`
            : `${JSON.stringify(text)}  ${told}`,
        },
        PVRL.visible(shown),
      );
      if (known && -told > SURE)
        span.style.setProperty("--unsure", Math.min(1, -told / DARKEST).toFixed(3));
      node.append(span);
    });
    const known = segment.logprobs.filter((v) => typeof v === "number");
    const least = known.length ? Math.min(...known.slice(0, 50000)) : null;
    return h(
      "div",
      {},
      node,
      h(
        "p",
        { class: "soft small" },
        `${PVRL.count(texts.length, "token")}, mean log-probability ${num(PVRL.mean(known), 3)}, least ${num(least, 3)}. The redder, the less sure.`,
      ),
    );
  };

  /* A segment as the network read it, special tokens by name. */
  PVRL.rawSegment = function (segment) {
    const who = segment.sampled ? "sampled" : "given";
    const images =
      segment.images && segment.images.length
        ? `, ${PVRL.count(segment.images.length, "image")}`
        : "";
    const body = segment.texts
      ? PVRL.longText(segment.texts.join(""), 8000, special)
      : PVRL.longText(segment.ids.join(" "), 8000);
    return h(
      "div",
      { class: `segment ${who}` },
      h(
        "p",
        { class: "soft small" },
        `${who}, ${PVRL.count(segment.ids.length, "token")}${images}${segment.texts ? "" : "; token ids, since there is no tokenizer here"}`,
      ),
      h("pre", {}, body),
    );
  };

  function special(text) {
    return text
      .split(/(<\|[^|<>]{1,60}\|>)/)
      .map((part) =>
        /^<\|.*\|>$/.test(part) ? h("span", { class: "special" }, part) : PVRL.visible(part),
      );
  }
})();

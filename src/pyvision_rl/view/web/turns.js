/* One turn of an episode: what was written, what its code did, what was read next.
   In: TURN and MESSAGE records. Out: nodes. Takes nothing away: fences and tags are only paler, and
   what the model read word for word is behind a control. */
"use strict";
(function () {
  const { h } = PVRL;
  const STATUS = {
    ok: "ran",
    raised: "raised an error",
    timeout: "interrupted at the time limit",
    killed: "stopped: it ran too long",
    oom: "out of memory",
    died: "the interpreter died",
    violation: "broke the protocol",
  };
  const STOPS = { end: "ended", stop_string: "stopped at </code>", length: "cut off at the limit" };

  PVRL.messageView = function (message) {
    return h(
      "article",
      { class: `message ${message.role === "system" ? "system" : "given"}` },
      h("header", {}, h("b", {}, message.role)),
      h("div", { class: "body" }, partViews(message.parts)),
    );
  };

  /* Pictures with no word between them, as frames of a video are given, stand side by side. */
  function partViews(parts) {
    const views = [];
    let row = [];
    for (const [i, part] of parts.entries()) {
      if (!part.image) {
        views.push(h("div", { class: "prose" }, PVRL.longText(part.text)));
        continue;
      }
      row.push(PVRL.mediaView(part.image));
      if (i + 1 < parts.length && parts[i + 1].image) continue;
      views.push(row.length > 1 ? h("div", { class: "pictures" }, row) : row[0]);
      row = [];
    }
    return views;
  }

  /* One turn; `extra` is told by the page: { raw, shaded } nodes per turn, on demand. */
  PVRL.turnView = function (turn, number) {
    const written = h("div", { class: "body written" }, writtenView(turn));
    const stop = STOPS[turn.stop] || turn.stop;
    return h(
      "article",
      { class: "turn", id: `turn-${number}`, "aria-label": `Turn ${number}` },
      h(
        "header",
        {},
        h("b", {}, `Turn ${number}`),
        h(
          "span",
          { class: "soft" },
          [PVRL.count(turn.tokens, "token"), PVRL.seconds(turn.sample_s), stop].join(" · "),
        ),
        turn.stop === "length" ? h("span", { class: "chip warn" }, "cut off") : null,
      ),
      written,
      h("div", { class: "body extra", hidden: true }),
      turn.action.kind === "malformed"
        ? h("p", { class: "banner bad" }, "Malformed: ", PVRL.bdi(turn.action.why))
        : null,
      turn.execution ? executionView(turn.execution) : null,
      observationView(turn),
    );
  };

  function writtenView(turn) {
    const { text, action } = turn;
    if (action.kind === "code")
      return cutOut(text, text.lastIndexOf(action.code), action.code, codeBlock);
    if (action.kind === "answer" && action.answer) {
      /* Not in the tag behind it: an answer may be one of its letters. */
      const end = text.lastIndexOf("</answer>");
      const before = end < 0 ? text : text.slice(0, end);
      return cutOut(text, before.lastIndexOf(action.answer), action.answer, answerBlock);
    }
    return h("div", { class: "prose" }, PVRL.longText(text));
  }

  /* The text with a part of it drawn otherwise. */
  function cutOut(text, at, part, draw) {
    if (at < 0 || !part) return [h("div", { class: "prose" }, PVRL.longText(text)), draw(part)];
    return [
      pale(text.slice(0, at), /\s*(?:<(?:code|answer)>\s*)?(?:```\w*|\\boxed\{)?\s*$/),
      draw(part),
      pale(text.slice(at + part.length), /^\s*(?:```|\})?\s*(?:<\/(?:code|answer)>)?\s*/),
    ];
  }

  function pale(text, fence) {
    const found = fence.exec(text);
    const mark = found ? found[0] : "";
    const before = found && found.index > 0;
    const prose = before ? text.slice(0, found.index) : text.slice(mark.length);
    const fenced = mark.trim()
      ? h("span", { class: "fence" }, mark.trim().replace(/\s+/g, " "))
      : null;
    const said = prose.trim()
      ? h("div", { class: "prose" }, PVRL.longText(prose.replace(/^\n+|\n+$/g, "")))
      : null;
    return before ? [said, fenced] : [fenced, said];
  }

  function codeBlock(code) {
    const copy = PVRL.button("Copy", () => copied(copy, code), { class: "small copy" });
    const long = code.length > 20000;
    const body = long
      ? PVRL.longText(code, 8000, (text) => PVRL.pythonCode(text))
      : PVRL.pythonCode(code);
    return h(
      "div",
      { class: "code" },
      copy,
      h("pre", { tabindex: 0, "aria-label": "Python code" }, body),
    );
  }

  async function copied(button, text) {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed here";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }

  const answerBlock = (answer) => h("div", { class: "boxed" }, PVRL.longText(answer));

  function executionView(x) {
    const good = x.status === "ok";
    return h(
      "section",
      { class: `execution ${good ? "" : "failed"}`, "aria-label": "What the code did" },
      h(
        "header",
        {},
        h("span", { class: `chip ${good ? "good" : "bad"}` }, STATUS[x.status] || x.status),
        h("span", { class: "soft" }, PVRL.seconds(x.duration_s)),
        x.state_lost ? h("span", { class: "chip warn" }, "variables were lost") : null,
      ),
      outputs(x),
      x.error ? labelled("Error", h("pre", { class: "error" }, PVRL.longText(x.error))) : null,
      (x.fetched || []).map((f) => PVRL.framesLine(`fetched ${PVRL.framesTold(f)}`)),
    );
  }

  const labelled = (name, node) =>
    h("div", { class: "labelled" }, h("span", { class: "label" }, name), node);

  /* In the order things happened, where that is known. */
  function outputs(x) {
    const picture = (i) => PVRL.shownView(x.images[i], `picture ${i + 1}`);
    const text = (t) => labelled("Output", h("pre", {}, PVRL.longText(t)));
    if (!x.parts || !x.parts.length)
      return [
        x.output ? text(x.output) : null,
        x.images.length
          ? h(
              "div",
              { class: "pictures" },
              x.images.map((_, i) => picture(i)),
            )
          : null,
        !x.output && !x.images.length && !x.error ? h("p", { class: "soft" }, "No output.") : null,
      ];
    const found = [];
    let row = null;
    for (const part of x.parts) {
      if (typeof part === "string") {
        if (part) found.push(text(part));
        row = null;
      } else {
        if (!row) found.push((row = h("div", { class: "pictures" })));
        row.append(picture(part));
      }
    }
    return found;
  }

  function observationView(turn) {
    if (!turn.observation) return null;
    const messages = turn.observation.map(PVRL.messageView);
    const tokens = turn.observed.text + turn.observed.visual;
    if (!turn.execution) return h("div", { class: "observation" }, messages);
    return h(
      "details",
      { class: "observation" },
      h("summary", {}, `What the model read next, ${PVRL.count(tokens, "token")}`),
      messages,
    );
  }
})();

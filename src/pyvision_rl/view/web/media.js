/* Pictures and videos: thumbnails, a dialog at native size, where a crop comes from, which frames
   were looked at. In: MEDIA and SHOWN records. Out: nodes. Only PNG and WebP files are ever named,
   and only in <img>. */
"use strict";
(function () {
  const { h, svg, num } = PVRL;

  const size = (m) => `${m.width} × ${m.height}`;

  /* A thumbnail that opens the picture, or what is to be said where there is none.
     boxes: [{box, label}] in the picture's pixels; name: what code calls it. */
  PVRL.mediaView = function (m, { small, bare, boxes, name, caption } = {}) {
    const under = [name, size(m), m.kind === "video" ? videoTold(m) : null]
      .filter(Boolean)
      .join(" · ");
    if (m.kind === "video" || !m.here || !PVRL.picture(m.sha, true))
      return h(
        "figure",
        { class: `pic missing${small ? " small" : ""}` },
        h("div", { class: "none" }, m.kind === "video" ? "▶ video" : "not in this folder"),
        bare ? null : h("figcaption", {}, under),
      );
    const label = `${name || "picture"}, ${size(m)} pixels`;
    const open = h(
      "button",
      {
        type: "button",
        class: "thumb",
        "aria-label": `Open ${label}`,
        on: { click: () => PVRL.zoom(m, { boxes, name }) },
      },
      canvas(m, { boxes, small: true, alt: label }),
    );
    return h(
      "figure",
      { class: `pic${small ? " small" : ""}` },
      open,
      bare ? null : h("figcaption", {}, under, caption || null),
    );
  };

  function videoTold(m) {
    return m.video
      ? `${num(m.video.frames)} frames, ${num(m.video.fps)} per second, ${PVRL.seconds(m.video.seconds)}`
      : null;
  }

  function canvas(m, { boxes, small, alt }) {
    const image = h("img", {
      src: PVRL.picture(m.sha, small),
      alt,
      width: m.width,
      height: m.height,
      loading: "lazy",
      decoding: "async",
      class: m.width < 64 ? "pixels" : null,
    });
    image.addEventListener(
      "error",
      () => image.replaceWith(h("span", { class: "none" }, "this picture cannot be shown")),
      { once: true },
    );
    return h(
      "span",
      { class: "canvas" },
      image,
      (boxes || []).map((b) => boxView(m, b)),
    );
  }

  function boxView(m, { box, label, kind }) {
    const [left, top, right, bottom] = box;
    const css = {
      left: `${(100 * left) / m.width}%`,
      top: `${(100 * top) / m.height}%`,
      width: `${(100 * (right - left)) / m.width}%`,
      height: `${(100 * (bottom - top)) / m.height}%`,
    };
    /* The number stands above what it numbers, where there is room. */
    const up = top > 0.12 * m.height ? "up" : "";
    return h("span", { class: `box ${kind || ""} ${up}`, css }, label ? h("b", {}, label) : null);
  }

  /* The picture in a dialog: fitted, pixel by pixel, or as large as one likes. */
  PVRL.zoom = function (m, { boxes, name } = {}) {
    const dialog = document.getElementById("zoom");
    const inner = canvas(m, { boxes, small: false, alt: `${name || "picture"} at its own size` });
    const stage = h(
      "div",
      { class: "stage", tabindex: 0, role: "region", "aria-label": "Picture; arrow keys move it" },
      inner,
    );
    const told = h("output", {});
    let scale = 1;
    const fit = () => Math.min(1, stage.clientWidth / m.width, stage.clientHeight / m.height) || 1;
    const set = (next) => {
      scale = Math.max(0.05, Math.min(16, next));
      inner.style.width = `${m.width * scale}px`;
      inner.classList.toggle("pixels", scale > 1.5);
      told.textContent = `${Math.round(scale * 100)} %`;
    };
    const keys = {
      "+": () => set(scale * 1.25),
      "=": () => set(scale * 1.25),
      "-": () => set(scale / 1.25),
      0: () => set(fit()),
      1: () => set(1),
    };
    dialog.onkeydown = (event) => {
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    };
    drag(stage);
    const tool = (text, label, key) =>
      PVRL.button(text, keys[key], {
        class: "small",
        "aria-label": label,
        title: `${label} (${key})`,
      });
    PVRL.replace(
      dialog,
      h(
        "header",
        {},
        h("b", {}, name || "picture"),
        h("span", { class: "soft" }, `${size(m)} px`),
        told,
        h("span", { class: "push" }),
        tool("−", "Smaller", "-"),
        tool("Fit", "Fit", "0"),
        tool("1:1", "Own size", "1"),
        tool("+", "Larger", "+"),
        PVRL.button("Close", () => dialog.close(), { class: "small" }),
      ),
      stage,
    );
    dialog.showModal();
    set(
      m.width < 200
        ? Math.min(4, stage.clientWidth / m.width, stage.clientHeight / m.height)
        : fit(),
    );
    stage.focus();
  };

  function drag(stage) {
    let from = null;
    stage.addEventListener("pointerdown", (e) => {
      e.preventDefault();
      stage.focus();
      from = [e.clientX + stage.scrollLeft, e.clientY + stage.scrollTop];
      stage.setPointerCapture(e.pointerId);
    });
    stage.addEventListener("pointermove", (e) => {
      if (from) [stage.scrollLeft, stage.scrollTop] = [from[0] - e.clientX, from[1] - e.clientY];
    });
    for (const end of ["pointerup", "pointercancel"])
      stage.addEventListener(end, () => (from = null));
  }

  /* What a shown picture is a part of, as far as the sandbox recorded it. */
  PVRL.shownView = function (shown, label) {
    return h(
      "div",
      { class: "shown" },
      PVRL.mediaView(shown, { name: shown.name || label }),
      shown.crop ? cropView(shown.crop) : null,
      shown.frames ? framesLine(`shows ${framesTold(shown.frames)}`) : null,
    );
  };

  function cropView(crop) {
    const [left, top, right, bottom] = crop.box;
    const share = ((right - left) * (bottom - top)) / (crop.media.width * crop.media.height);
    return h(
      "div",
      { class: "from" },
      PVRL.mediaView(crop.media, {
        small: true,
        bare: true,
        name: crop.name,
        boxes: [{ box: crop.box, kind: "only" }],
      }),
      h(
        "p",
        { class: "soft small" },
        `from ${crop.name || "a picture"}, ${right - left} × ${bottom - top} at (${left}, ${top}), ${PVRL.percent(share, share < 0.1 ? 1 : 0)} of it; ${crop.verified ? "pixels compared" : "as the code's process told"}`,
      ),
    );
  }

  /* Every picture that crops were taken of, with all of them drawn in. */
  PVRL.cropMaps = function (trajectory) {
    const sources = new Map();
    trajectory.turns.forEach((turn, t) => {
      for (const shown of turn.execution ? turn.execution.images : []) {
        if (!shown.crop) continue;
        const { media, name, box } = shown.crop;
        if (!sources.has(media.sha)) sources.set(media.sha, { media, name, boxes: [] });
        sources.get(media.sha).boxes.push({ box, label: String(t + 1) });
      }
    });
    return [...sources.values()].map((s) =>
      PVRL.mediaView(s.media, {
        name: s.name,
        boxes: s.boxes,
        caption: h("span", { class: "soft" }, " · boxes by turn"),
      }),
    );
  };

  /* All numbers, runs of them as a span. */
  const framesTold = (f) => {
    const spans = runs(f.numbers).map(([a, b]) => (a === b ? a : `${a}–${b}`));
    const named = spans.length ? ` (${spans.join(", ")})` : "";
    const more = f.num_left_out ? `, and ${f.num_left_out} more that were not noted` : "";
    return `${PVRL.count(f.numbers.length, "frame")} of ${f.name || "a video"}${named}${more}`;
  };
  PVRL.framesTold = framesTold;

  const framesLine = (text) => h("p", { class: "soft small" }, PVRL.longText(text, 240));
  PVRL.framesLine = framesLine;

  function runs(numbers) {
    const found = [];
    for (const n of numbers) {
      const last = found[found.length - 1];
      if (last && last[1] === n - 1) last[1] = n;
      else found.push([n, n]);
    }
    return found;
  }

  /* For each video of a task: what was fetched and shown, turn by turn. */
  PVRL.timelines = function (task, trajectory) {
    return task.media.flatMap((m, place) =>
      m.kind === "video" && m.video ? [timeline(m, place, trajectory)] : [],
    );
  };

  function timeline(m, place, trajectory) {
    const rows = trajectory.turns.flatMap((turn, t) => {
      if (!turn.execution) return [];
      const of = (f) => f && f.of === place;
      const fetched = (turn.execution.fetched || []).filter(of);
      const shown = turn.execution.images.map((i) => i.frames).filter(of);
      return fetched.length || shown.length ? [{ t, fetched, shown }] : [];
    });
    const given = (trajectory.prompt_frames || []).filter((f) => f.of === place);
    if (given.length) rows.unshift({ fetched: [], shown: given });
    const table = rows.map(({ t, fetched, shown }) => {
      const all = (list) => list.flatMap((f) => f.numbers);
      const told = [
        ...fetched.map((f) => `fetched ${framesTold(f)}`),
        ...shown.map((f) => `showed ${framesTold(f)}`),
      ].join("; ");
      return h(
        "div",
        { class: "lane" },
        t === undefined
          ? h("span", { class: "soft" }, "prompt")
          : h("a", { href: location.hash, on: { click: (e) => goTurn(e, t) } }, `turn ${t + 1}`),
        lane(m.video.frames, all(fetched), all(shown), told),
        framesLine(told),
      );
    });
    const last = m.video.frames - 1;
    return h(
      "figure",
      { class: "timeline" },
      h(
        "figcaption",
        {},
        `Video, ${videoTold(m)}`,
        m.video.file ? h("span", { class: "soft" }, " · ", PVRL.bdi(m.video.file)) : null,
      ),
      table.length
        ? [
            h(
              "p",
              { class: "key soft small" },
              h("i", { class: "fetched" }),
              "fetched ",
              h("i", { class: "shown" }),
              `shown · frames 0 to ${num(last)}`,
            ),
            table,
          ]
        : h("p", { class: "soft small" }, "No frame of it was fetched."),
    );
  }

  function lane(frames, fetched, shown, told) {
    const least = frames / 300;
    const draw = (numbers, kind, y, height) =>
      runs([...new Set(numbers)].sort((a, b) => a - b)).map(([a, b]) =>
        svg("rect", { class: kind, x: a, y, width: Math.max(least, b - a + 1), height }),
      );
    return svg(
      "svg",
      {
        class: "frames",
        viewBox: `0 0 ${frames} 20`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": told,
      },
      draw(fetched, "fetched", 10, 10),
      draw(shown, "shown", 0, 12),
    );
  }

  function goTurn(event, t) {
    event.preventDefault();
    const node = document.getElementById(`turn-${t + 1}`);
    if (node) node.scrollIntoView({ block: "start", behavior: "smooth" });
  }
  PVRL.goTurn = goTurn;
})();

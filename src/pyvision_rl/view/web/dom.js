/* Elements and numbers. In: names, properties, children. Out: nodes.
   Data becomes text nodes and checked attributes, never markup: there is no other way to make an
   element in this page. */
"use strict";
(function () {
  const SVG = "http://www.w3.org/2000/svg";
  const LINK =
    /^(#|data:image\/|media\/|thumbs\/|blob:|runs\/[A-Za-z0-9._/-]+\.html$|(\.\.\/)+index\.html$)/;

  function put(node, name, value) {
    if (value === null || value === undefined || value === false) return;
    if (name === "class") node.setAttribute("class", value);
    else if (name === "on") {
      for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    } else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "css") {
      for (const [key, set] of Object.entries(value)) node.style.setProperty(key, set);
    } else if (name === "value" || name === "checked" || name === "disabled") node[name] = value;
    else if (name.startsWith("on") || name === "style" || name === "srcdoc")
      throw new TypeError(`attribute ${name}`);
    else if ((name === "href" || name === "src") && !LINK.test(value))
      throw new TypeError(`${name} leads out of the page`);
    else node.setAttribute(name, value === true ? "" : String(value));
  }

  function fill(node, children) {
    for (const child of children) {
      if (child === null || child === undefined || child === false) continue;
      if (Array.isArray(child)) fill(node, child);
      else node.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
    return node;
  }

  PVRL.h = function (tag, properties, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties || {})) put(node, name, value);
    return fill(node, children);
  };

  PVRL.svg = function (tag, properties, ...children) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(properties || {})) put(node, name, value);
    return fill(node, children);
  };

  /* Characters that move or hide others: shown by their number, so that what is read is what is
     there. Tabs and ends of lines stay. */
  const HIDDEN =
    /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u202a-\u202e\u2028\u2029\u2066-\u2069\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

  PVRL.visible = function (text) {
    const parts = [];
    let from = 0;
    for (const found of text.matchAll(HIDDEN)) {
      const code = found[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
      if (found.index > from) parts.push(text.slice(from, found.index));
      parts.push(PVRL.h("span", { class: "ctl", title: `the character U+${code}` }, `U+${code}`));
      from = found.index + 1;
    }
    if (from < text.length) parts.push(text.slice(from));
    return parts;
  };

  /* Text of unknown direction, kept from turning what stands around it. */
  PVRL.bdi = (text, className) =>
    PVRL.h(
      "bdi",
      { class: className || "said", dir: "auto" },
      PVRL.visible(String(text === null ? "" : text)),
    );

  const LONG = 4000;
  const MANY_LINES = 60;

  /* All of a text, with what is long behind a button that says how much there is. */
  PVRL.longText = function (text, limit = LONG, draw = PVRL.visible) {
    const whole = String(text === null ? "" : text);
    let cut = whole.length > limit * 1.2 ? limit : whole.length;
    let lines = 0;
    for (let i = 0; i < cut; i++) if (whole[i] === "\n" && ++lines === MANY_LINES) cut = i;
    const node = PVRL.h("bdi", { class: "said long", dir: "auto" });
    if (cut >= whole.length) return fill(node, [draw(whole)]);
    const more = PVRL.button(
      `Show all ${PVRL.num(whole.length)} characters`,
      () => PVRL.replace(node, draw(whole)),
      { class: "small more" },
    );
    return fill(node, [draw(whole.slice(0, cut)), "… ", more]);
  };

  PVRL.replace = (node, ...children) => {
    node.replaceChildren();
    return fill(node, children);
  };

  PVRL.say = (text) => {
    document.getElementById("said").textContent = text;
  };

  PVRL.words = (name) => String(name).replace(/_/g, " ");

  /* A number for people: a dash for what was not measured. */
  PVRL.num = function (value, digits) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (typeof value !== "number") return String(value);
    if (digits !== undefined) return tidy(value.toFixed(digits));
    if (Number.isInteger(value)) return tidy(value.toLocaleString("en-US"));
    const size = Math.abs(value);
    if (size >= 1000) return tidy(Math.round(value).toLocaleString("en-US"));
    if (size >= 100) return tidy(value.toFixed(1));
    if (size >= 0.001) return tidy(value.toFixed(size >= 10 ? 2 : 3));
    return size === 0 ? "0" : tidy(value.toExponential(1));
  };

  const tidy = (text) => text.replace("-", "−");

  PVRL.signed = (value, digits) =>
    value === null || value === undefined ? "–" : (value > 0 ? "+" : "") + PVRL.num(value, digits);

  PVRL.percent = (share, digits) =>
    share === null || share === undefined ? "–" : `${PVRL.num(share * 100, digits || 0)} %`;

  PVRL.seconds = function (value) {
    if (value === null || value === undefined) return "–";
    if (value < 1) return `${Math.round(value * 1000)} ms`;
    return value < 100 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`;
  };

  PVRL.count = (number, one, many) =>
    `${PVRL.num(number)} ${number === 1 ? one : many || one + "s"}`;

  /* A name and what it is, on one line of a list. */
  PVRL.facts = (pairs, className) =>
    PVRL.h(
      "dl",
      { class: className || "facts" },
      pairs
        .filter((pair) => pair && pair[1] !== null && pair[1] !== undefined && pair[1] !== "")
        .map(([name, value]) => PVRL.h("div", {}, PVRL.h("dt", {}, name), PVRL.h("dd", {}, value))),
    );

  /* Right, wrong, or not graded: a mark with a word for those who do not see it. */
  PVRL.mark = function (correct) {
    const [sign, word, kind] =
      correct === null || correct === undefined
        ? ["○", "not graded", "none"]
        : correct
          ? ["✓", "right", "good"]
          : ["✕", "wrong", "bad"];
    return PVRL.h(
      "span",
      { class: `mark ${kind}`, role: "img", "aria-label": word, title: word },
      sign,
    );
  };

  PVRL.button = (label, act, properties) =>
    PVRL.h("button", { type: "button", ...properties, on: { click: act } }, label);

  /* A control that is pressed or not; `act` is told which. */
  PVRL.toggle = function (label, act, properties) {
    const button = PVRL.button(
      label,
      () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(on));
        act(on);
      },
      { class: "small", "aria-pressed": "false", ...properties },
    );
    return button;
  };
})();

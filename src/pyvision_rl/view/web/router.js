/* Addresses: what the hash says, and the hash of a place.
   #training  #samples?q=cat  #12  #12/3  #12/3/5  #task/ID?a=1&b=9  #eval  #notes  #about
   In: the hash. Out: { page, ... , query }. Draws nothing. */
"use strict";
(function () {
  const PAGES = new Set(["training", "samples", "eval", "notes", "about"]);

  /* Halves of pairs, which no address can hold: written as U+0001 and four digits. */
  const HALF = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
  const ESCAPED = /\u0001([0-9a-f]{4})/g;

  function encode(text) {
    return encodeURIComponent(text.replace(HALF, (c) => `\u0001${c.charCodeAt(0).toString(16)}`));
  }

  function decode(text) {
    try {
      const plain = decodeURIComponent(text);
      return plain.replace(ESCAPED, (_, digits) => String.fromCharCode(parseInt(digits, 16)));
    } catch {
      return text;
    }
  }

  PVRL.route = function (hash) {
    const [path, asked] = splitOnce(hash.replace(/^#/, ""), "?");
    const query = new URLSearchParams(asked);
    const parts = path.split("/");
    if (path === "") return { page: "", query };
    if (PAGES.has(path)) return { page: path, query };
    if (parts[0] === "task" && parts.length > 1)
      return { page: "task", task: decode(parts.slice(1).join("/")), query };
    const numbers = parts.map((part) => (/^\d+$/.test(part) ? Number(part) : NaN));
    if (numbers.length > 3 || numbers.some(Number.isNaN)) return { page: "unknown", path, query };
    const [step, group, rollout] = numbers;
    return {
      page: ["step", "group", "trajectory"][numbers.length - 1],
      step,
      group,
      rollout,
      query,
    };
  };

  function splitOnce(text, mark) {
    const at = text.indexOf(mark);
    return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
  }

  PVRL.at = {
    step: (step) => `#${step}`,
    group: (step, group) => `#${step}/${group}`,
    trajectory: (step, group, rollout) => `#${step}/${group}/${rollout}`,
    task: (id, a, b) => `#task/${encode(id)}` + (a === undefined ? "" : `?a=${a}&b=${b}`),
    samples: (query) => {
      const text = new URLSearchParams(query || {}).toString();
      return text ? `#samples?${text}` : "#samples";
    },
  };

  PVRL.go = (hash) => {
    location.hash = hash;
  };

  /* The address changes and the page stays: filters as they are set. */
  PVRL.stay = (hash) => {
    if (location.hash !== hash) history.replaceState(null, "", hash);
  };
})();

/* Python for the eyes: a tokenizer that colours and never changes a character.
   In: a text. Out: [kind, text] pairs whose texts joined are the input; broken code is fine. */
"use strict";
(function () {
  const KEYWORDS = new Set(
    (
      "False None True and as assert async await break class continue def del elif else except finally " +
      "for from global if import in is lambda nonlocal not or pass raise return try while with yield match case"
    ).split(" "),
  );
  const BUILTINS = new Set(
    (
      "abs all any bool bytes dict dir enumerate filter float format frozenset getattr hasattr hash int isinstance " +
      "iter len list map max min next object open ord pow print range repr reversed round set setattr slice sorted " +
      "str sum super tuple type vars zip self"
    ).split(" "),
  );
  /* Sticky, one alternative per kind; strings may end at the end of the text. */
  const RULES = [
    ["comment", /#[^\n]*/y],
    ["string", /[rbfuRBFU]{0,2}"""(?:[^\\"]|\\[\s\S]|"(?!""))*(?:"""|$)/y],
    ["string", /[rbfuRBFU]{0,2}'''(?:[^\\']|\\[\s\S]|'(?!''))*(?:'''|$)/y],
    ["string", /[rbfuRBFU]{0,2}"(?:[^\\"\n]|\\[\s\S])*(?:"|$|(?=\n))/y],
    ["string", /[rbfuRBFU]{0,2}'(?:[^\\'\n]|\\[\s\S])*(?:'|$|(?=\n))/y],
    ["number", /(?:0[xXoObB][0-9a-fA-F_]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?j?)/y],
    ["word", /[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*/y],
    ["decorator", /@[A-Za-z_][\w.]*/y],
    ["space", /\s+/y],
  ];
  const MOST = 60000;

  PVRL.pythonTokens = function (text) {
    const tokens = [];
    let plain = "";
    let at = 0;
    const flush = () => {
      if (plain) tokens.push(["", plain]);
      plain = "";
    };
    /* Beyond this the browser has enough to do with the text alone. */
    const end = Math.min(text.length, MOST);
    while (at < end) {
      const [kind, found] = match(text, at);
      if (!kind) plain += found;
      else {
        flush();
        tokens.push([kind, found]);
      }
      at += found.length;
    }
    plain += text.slice(at);
    flush();
    return tokens;
  };

  function match(text, at) {
    for (const [kind, rule] of RULES) {
      rule.lastIndex = at;
      const found = rule.exec(text);
      if (!found || !found[0]) continue;
      if (kind === "space") return ["", found[0]];
      if (kind !== "word") return [kind, found[0]];
      return [word(text, at, found[0]), found[0]];
    }
    return ["", text[at]];
  }

  function word(text, at, name) {
    if (KEYWORDS.has(name)) return "keyword";
    if (/\b(?:def|class)\s+$/.test(text.slice(Math.max(0, at - 12), at))) return "defined";
    if (text[at - 1] !== "." && BUILTINS.has(name)) return "builtin";
    return /^\s?\(/.test(text.slice(at + name.length, at + name.length + 2)) ? "called" : "";
  }

  /* A block of code with numbered lines left out: what is copied runs. */
  PVRL.pythonCode = function (text) {
    const code = PVRL.h("code", {});
    for (const [kind, part] of PVRL.pythonTokens(text)) {
      const seen = PVRL.visible(part);
      code.append(...(kind ? [PVRL.h("span", { class: `py-${kind}` }, seen)] : seen));
    }
    return code;
  };
})();

/* The colours: as the system says, or as the button was last set.
   In: a click. Out: data-theme on the root element. Loaded first, so that no page flashes. */
"use strict";
(function () {
  const KEY = "pvrl-theme";
  const ORDER = ["auto", "light", "dark"];
  const root = document.documentElement;

  /* Storage may be refused (private windows, some file:// pages); the page works without. */
  function read() {
    try {
      const kept = localStorage.getItem(KEY);
      return ORDER.includes(kept) ? kept : "auto";
    } catch {
      return "auto";
    }
  }

  function show(theme) {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (!button) return;
    button.textContent = { auto: "◐", light: "☀", dark: "☾" }[theme];
    button.setAttribute("aria-label", `Colours: ${theme}`);
  }

  let theme = read();
  show(theme);
  document.addEventListener("DOMContentLoaded", () => {
    show(theme);
    document.getElementById("theme").addEventListener("click", () => {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        /* Then it holds for this visit. */
      }
      show(theme);
    });
  });
})();

/* The page as a whole: loads run and index, draws the page of the address, follows a live run.
   In: data files and hash changes. Out: the document. Each page is drawn in a file of its own. */
"use strict";
(function () {
  const { h } = PVRL;
  const EVERY_MS = 2000;
  const PAGES = {
    training: PVRL.trainingPage,
    samples: PVRL.samplesPage,
    eval: PVRL.evaluationPage,
    notes: PVRL.notesPage,
    about: PVRL.aboutPage,
    step: PVRL.stepPage,
    group: PVRL.groupPage,
    trajectory: PVRL.trajectoryPage,
    task: PVRL.taskPage,
  };
  const EMPTY = [
    "step",
    "group",
    "rollout",
    "task",
    "end",
    "category",
    "source",
    "reason",
    "correct",
    "reward",
    "advantage",
    "calls",
    "errors",
    "turns",
    "tokens",
    "visual",
    "images",
    "seconds",
    "std",
    "chunk",
    "at",
    "tasks",
    "chunks",
    "categories",
    "sources",
    "ends",
    "reasons",
  ];
  let drawing = 0;
  let ready = Promise.resolve();

  PVRL.drawn = () => ready;

  async function load(query) {
    const run = await (query === undefined ? PVRL.need("run") : PVRL.again("run", query));
    if (run.same) return null;
    /* The version in the address keeps a browser from giving back what it has. */
    const stamp = encodeURIComponent(run.version || "");
    const read = (name) => (query === undefined ? PVRL.need(name) : PVRL.again(name, stamp));
    const nothing = (value) => () => value;
    const columns = await read("index").catch(nothing(null));
    const notes = await read("notes").catch(nothing({ notes: [] }));
    const other = run.other ? await read("other").catch(nothing(null)) : null;
    const index = new PVRL.Index(columns || Object.fromEntries(EMPTY.map((n) => [n, []])));
    return {
      run,
      index,
      other,
      notes: [...notes.notes],
      order: index.step.map((_, row) => row),
    };
  }

  function home(state) {
    const measured = ["eval", "rescore"].includes(state.run.verb);
    return measured && state.run.result ? "eval" : "training";
  }

  async function render(kept) {
    const mine = ++drawing;
    const state = PVRL.state;
    const route = PVRL.route(location.hash);
    const page = route.page || home(state);
    const main = document.getElementById("main");
    let nodes;
    try {
      if (!PAGES[page]) throw new Error("there is no such page");
      nodes = await PAGES[page](state, route);
    } catch (error) {
      nodes = [
        h("h1", {}, "Not here"),
        h("p", {}, PVRL.bdi(error.message)),
        h("p", {}, h("a", { href: "#training" }, "To the start")),
      ];
    }
    /* Another page was asked for meanwhile. */
    if (mine !== drawing) return;
    PVRL.replace(main, nodes);
    main.dataset.page = page;
    /* Said at the front doors; the page of the run lists them all. */
    const problems = document.getElementById("problems");
    problems.hidden = !state.run.problems.length || !["training", "eval"].includes(page);
    if (page === "training") PVRL.drawCharts();
    drawNav(state, page);
    document.title = `${titleOf(route, page)} · ${state.run.name}`;
    if (!kept) {
      window.scrollTo(0, 0);
      PVRL.say(document.title);
    }
    document.documentElement.dataset.ready = page;
  }

  function titleOf(route, page) {
    const place = [route.step, route.group, route.rollout].filter((n) => n !== undefined).join("/");
    return place || page;
  }

  function drawNav(state, page) {
    const study = Boolean(state.run.study);
    const links = [
      ["training", study ? "Curves" : "Training", ["training"]],
      state.index.size
        ? ["samples", "Trajectories", ["samples", "step", "group", "trajectory", "task"]]
        : null,
      state.run.result || state.run.verb === "eval" || study
        ? ["eval", study ? "Tables" : "Evaluation", ["eval"]]
        : null,
      state.index.size ? ["notes", "Notes", ["notes"]] : null,
      ["about", "Run", ["about"]],
    ].filter(Boolean);
    PVRL.replace(
      document.getElementById("nav"),
      homeLink(state.run),
      links.map(([to, text, pages]) =>
        h("a", { href: `#${to}`, "aria-current": pages.includes(page) ? "page" : null }, text),
      ),
    );
  }

  /* The way from a run to the study around it. */
  function homeLink({ home }) {
    if (!home || !/^(\.\.\/)+index\.html$/.test(home)) return null;
    return h("a", { href: home }, "← Study");
  }

  function drawTop({ run }) {
    PVRL.replace(document.getElementById("run-name"), PVRL.bdi(run.name));
    const verb = document.getElementById("run-verb");
    verb.textContent = run.study ? "study" : run.verb;
    verb.hidden = !verb.textContent;
    document.getElementById("run-live").hidden = !run.live;
    const box = document.getElementById("problems");
    const link = h(
      "a",
      { href: "#about" },
      run.problems.length > 1 ? `and ${run.problems.length - 1} more` : "details",
    );
    PVRL.replace(
      box,
      run.problems.length ? [PVRL.longText(run.problems[0], 300), " ", link] : null,
    );
  }

  /* A run that grows is read again; who reads or writes is not disturbed. */
  async function follow() {
    let wait = EVERY_MS;
    const { run } = PVRL.state;
    try {
      const state = await load(`after=${encodeURIComponent(run.version)}`);
      if (state) {
        PVRL.state = {
          ...state,
          order: PVRL.route(location.hash).page === "trajectory" ? PVRL.state.order : state.order,
        };
        drawTop(PVRL.state);
        const page = document.getElementById("main").dataset.page;
        if (["training", "step", "eval"].includes(page)) await (ready = render(true));
        else PVRL.say("The run has grown.");
      }
      document.getElementById("run-live").textContent = "live";
    } catch {
      /* The server has ended, or is busy; what is shown stays. */
      document.getElementById("run-live").textContent = "live: no answer";
      wait = 5 * EVERY_MS;
    }
    if (PVRL.state.run.live) setTimeout(follow, wait);
  }

  async function start() {
    document.getElementById("skip").addEventListener("click", (event) => {
      event.preventDefault();
      document.getElementById("main").focus();
    });
    try {
      PVRL.state = await load();
    } catch (error) {
      PVRL.replace(
        document.getElementById("main"),
        h("h1", {}, "No data"),
        h("p", {}, error.message, ". Is the folder data/ beside this page?"),
      );
      return;
    }
    drawTop(PVRL.state);
    window.addEventListener("hashchange", () => (ready = render()));
    await (ready = render());
    if (PVRL.state.run.live) setTimeout(follow, EVERY_MS);
  }

  document.addEventListener("DOMContentLoaded", start);
})();

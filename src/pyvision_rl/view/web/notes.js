/* Remarks and tags of people on trajectories. In: what the run folder holds, and what this browser
   keeps. Out: a panel for one trajectory, a page of all, a JSONL file. Written to the run folder
   when the page is served with a token, else kept in the browser until it is downloaded. */
"use strict";
(function () {
  const { h } = PVRL;

  const key = (run) => `pvrl-notes:${run.name}:${run.created}`;

  /* Notes that only this browser has. */
  function local(run) {
    try {
      const kept = JSON.parse(localStorage.getItem(key(run)) || "[]");
      return Array.isArray(kept)
        ? kept.filter((n) => n && Array.isArray(n.tags) && typeof n.text === "string")
        : [];
    } catch {
      return [];
    }
  }

  PVRL.allNotes = (state) => [...state.notes, ...local(state.run)];

  const same = (a, b) => a.step === b.step && a.task === b.task && a.rollout === b.rollout;

  async function save(state, note) {
    const { run } = state;
    if (run.notes_token) {
      const answer = await fetch("notes", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ token: run.notes_token, ...note }),
      });
      const told = await answer.json();
      if (!answer.ok) throw new Error(told.error || `the server answered ${answer.status}`);
      state.notes.push(told.note);
      return "Written to the run folder.";
    }
    const line = { time: Date.now() / 1000, ...note };
    try {
      localStorage.setItem(key(run), JSON.stringify([...local(run), line]));
    } catch {
      state.notes.push(line);
      return "Kept until this page is closed: download it.";
    }
    return "Kept in this browser: download it on the page of notes.";
  }

  PVRL.notesPanel = function (state, about) {
    const list = h("ul", { class: "notes" });
    const told = h("p", { class: "soft small", role: "status" });
    const tags = h("input", {
      id: "note-tags",
      list: "known-tags",
      placeholder: "hack, wrong reference",
      autocomplete: "off",
    });
    const text = h("textarea", { id: "note-text", rows: 3 });
    const show = () =>
      PVRL.replace(
        list,
        PVRL.allNotes(state)
          .filter((n) => same(n, about))
          .map((n) => noteView(n)),
      );
    const submit = async (event) => {
      event.preventDefault();
      const found = tags.value
        .split(",")
        .map((t) => t.trim())
        .filter(Boolean);
      if (!found.length && !text.value.trim()) {
        told.textContent = "Write a tag or a remark first.";
        return;
      }
      try {
        told.textContent = await save(state, { ...about, tags: found, text: text.value.trim() });
        tags.value = text.value = "";
        show();
      } catch (error) {
        told.textContent = `Not written: ${error.message}`;
      }
    };
    const known = [...new Set(PVRL.allNotes(state).flatMap((n) => n.tags))].sort();
    show();
    return [
      list,
      h(
        "form",
        { class: "note", on: { submit } },
        h("label", { for: "note-tags" }, "Tags"),
        tags,
        h(
          "datalist",
          { id: "known-tags" },
          known.map((t) => h("option", { value: t })),
        ),
        h("label", { for: "note-text" }, "Remark"),
        text,
        h("button", { type: "submit", class: "small" }, "Add"),
        told,
      ),
    ];
  };

  function noteView(n, link) {
    const when =
      typeof n.time === "number"
        ? new Date(n.time * 1000).toISOString().slice(0, 16).replace("T", " ")
        : "";
    return h(
      "li",
      {},
      h(
        "div",
        {},
        n.tags.map((t) => h("span", { class: "chip" }, PVRL.bdi(t))),
        " ",
        h("span", { class: "soft small" }, when),
        link ? [" ", link] : null,
      ),
      n.text ? h("p", {}, PVRL.longText(n.text, 2000)) : null,
    );
  }

  /* The address of what a note is about; "" when it is not here. */
  function addressOf(index, n) {
    const task = index.tasks.findIndex((t) => t.id === n.task);
    const place = (index.ofTask.get(task) || []).find(
      (p) => p.step === n.step && index.rowOf(p.step, p.group, n.rollout) !== undefined,
    );
    return place ? PVRL.at.trajectory(place.step, place.group, n.rollout) : "";
  }

  PVRL.notesPage = function (state) {
    const all = PVRL.allNotes(state);
    const view = (n) => {
      const address = addressOf(state.index, n);
      const name = `step ${n.step}, rollout ${n.rollout}`;
      return noteView(
        n,
        h(
          "span",
          {},
          address ? h("a", { href: address }, name) : name,
          " ",
          h("span", { class: "soft" }, PVRL.bdi(n.task)),
        ),
      );
    };
    return [
      h("h1", {}, "Notes"),
      h(
        "p",
        { class: "soft" },
        state.run.notes_token
          ? "Notes are added to notes.jsonl in the run folder."
          : "This page is not served: notes stay in this browser.",
      ),
      all.length
        ? h(
            "p",
            {},
            PVRL.button("Download as JSONL", () => download(state, all)),
          )
        : h("p", {}, "No notes yet. Add one on the page of a trajectory."),
      h("ul", { class: "notes" }, all.map(view)),
    ];
  };

  function download(state, notes) {
    const lines = notes.map((n) =>
      JSON.stringify({
        time: n.time,
        step: n.step,
        task: n.task,
        rollout: n.rollout,
        tags: n.tags,
        text: n.text,
      }),
    );
    const url = URL.createObjectURL(
      new Blob([lines.join("\n") + "\n"], { type: "application/jsonl" }),
    );
    h("a", { href: url, download: "notes.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }
})();

/* A list of any length, of which only the rows in sight exist. In: row numbers and how to draw one.
   Out: a node that scrolls, with a row that is active for the keyboard. */
"use strict";
(function () {
  const { h } = PVRL;
  const AHEAD = 12;

  PVRL.Rows = class {
    /* draw(row, place) -> a link element; label: what the list holds. */
    constructor({ draw, label, open }) {
      this.draw = draw;
      this.rows = [];
      this.active = 0;
      this.height = 40;
      this.inner = h("div", { class: "rows-inner" });
      this.node = h(
        "div",
        { class: "rows", tabindex: 0, role: "listbox", "aria-label": label },
        this.inner,
      );
      this.node.addEventListener("scroll", () => this.paint());
      this.node.addEventListener("keydown", (event) => {
        const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12, Home: -1e9, End: 1e9 }[
          event.key
        ];
        if (by !== undefined) {
          event.preventDefault();
          this.move(by);
        } else if (event.key === "Enter" && event.target === this.node)
          open(this.rows[this.active]);
      });
      this.watch = new ResizeObserver(() => this.paint(true));
      this.watch.observe(this.node);
    }

    set(rows) {
      this.rows = rows;
      this.active = Math.min(this.active, Math.max(0, rows.length - 1));
      this.node.scrollTop = 0;
      this.paint(true);
    }

    move(by) {
      if (!this.rows.length) return;
      this.active = Math.max(0, Math.min(this.rows.length - 1, this.active + by));
      const top = this.active * this.height;
      const { scrollTop, clientHeight } = this.node;
      if (top < scrollTop) this.node.scrollTop = top;
      else if (top + this.height > scrollTop + clientHeight)
        this.node.scrollTop = top + this.height - clientHeight;
      this.paint(true);
    }

    paint(all) {
      this.height = this.node.clientWidth < 640 ? 74 : 40;
      this.inner.style.height = `${this.rows.length * this.height}px`;
      const first = Math.max(0, Math.floor(this.node.scrollTop / this.height) - AHEAD);
      const last = Math.min(
        this.rows.length,
        Math.ceil((this.node.scrollTop + this.node.clientHeight) / this.height) + AHEAD,
      );
      if (!all && first === this.first && last === this.last) return;
      [this.first, this.last] = [first, last];
      const drawn = [];
      for (let place = first; place < last; place++) drawn.push(this.item(place));
      this.inner.replaceChildren(...drawn);
      this.node.setAttribute("aria-activedescendant", this.rows.length ? `row-${this.active}` : "");
    }

    item(place) {
      const node = this.draw(this.rows[place], place);
      node.id = `row-${place}`;
      node.classList.add("row");
      node.classList.toggle("active", place === this.active);
      node.setAttribute("role", "option");
      node.setAttribute("tabindex", "-1");
      node.setAttribute("aria-selected", String(place === this.active));
      node.setAttribute("aria-setsize", this.rows.length);
      node.setAttribute("aria-posinset", place + 1);
      node.style.transform = `translateY(${place * this.height}px)`;
      node.style.height = `${this.height}px`;
      return node;
    }
  };
})();

// A table that sorts by its headings, searches by words, and shows a page of rows at a time.
(function () {
  "use strict";
  const { element, count } = window.interpReport;
  const PAGE = 50, SLICE = 100;

  // spec: caption, noun (of many rows), count, columns [{name, number, value(i), cell(i)}],
  // text(i) that is searched. Gives {show(i)}, which turns to the page of a row.
  window.interpReport.table = function (box, id, spec) {
    const texts = [], values = new Map();
    let order = Array.from({ length: spec.count }, (_, i) => i);
    let shown = order, page = 0, sorted = null, falling = false;
    const field = element("input", { id: id + "-field", type: "search", autocomplete: "off" });
    const said = element("output", { for: id + "-field", "aria-live": "polite" });
    const body = element("tbody");
    const heads = spec.columns.map((column, c) => {
      const press = element("button", { type: "button", class: "sort" }, column.name);
      press.addEventListener("click", () => sort(c));
      return element("th", { scope: "col", class: column.number ? "number" : null }, press);
    });
    const before = element("button", { type: "button" }, "Previous");
    const after = element("button", { type: "button" }, "Next");
    const where = element("span", { "aria-live": "polite" });
    before.addEventListener("click", () => turn(page - 1));
    after.addEventListener("click", () => turn(page + 1));
    const turner = element("div", { class: "turner" }, before, where, after);
    box.append(
      element("div", { class: "filter" }, element("label", { for: id + "-field" }, spec.label), " ", field, " ", said),
      element("div", { class: "scroll", role: "region", "aria-label": spec.caption, tabindex: "0" },
        element("table", {}, element("caption", { class: "unseen" }, spec.caption),
          element("thead", {}, element("tr", {}, heads)), body)),
      turner);

    function cells(i) {
      return element("tr", {}, spec.columns.map((column, c) => element(
        c ? "td" : "th", { scope: c ? null : "row", class: column.number ? "number" : null }, column.cell(i))));
    }

    function draw() {
      const first = page * PAGE, rows = shown.slice(first, first + PAGE);
      body.replaceChildren(...rows.map(cells));
      const last = Math.ceil(shown.length / PAGE) - 1;
      turner.hidden = last < 1;
      before.disabled = page <= 0;
      after.disabled = page >= last;
      where.textContent = " rows " + count(first + 1) + " to " + count(first + rows.length) + " of " + count(shown.length) + " ";
      said.textContent = shown.length === spec.count
        ? count(spec.count) + " " + spec.noun
        : count(shown.length) + " of " + count(spec.count) + " shown";
    }

    function turn(to) {
      page = Math.max(0, Math.min(to, Math.ceil(shown.length / PAGE) - 1));
      draw();
    }

    // Numbers begin with the greatest, texts with the first; what is undefined comes last.
    function sort(c) {
      const column = spec.columns[c];
      falling = sorted === c ? !falling : Boolean(column.number);
      sorted = c;
      if (!values.has(c)) values.set(c, Array.from({ length: spec.count }, (_, i) => column.value(i)));
      const held = values.get(c), way = falling ? -1 : 1;
      const none = (v) => v === "" || v === null || Number.isNaN(v);
      order = order.slice().sort((a, b) => {
        const x = held[a], y = held[b];
        if (none(x) || none(y)) return none(x) - none(y) || a - b;
        return x < y ? -way : x > y ? way : a - b;
      });
      heads.forEach((head, h) => {
        if (h === c) head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      find();
    }

    // What is searched, made when it is first wanted: some rows at a time while nobody waits.
    function prepare(rows) {
      const end = Math.min(texts.length + rows, spec.count);
      for (let i = texts.length; i < end; i += 1) texts.push(spec.text(i).toLowerCase());
      if (end < spec.count) window.setTimeout(() => prepare(SLICE), 0);
    }

    // Rows with every word, and every phrase in quotes, of the field.
    function find() {
      const typed = field.value.toLowerCase().match(/"[^"]+"|[^\s"]+/g) || [];
      const words = typed.map((word) => word.replaceAll('"', ""));
      if (words.length) prepare(spec.count);
      shown = words.length ? order.filter((i) => words.every((word) => texts[i].includes(word))) : order;
      turn(0);
    }

    field.addEventListener("focus", () => window.setTimeout(() => prepare(SLICE), 0), { once: true });
    field.addEventListener("input", find);
    draw();
    return {
      show(i) {
        if (!shown.includes(i)) {
          field.value = "";
          find();
        }
        turn(Math.floor(shown.indexOf(i) / PAGE));
        return body.rows[shown.indexOf(i) % PAGE];
      },
    };
  };
})();

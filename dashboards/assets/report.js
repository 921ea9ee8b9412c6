// Draws the page's figures with Plotly, in the reader's colours, and again when these change.
(function () {
  "use strict";
  const settings = JSON.parse(document.getElementById("settings").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const paper = window.matchMedia("print");
  const boxes = Array.from(document.querySelectorAll(".plot[data-spec]"));
  const report = window.interpReport;
  const specs = new Map();
  let narrow = null;

  function read(box) {
    if (!specs.has(box)) {
      const text = document.getElementById(box.dataset.spec + "-spec").textContent;
      specs.set(box, text);
    }
    return JSON.parse(specs.get(box));
  }

  // Figures are written in light colours; each has one dark partner, matched as a whole string.
  function recolour(value) {
    if (typeof value === "string") {
      return Object.prototype.hasOwnProperty.call(settings.dark, value) ? settings.dark[value] : value;
    }
    if (Array.isArray(value)) return value.map(recolour);
    if (value && typeof value === "object") {
      for (const key of Object.keys(value)) {
        if (key !== "bdata") value[key] = recolour(value[key]);
      }
    }
    return value;
  }

  function draw(box) {
    let spec = read(box);
    if (dark.matches && !paper.matches && !box.dataset.print) spec = recolour(spec);
    const layout = spec.layout;
    layout.autosize = true;
    if (box.clientWidth < settings.narrow) {
      layout.font = Object.assign({}, layout.font, { size: 11 });
      layout.margin = Object.assign({}, layout.margin, { r: 8 });
      // Where every cell prints its number, the colour bar is what a phone can spare.
      const printed = spec.data.some((trace) => trace.mode === "text");
      for (const trace of spec.data) if (trace.type === "heatmap" && printed) trace.showscale = false;
    }
    window.Plotly.react(box, spec.data, layout, settings.config);
    // The label of the box says what the picture shows; the buttons in it stay within reach.
    box.setAttribute("role", "group");
    for (const svg of box.querySelectorAll(".main-svg")) svg.setAttribute("aria-hidden", "true");
    box.dispatchEvent(new Event("drawn"));
  }

  function drawAll() {
    boxes.forEach(draw);
  }

  // One part at a time, those in sight first, so that the page answers while many are drawn.
  function drawInTurn(queue) {
    if (!queue.length) {
      document.documentElement.dataset.drawn = "all";
      return;
    }
    const seen = queue.findIndex((part) => {
      const edge = part.getBoundingClientRect();
      return edge.bottom > 0 && edge.top < window.innerHeight;
    });
    const [part] = queue.splice(Math.max(seen, 0), 1);
    if (part.dataset.spec) draw(part);
    else report.build(part.id);
    window.setTimeout(() => drawInTurn(queue), 0);
  }

  function printing(on) {
    boxes.forEach((box) => {
      if (on) box.dataset.print = "1";
      else delete box.dataset.print;
    });
    drawAll();
  }

  // A link to something folded away opens it.
  function reveal() {
    const name = location.hash.slice(1);
    let part = name && document.getElementById(name);
    if (name && !part) report.openers.some((open) => open(name));
    for (; part; part = part.parentElement) {
      part.hidden = false;
      if (part.tagName === "DETAILS") part.open = true;
    }
  }

  // A list keeps the parts that hold every word, and every phrase in quotes, of its field.
  function filters(field) {
    const items = Array.from(document.getElementById(field.dataset.filter).children);
    const texts = items.map((item) => item.textContent.toLowerCase());
    const left = field.parentElement.querySelector("output");
    function apply() {
      const typed = field.value.toLowerCase().match(/"[^"]+"|[^\s"]+/g) || [];
      const words = typed.map((word) => word.replaceAll('"', ""));
      let shown = 0;
      items.forEach((item, i) => {
        item.hidden = !words.every((word) => texts[i].includes(word));
        if (!item.hidden) shown += 1;
      });
      left.textContent = words.length ? shown + " of " + items.length + " shown" : items.length + " shown";
    }
    field.parentElement.hidden = false;
    field.addEventListener("input", apply);
    apply();
  }

  document.querySelectorAll("input[data-filter]").forEach(filters);
  dark.addEventListener("change", drawAll);
  window.addEventListener("beforeprint", () => printing(true));
  window.addEventListener("afterprint", () => printing(false));
  window.addEventListener("hashchange", reveal);
  window.addEventListener("resize", () => {
    const now = document.documentElement.clientWidth < settings.narrow;
    if (now !== narrow) {
      narrow = now;
      drawAll();
    }
  });
  narrow = document.documentElement.clientWidth < settings.narrow;
  // The words of the page are painted before the first figure is drawn.
  window.requestAnimationFrame(() => window.setTimeout(() => {
    reveal();
    drawInTurn(Array.from(document.querySelectorAll(".plot[data-spec], .live")));
  }, 0));
})();

// A map of thousands of points on a canvas: found by mouse, by arrow keys and by search.
(function () {
  "use strict";
  const report = window.interpReport;
  const { unpack, element, count } = report;
  const settings = JSON.parse(document.getElementById("settings").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const EDGE = 14, REACH = 18, RADIUS = 2.6;
  const redraws = [];
  let printing = false;

  // Each group's shape, about a point: what is told by colour is told by shape as well.
  const SHAPES = [
    (c, x, y, r) => c.arc(x, y, r, 0, 7),
    (c, x, y, r) => c.rect(x - r, y - r, 2 * r, 2 * r),
    (c, x, y, r) => { c.moveTo(x, y - 1.3 * r); c.lineTo(x + 1.2 * r, y + r); c.lineTo(x - 1.2 * r, y + r); c.closePath(); },
    (c, x, y, r) => { c.moveTo(x, y - 1.4 * r); c.lineTo(x + 1.4 * r, y); c.lineTo(x, y + 1.4 * r); c.lineTo(x - 1.4 * r, y); c.closePath(); },
    (c, x, y, r) => { c.moveTo(x, y + 1.3 * r); c.lineTo(x + 1.2 * r, y - r); c.lineTo(x - 1.2 * r, y - r); c.closePath(); },
    (c, x, y, r) => { c.rect(x - 1.4 * r, y - r / 2, 2.8 * r, r); c.rect(x - r / 2, y - 1.4 * r, r, 2.8 * r); },
  ];

  function colour(light) {
    return dark.matches && !printing ? settings.dark[light] || light : light;
  }

  function dot(canvas, data, g) {
    const side = 14, scale = window.devicePixelRatio || 1;
    canvas.width = canvas.height = side * scale;
    const c = canvas.getContext("2d");
    c.scale(scale, scale);
    c.fillStyle = colour(data.colours[g]);
    c.beginPath();
    SHAPES[g](c, side / 2, side / 2, 4);
    c.fill();
  }

  function legend(data) {
    const marks = data.groups.map(() => element("canvas", { class: "dot", "aria-hidden": "true" }));
    redraws.push(() => marks.forEach((mark, g) => dot(mark, data, g)));
    return element("ul", { class: "legend" }, data.groups.map((name, g) => element("li", {}, marks[g], element("bdi", {}, " " + name + " (" + count(data.counts[g]) + ")"))));
  }

  report.builders.points = function (box, data, id) {
    const x = unpack(data.x), y = unpack(data.y), group = unpack(data.group), numbers = unpack(data.number);
    const px = new Float32Array(x.length), py = new Float32Array(x.length);
    const canvas = element("canvas", {
      class: "points", tabindex: "0", role: "application", "aria-label": data.alt,
      "aria-describedby": id + "-keys", "aria-roledescription": "map",
    });
    const over = element("canvas", { class: "over", "aria-hidden": "true" });
    const tip = element("output", { class: "tip", "aria-live": "polite" });
    const act = data.link ? "Enter or a click opens its page." : "Enter or a click shows it whole below.";
    const keys = element("p", { class: "note", id: id + "-keys" }, "Arrow keys go from point to point. " + act);
    const detail = element("p", { class: "detail", tabindex: "-1", hidden: "" });
    const details = element("details", {}, element("summary", {}, "Data table"));
    const frame = element("div", { class: "frame" }, canvas, over);
    box.append(element("figure", {}, frame, legend(data), tip, keys, element("figcaption", {}, data.alt + " " + data.caption), detail, details));
    let at = -1, wide = 0, tall = 0;

    function fit() {
      const finite = (values) => values.reduce(([a, b], v) => (Number.isFinite(v) ? [Math.min(a, v), Math.max(b, v)] : [a, b]), [Infinity, -Infinity]);
      const [left, right] = finite(x), [low, high] = finite(y);
      wide = frame.clientWidth;
      tall = Math.min(480, Math.max(260, wide * 0.6));
      const scale = Math.min((wide - 2 * EDGE) / (right - left || 1), (tall - 2 * EDGE) / (high - low || 1));
      for (let i = 0; i < x.length; i += 1) {
        px[i] = wide / 2 + scale * (x[i] - (left + right) / 2);
        py[i] = tall / 2 - scale * (y[i] - (low + high) / 2);
      }
    }

    function ready(layer) {
      const scale = window.devicePixelRatio || 1;
      layer.width = wide * scale;
      layer.height = tall * scale;
      layer.style.height = tall + "px";
      const c = layer.getContext("2d");
      c.scale(scale, scale);
      return c;
    }

    function draw() {
      if (!frame.clientWidth) return;
      fit();
      const c = ready(canvas);
      c.globalAlpha = x.length > 3000 ? 0.5 : 0.75;
      for (let g = 0; g < data.groups.length; g += 1) {
        c.fillStyle = colour(data.colours[g]);
        c.beginPath();
        for (let i = 0; i < x.length; i += 1) {
          if (group[i] !== g || !Number.isFinite(px[i])) continue;
          c.moveTo(px[i] + RADIUS, py[i]);
          SHAPES[g](c, px[i], py[i], RADIUS);
        }
        c.fill();
      }
      ring();
    }

    function ring() {
      const c = ready(over);
      if (at < 0) return;
      c.strokeStyle = getComputedStyle(box).color;
      c.lineWidth = 2;
      c.beginPath();
      c.arc(px[at], py[at], 7, 0, 7);
      c.stroke();
    }

    function name(i) { return data.kind + " " + numbers[i]; }

    function pick(i) {
      if (i === at || i < 0) return;
      at = i;
      tip.textContent = name(i) + " · " + data.groups[group[i]] + ": " + data.said[i];
      ring();
    }

    function open(i) {
      if (i < 0) return;
      pick(i);
      if (data.link) {
        location.hash = data.link + numbers[i];
        return;
      }
      detail.replaceChildren(element("strong", {}, name(i)), " (", element("bdi", {}, data.groups[group[i]]), "): ", element("bdi", { class: "data" }, data.said[i]));
      detail.hidden = false;
      detail.focus({ preventScroll: true });
    }

    function near(event) {
      const edge = canvas.getBoundingClientRect(), mx = event.clientX - edge.left, my = event.clientY - edge.top;
      let best = -1, least = REACH * REACH;
      for (let i = 0; i < x.length; i += 1) {
        const away = (px[i] - mx) ** 2 + (py[i] - my) ** 2;
        if (away < least) [best, least] = [i, away];
      }
      return best;
    }

    // The nearest point within 45 degrees of a direction.
    function towards(dx, dy) {
      let best = -1, least = Infinity;
      for (let i = 0; i < x.length; i += 1) {
        const ax = px[i] - px[at], ay = py[i] - py[at], along = ax * dx + ay * dy, aside = Math.abs(ax * dy - ay * dx);
        const away = ax * ax + ay * ay;
        if (along > 0 && aside <= along && away < least) [best, least] = [i, away];
      }
      return best;
    }

    const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    canvas.addEventListener("keydown", (event) => {
      if (WAYS[event.key]) pick(at < 0 ? 0 : towards(...WAYS[event.key]));
      else if (event.key === "Enter" || event.key === " ") open(at < 0 ? 0 : at);
      else return;
      event.preventDefault();
    });
    canvas.addEventListener("focus", () => pick(at < 0 ? 0 : at));
    canvas.addEventListener("pointermove", (event) => {
      const i = near(event);
      canvas.style.cursor = i < 0 ? "default" : "pointer";
      pick(i);
    });
    canvas.addEventListener("click", (event) => open(near(event)));
    details.addEventListener("toggle", () => {
      report.table(details, id + "-rows", {
        caption: "What each point stands for",
        label: "Search the points",
        noun: "points", count: x.length, text: (i) => name(i) + " " + data.groups[group[i]] + " " + data.said[i],
        columns: [
          { name: data.kind, number: true, value: (i) => -numbers[i], cell: (i) => (data.link ? element("a", { href: "#" + data.link + numbers[i] }, String(numbers[i])) : String(numbers[i])) },
          { name: "class", value: (i) => data.groups[group[i]], cell: (i) => element("bdi", {}, data.groups[group[i]]) },
          { name: "x", number: true, value: (i) => x[i], cell: (i) => report.number(x[i]) },
          { name: "y", number: true, value: (i) => y[i], cell: (i) => report.number(y[i]) },
          { name: "what it is", value: (i) => data.said[i], cell: (i) => element("bdi", { class: "data" }, data.said[i]) },
        ],
      });
    }, { once: true });
    redraws.push(draw);
    new ResizeObserver(draw).observe(frame);
    redraws.forEach((again) => again());
    return { open };
  };

  function again() { redraws.forEach((draw) => draw()); }
  dark.addEventListener("change", again);
  window.addEventListener("beforeprint", () => { printing = true; again(); });
  window.addEventListener("afterprint", () => { printing = false; again(); });
})();

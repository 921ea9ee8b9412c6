// Beside a depth curve: what is known of the hook point that a click on the curve chooses.
(function () {
  "use strict";
  const report = window.interpReport;
  const { unpack, element, number, share } = report;
  const MOST = 10;

  // The latents whose decoder rows lie most along the probe's direction, [row, cosine, probe].
  function aligned(reader, columns) {
    const table = reader.data.alignment, cosines = unpack(table), wide = table.shape[1], found = [];
    for (let i = 0; i < table.shape[0]; i += 1) {
      for (const p of columns) found.push([i, cosines[i * wide + p], p]);
    }
    return found.filter((f) => Number.isFinite(f[1])).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, MOST);
  }

  function latents(dictionary, box) {
    const { reader, highlighted } = report.build(dictionary.list), { data } = reader;
    const rows = aligned(reader, dictionary.columns).map(([i, cosine, p]) => {
      const [first] = reader.top(i);
      return element("tr", {},
        element("th", { scope: "row" }, reader.link(i)),
        element("td", { class: "number" }, number(cosine, 2)),
        element("td", { class: "number" }, share(reader.density(i))),
        element("td", {}, element("bdi", { class: "data" }, reader.label(i))),
        dictionary.columns.length > 1 ? element("td", {}, element("bdi", { class: "data" }, data.probes[p])) : null,
        element("td", {}, first ? highlighted(first, unpack(data.strongest)[i]) : "—"));
    });
    const heads = [data.unit, "cosine", "density", "label", ...(dictionary.columns.length > 1 ? ["probe"] : []), "strongest firing"];
    const caption = "The " + data.unit + "s that lie most along the probe there; 95 % of random directions reach no more than " + number(data.random, 2);
    return element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption }, element("table", {}, element("caption", {}, caption),
      element("thead", {}, element("tr", {}, heads.map((h, i) => element("th", { scope: "col", class: i === 1 || i === 2 ? "number" : null }, h)))),
      element("tbody", {}, rows)));
  }

  report.builders.layers = function (box, data, id) {
    const accuracy = unpack(data.accuracy), low = unpack(data.low), high = unpack(data.high);
    // A dictionary that did not fit in the page is not there.
    const dictionaries = data.dictionaries.filter((d) => document.getElementById(d.list));
    const choice = element("select", { id: id + "-choice" }, data.hookpoints.map((name, i) => element("option", { value: String(i) }, name)));
    const out = element("div", { class: "layer", "aria-live": "polite" });
    box.append(element("div", { class: "filter" }, element("label", { for: id + "-choice" }, "Look at the hook point"), " ", choice,
      element("span", { class: "note" }, "A click on the curve chooses it too.")), out);

    function show(i) {
      choice.value = String(i);
      const name = data.hookpoints[i], parts = [];
      parts.push(element("p", {}, "At ", element("code", { dir: "ltr" }, name), " the probe's accuracy is " + number(accuracy[i], 3) + " (" + number(low[i], 3) + " to " + number(high[i], 3) + ")."));
      for (const [layer, where, density] of data.sparsity) {
        if (layer === i) parts.push(element("p", {}, "There ", element("code", { dir: "ltr" }, where), " has " + share(density) + " of its neurons active at a token."));
      }
      const here = dictionaries.filter((d) => d.layer === i);
      here.forEach((d) => parts.push(latents(d, box)));
      if (!here.length && dictionaries.length) {
        parts.push(element("p", { class: "note" }, "No dictionary of this page reads there; one reads ",
          ...dictionaries.flatMap((d, k) => [k ? ", " : "", element("code", { dir: "ltr" }, data.hookpoints[d.layer])]), "."));
      }
      out.replaceChildren(...parts);
    }

    choice.addEventListener("change", () => show(Number(choice.value)));
    const plot = document.querySelector('[data-spec="' + data.figure + '"]');
    if (plot) {
      const listen = () => plot.on("plotly_click", (event) => {
        const i = Math.round(Number(event.points[0].x));
        if (i >= 0 && i < data.hookpoints.length) show(i);
      });
      if (plot.on) listen();
      else plot.addEventListener("drawn", listen, { once: true });
    }
    show(data.first);
    return { show };
  };
})();

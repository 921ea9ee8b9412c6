// The latents of a dictionary: a table of all, and a page of one, built when it is opened.
(function () {
  "use strict";
  const report = window.interpReport;
  const { unpack, row, element, heading, number, share, count, seen } = report;

  // What is known of the latents, by their row in the table.
  function reader(data) {
    const of = (name) => unpack(data[name]);
    const latent = of("latent"), place = new Map(Array.from(latent, (l, i) => [l, i]));
    const examples = data.examples, context = examples.context, width = 2 * context + 1;
    const each = examples.document.shape[1], given = examples.document.shape[0];

    function example(i, e) {
      const document_ = row(examples.document, i)[e];
      if (document_ < 0) return null;
      const tokens = row(examples.tokens, i).subarray(e * width, (e + 1) * width);
      const activations = row(examples.activations, i).subarray(e * width, (e + 1) * width);
      const inside = Array.from(tokens.keys()).filter((t) => tokens[t] >= 0);
      return {
        document: document_,
        position: row(examples.position, i)[e],
        tokens: inside.map((t) => data.words[tokens[t]]),
        values: inside.map((t) => activations[t]),
        places: inside.map((t) => t - context),
        at: inside.indexOf(context),
        value: activations[context],
      };
    }

    function some(i, from, to) {
      const found = [];
      if (i < given) for (let e = from; e < to; e += 1) found.push(example(i, e));
      return found.filter(Boolean);
    }

    function top(i) { return some(i, 0, examples.top); }

    // The tokens at which it fires most strongly, each once.
    function strongest(i) {
      if (i >= given) return [];
      const tokens = row(examples.tokens, i), documents = row(examples.document, i), found = new Set();
      for (let e = 0; e < examples.top && found.size < 4; e += 1) {
        if (documents[e] >= 0) found.add(seen(data.words[tokens[e * width + context]]));
      }
      return Array.from(found);
    }

    function label(i) {
      const said = data.predicts;
      return said && unpack(said.named)[i] ? said.labels[unpack(said.label)[i]] : "";
    }

    // The probe with the greatest |cosine|, [its place, the cosine].
    function best(i) {
      if (!data.alignment) return [-1, NaN];
      const cosines = row(data.alignment, i);
      let at = 0;
      for (let p = 1; p < cosines.length; p += 1) if (Math.abs(cosines[p]) > Math.abs(cosines[at])) at = p;
      return [at, cosines[at]];
    }

    function name(i) { return data.unit + " " + latent[i]; }

    function text(i) {
      let words = name(i) + " · " + label(i);
      if (data.alignment) words += " " + data.probes[best(i)[0]];
      if (i >= given) return words;
      const tokens = row(examples.tokens, i), documents = row(examples.document, i);
      for (let t = 0; t < tokens.length; t += 1) {
        if (t % width === 0) words += " ";
        if (tokens[t] >= 0 && documents[Math.floor(t / width)] >= 0) words += data.words[tokens[t]];
      }
      return words;
    }

    return {
      data, latent, place, top, some, each, given, strongest, label, best, text,
      density: (i) => of("fires")[i] / data.n,
      name,
      link: (i) => element("a", { href: "#" + data.page + latent[i] }, name(i)),
    };
  }

  // Tokens, each on a background as strong as its activation.
  function highlighted(example, most) {
    const parts = example.tokens.map((token, t) => {
      const value = example.values[t], text = seen(token);
      if (!(value > 0)) return text;
      const mark = element("mark", { title: number(value), class: t === example.at ? "at" : null }, text);
      mark.style.setProperty("--a", String(Math.round(100 * Math.min(value / most, 1))));
      if (t === example.at) mark.append(element("span", { class: "unseen" }, " (" + number(value) + ") "));
      return mark;
    });
    return element("bdi", { class: "tokens", dir: "ltr" }, parts);
  }

  // An image, with the positions where the latent fires veiled the less the stronger it does.
  function pictured(example, most, images) {
    const source = images.jpeg[example.document];
    if (!source) return highlighted(example, most);
    const [rows, columns] = images.grid;
    const where = "row " + (Math.floor(example.position / columns) + 1) + ", column " + (example.position % columns + 1);
    const said = "image " + example.document + ", strongest at " + where + ": " + number(example.value);
    const veil = element("span", { class: "veil", "aria-hidden": "true" });
    veil.style.gridTemplate = "repeat(" + rows + ", 1fr) / repeat(" + columns + ", 1fr)";
    const strength = new Map(example.places.map((p, t) => [example.position + p, example.values[t]]));
    for (let p = 0; p < rows * columns; p += 1) {
      const cell = element("i", { class: p === example.position ? "at" : null });
      cell.style.opacity = String(0.55 * (1 - Math.min((strength.get(p) || 0) / most, 1)));
      veil.append(cell);
    }
    const picture = element("img", { src: "data:image/jpeg;base64," + source, alt: said });
    return element("figure", { class: "picture" }, element("span", { class: "under" }, picture, veil), element("figcaption", {}, said));
  }

  function examples(found, reader_, i) {
    const most = unpack(reader_.data.strongest)[i], images = reader_.data.images;
    const shown = found.map((e) => (images ? pictured(e, most, images) : highlighted(e, most)));
    return element("ul", { class: images ? "examples pictures" : "examples" }, shown.map((part) => element("li", {}, part)));
  }

  function small(caption, columns, rows) {
    const cell = (value, c) => element(c ? "td" : "th", { scope: c ? null : "row", class: columns[c][1] ? "number" : null }, value);
    return element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption },
      element("table", {}, element("caption", {}, caption),
        element("thead", {}, element("tr", {}, columns.map(([name, right]) => element("th", { scope: "col", class: right ? "number" : null }, name)))),
        element("tbody", {}, rows.map((cells) => element("tr", {}, cells.map(cell))))));
  }

  // Activations above 0, on a logarithmic axis, with their table.
  function histogram(reader_, i) {
    const { data } = reader_, counts = row(data.histogram, i), edges = unpack(data.edges);
    const used = Array.from(counts.keys()).filter((b) => counts[b]);
    const bins = counts.slice(used[0], used[used.length - 1] + 1), low = used[0], most = Math.max(...bins);
    const peak = low + bins.indexOf(most);
    const said = "Histogram of the activations above 0 of " + reader_.name(i) + ": " + count(unpack(data.fires)[i]) +
      " firings from " + number(edges[low]) + " to " + number(edges[low + bins.length]) + " on a logarithmic axis, most of them (" +
      count(most) + ") from " + number(edges[peak]) + " to " + number(edges[peak + 1]) + ".";
    const bars = element("div", { class: "histogram", role: "img", "aria-label": said }, Array.from(bins, (n) => {
      const bar = element("i");
      bar.style.height = (n ? Math.max(1, 100 * n / most) : 0) + "%";
      return bar;
    }));
    const ticks = [0, bins.length].map((b) => element("span", {}, number(edges[low + b])));
    const axis = element("div", { class: "ticks", "aria-hidden": "true" }, ticks);
    const rows = Array.from(bins, (n, b) => [number(edges[low + b]), number(edges[low + b + 1]), count(n)]);
    return element("figure", {}, bars, axis, element("figcaption", {}, said),
      element("details", {}, element("summary", {}, "Data table"), small("Firings by activation", [["from", true], ["to", true], ["firings", true]], rows)));
  }

  function predicted(reader_, i) {
    const said = reader_.data.predicts, at = said ? unpack(said.label)[i] : -1;
    if (at < 0) return null;
    const score = (name) => number(unpack(said[name])[i], 2);
    const asked = said.about[at] ? " (" + said.about[at] + ")" : "";
    return element("p", {}, unpack(said.named)[i] ? "Named for " : "No name; best predicts ", element("bdi", { class: "data" }, said.labels[at]),
      asked + ": precision " + score("precision") + " at a base rate of " + score("base_rate") + ", recall " + score("recall") +
      ", F1 " + score("f1") + " (chance " + score("chance_f1") + ").");
  }

  function linked(reader_, latent) {
    const i = reader_.place.get(latent);
    return i === undefined ? reader_.data.unit + " " + latent : reader_.link(i);
  }

  function related(reader_, i) {
    const { data } = reader_, parts = [], partner = data.partners;
    if (data.near) {
      const cosines = row(data.near.cosine, i);
      const rows = Array.from(row(data.near.index, i)).flatMap((l, p) => (l < 0 ? [] : [[linked(reader_, l), number(cosines[p], 2)]]));
      if (rows.length) parts.push(small("Nearest by decoder direction", [[data.unit, false], ["cosine", true]], rows));
    }
    const counts = row(partner.count, i), chance = row(partner.expected, i);
    const rows = Array.from(row(partner.index, i)).flatMap((l, p) => (
      l < 0 ? [] : [[linked(reader_, l), count(counts[p]), count(chance[p])]]));
    if (rows.length) parts.push(small("Fires together with", [[data.unit, false], ["times", true], ["by chance", true]], rows));
    if (data.alignment) {
      const cosines = row(data.alignment, i);
      const order = Array.from(cosines.keys()).sort((a, b) => Math.abs(cosines[b]) - Math.abs(cosines[a])).slice(0, 10);
      parts.push(small("Cosine with probes (random directions reach " + number(data.random, 2) + ")",
        [["probe", false], ["cosine", true]], order.map((p) => [element("bdi", {}, data.probes[p]), number(cosines[p], 2)])));
    }
    if (data.logits) {
      for (const [side, title] of [["raised", "Raises the logits of"], ["lowered", "Lowers the logits of"]]) {
        const by = row(data.logits[side + "_by"], i);
        const rows_ = Array.from(row(data.logits[side], i)).flatMap((w, p) => (
          w < 0 ? [] : [[element("code", { dir: "ltr" }, seen(data.words[w]).replaceAll(" ", "␣")), number(by[p])]]));
        if (rows_.length) parts.push(small(title, [["token", false], ["by", true]], rows_));
      }
    }
    return element("div", { class: "beside" }, parts);
  }

  function bands(box, reader_, i) {
    const { examples: held, quantiles } = reader_.data, parts = [];
    const edges = row(held.edges, i < reader_.given ? i : 0), many = quantiles.length - 1;
    for (let b = 0; b < many; b += 1) {
      const from = held.top + b * held.each, found = reader_.some(i, from, from + held.each), at = many - 1 - b;
      if (found.length) {
        parts.push(element("p", { class: "note" }, "Quantiles " + number(quantiles[at]) + " to " + number(quantiles[at + 1]) +
          ": activations " + number(edges[at]) + " to " + number(edges[at + 1])), examples(found, reader_, i));
      }
    }
    return parts.length ? [heading(box, 1, "Weaker firings"), ...parts] : [];
  }

  // Examples that differ in the last four tokens: data may hold a passage several times.
  function distinct(found) {
    const passages = new Map();
    for (const e of found) {
      const key = e.tokens.slice(Math.max(0, e.at - 3), e.at + 1).join("\u0001");
      if (!passages.has(key) || e.tokens.length === 1) passages.set(key + (e.tokens.length === 1 ? e.document : ""), e);
    }
    return Array.from(passages.values());
  }

  function page(box, reader_, i, steps) {
    const { data } = reader_, name = reader_.label(i), top = reader_.top(i);
    const title = heading(box, 0, data.unit[0].toUpperCase() + data.unit.slice(1) + " " + reader_.latent[i], name ? element("bdi", {}, " · " + name) : "");
    const fires = unpack(data.fires)[i];
    const numbers = "Fires at " + share(fires / data.n) + " of the tokens (" + count(fires) + "), with " +
      number(unpack(data.mean)[i]) + " in the mean and " + number(unpack(data.strongest)[i]) + " at most.";
    const shown = data.images ? top : distinct(top);
    return [title, steps, element("p", {}, numbers), predicted(reader_, i), histogram(reader_, i),
      heading(box, 1, "Strongest firings"),
      shown.length ? examples(shown, reader_, i) : element("p", { class: "note" }, "Its examples are left out for the page's size; the saved result has them."),
      ...bands(box, reader_, i), heading(box, 1, "What it does and what is near"), related(reader_, i)];
  }

  report.builders.latents = function (box, data, id) {
    const reader_ = reader(data), article = element("article", { id: id + "-page", class: "latent", hidden: "" });
    const total = reader_.latent.length, unit = data.unit;
    box.append(article);
    const columns = [
      { name: unit, number: true, value: (i) => -reader_.latent[i], cell: (i) => reader_.link(i) },
      { name: "density", number: true, value: reader_.density, cell: (i) => share(reader_.density(i)) },
      { name: "strongest", number: true, value: (i) => unpack(data.strongest)[i], cell: (i) => number(unpack(data.strongest)[i]) },
    ];
    if (data.predicts) {
      columns.push({ name: "label", value: reader_.label, cell: (i) => element("bdi", { class: "data" }, reader_.label(i)) },
        { name: "F1", number: true, value: (i) => unpack(data.predicts.f1)[i], cell: (i) => number(unpack(data.predicts.f1)[i], 2) });
    }
    if (data.alignment) {
      columns.push({ name: "probe", value: (i) => data.probes[reader_.best(i)[0]], cell: (i) => element("bdi", { class: "data" }, data.probes[reader_.best(i)[0]]) },
        { name: "|cosine|", number: true, value: (i) => Math.abs(reader_.best(i)[1]), cell: (i) => number(reader_.best(i)[1], 2) });
    }
    columns.push({ name: "strongest tokens", value: (i) => reader_.strongest(i).join(" "), cell: (i) => element("bdi", { class: "data tokens", dir: "ltr" }, reader_.strongest(i).join("  ")) });
    const table = report.table(box, id, {
      caption: "All " + unit + "s: a heading sorts, a number opens the page",
      label: "Search the " + unit + 's (words, or a "phrase")',
      noun: unit + "s", count: total, columns, text: reader_.text,
    });

    function close(i) {
      article.hidden = true;
      article.replaceChildren();
      history.replaceState(null, "", location.pathname + location.search);
      const line = table.show(i);
      if (line) line.querySelector("a").focus();
    }

    function open(latent) {
      const i = reader_.place.get(latent);
      if (i === undefined) return false;
      const steps = element("p", { class: "steps" });
      const back = element("button", { type: "button" }, "Close and return to the table");
      back.addEventListener("click", () => close(i));
      steps.append(back);
      for (const [to, word] of [[i - 1, "Previous"], [i + 1, "Next"]]) {
        if (to >= 0 && to < total) steps.append(" ", element("a", { href: "#" + data.page + reader_.latent[to] }, word + ": " + reader_.name(to)));
      }
      article.replaceChildren(...page(box, reader_, i, steps).filter(Boolean));
      article.hidden = false;
      article.setAttribute("aria-label", reader_.name(i));
      for (let above = box; above; above = above.parentElement) if (above.tagName === "DETAILS") above.open = true;
      article.scrollIntoView({ behavior: "auto", block: "start" });
      article.firstElementChild.focus({ preventScroll: true });
      return true;
    }

    return { open, reader: reader_, highlighted };
  };

  // A link such as #result5-17 opens latent 17 of result5.
  report.openers.push((name) => {
    const match = /^(.+)-(\d+)$/.exec(name), built = match && report.build(match[1] + "-list");
    return Boolean(built && built.open && built.open(Number(match[2])));
  });
})();

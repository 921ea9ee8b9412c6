// What the page's scripts share: arrays out of the page's data, elements without markup, and the
// boxes that are built here. Text from data enters as text nodes only.
window.interpReport = (function () {
  "use strict";
  const ARRAYS = {
    i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array,
    f4: Float32Array, f8: Float64Array,
  };
  const builders = {}, built = new Map(), data = new Map(), openers = [];
  let halves = null;

  // All 65,536 floats of two bytes: a sign, five bits of exponent, ten of fraction.
  function half(bits) {
    if (!halves) {
      halves = new Float32Array(65536);
      for (let i = 0; i < 65536; i += 1) {
        const sign = i & 0x8000 ? -1 : 1, power = (i >> 10) & 31, rest = i & 1023;
        if (power === 31) halves[i] = rest ? NaN : sign * Infinity;
        else halves[i] = sign * (power ? 2 ** (power - 15) * (1 + rest / 1024) : 2 ** -14 * (rest / 1024));
      }
    }
    return Float32Array.from(bits, (b) => halves[b]);
  }

  // A packed array as a flat one with its shape beside it; unpacked once.
  function unpack(packed) {
    if (packed.values) return packed.values;
    const text = atob(packed.bdata), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    packed.values = packed.dtype === "f2" ? half(new Uint16Array(bytes.buffer)) : new ARRAYS[packed.dtype](bytes.buffer);
    packed.bdata = "";
    return packed.values;
  }

  // Row i of a packed table: a view of its last axes.
  function row(packed, i) {
    const size = packed.shape.slice(1).reduce((a, b) => a * b, 1);
    return unpack(packed).subarray(i * size, (i + 1) * size);
  }

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const name of Object.keys(attributes || {})) {
      if (attributes[name] !== null && attributes[name] !== undefined) made.setAttribute(name, attributes[name]);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return made;
  }

  // The level of a heading that stands `below` levels under a box's own.
  function heading(box, below, ...children) {
    return element("h" + Math.min(Number(box.dataset.level) + below, 6), { tabindex: "-1" }, ...children);
  }

  function number(value, digits) {
    if (!Number.isFinite(value)) return "—";
    const small = value !== 0 && Math.abs(value) < 0.001;
    return small ? value.toExponential(1) : String(Number(value.toPrecision(digits || 3)));
  }

  function share(value) {
    return Number.isFinite(value) ? number(100 * value, 2) + " %" : "—";
  }

  function count(value) {
    return Math.round(value).toLocaleString("en-US");
  }

  // A token as it is seen: spaces and ends of lines have their signs.
  function seen(token) {
    return token.replaceAll("\r", "␍").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
  }

  function read(id) {
    if (!data.has(id)) {
      const held = document.getElementById(id + "-data");
      data.set(id, held ? JSON.parse(held.textContent) : null);
      if (held) held.textContent = "";
    }
    return data.get(id);
  }

  // Builds a box, once, and gives what its builder gave.
  function build(id) {
    if (!built.has(id)) {
      const box = document.getElementById(id);
      const make = box && builders[box.dataset.live];
      if (!make) return null;
      box.querySelector(".still").remove();
      built.set(id, make(box, read(id), id));
    }
    return built.get(id);
  }

  return { builders, openers, unpack, row, element, heading, number, share, count, seen, read, build };
})();

// Heat maps: the colour scale for shares between 0 and 1, the map of a head, and a table with the values of a head.

import { make } from "./dom.js";
import { name, narrow, percent } from "./tokens.js";

const PIXELS = 64; // maximum number of tokens for which every share of a small map is a separate square
const TABLE = 24; // maximum number of tokens for which a head is shown as a table with every value

// The colours for the shares 0 and 1, from the style sheet; they differ between the light and the dark theme.
const ends = () => colours("--heat-none", "--heat-all");

function colours(...keys) {
  const style = getComputedStyle(document.documentElement);
  return keys.map((key) => {
    const hex = style.getPropertyValue(key).trim();
    return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  });
}

const mix = ([none, all], share) => none.map((channel, i) => Math.round(channel + (all[i] - channel) * share));

// Relative luminance as defined in WCAG 2
function luminance(colour) {
  const [r, g, b] = colour.map((channel) => {
    const c = channel / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

export function paintScale(canvas) {
  paint(canvas, [Array.from({ length: 101 }, (_, i) => i / 100)], false);
}

// Paint one pixel per share; the browser enlarges the pixels. Positions hidden by the causal mask are not painted.
export function paint(canvas, rows, causal = true) {
  const colours = ends();
  const width = rows[0].length;
  canvas.width = width;
  canvas.height = rows.length;
  canvas.classList.toggle("fine", width > PIXELS); // when a map is reduced, pixels are averaged instead of skipped
  const pixels = canvas.getContext("2d").createImageData(width, rows.length);
  rows.forEach((row, t) =>
    row.forEach((share, s) => {
      if (!causal || s <= t) pixels.data.set([...mix(colours, share), 255], 4 * (t * width + s));
    }),
  );
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// Paint a matrix of signed numbers (row major): one pixel per number, with different colours below and above 0. The number
// with the largest magnitude has the full colour.
export function paintSigned(canvas, numbers, rows, columns) {
  const [none, below, above] = colours("--heat-none", "--drawn", "--accent");
  const largest = numbers.reduce((most, number) => Math.max(most, Math.abs(number)), 0) || 1;
  canvas.width = columns;
  canvas.height = rows;
  const pixels = canvas.getContext("2d").createImageData(columns, rows);
  numbers.forEach((number, i) => {
    const share = Math.sqrt(Math.abs(number) / largest); // the square root makes small numbers visible
    pixels.data.set([...mix([none, number < 0 ? below : above], share), 255], 4 * i);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// Return an enlarged head: a table with every value or, for longer texts, a map.
export function largeHead(tokens, rows, label) {
  if (tokens.length <= TABLE) return headTable(tokens, rows, label);
  const canvas = make("canvas", {
    class: "map",
    role: "img",
    "aria-label": `${label}, as a map; the selected row is listed next to it`,
  });
  paint(canvas, rows);
  const frame = make("div", { class: "map-frame" }, canvas, make("div", { class: "row-mark" }));
  const axis = (side) => {
    const labels = tokens.map((token) => make("span", { title: name(token) }, narrow(token)));
    return make("div", { class: `axis ${side}`, "aria-hidden": "true" }, ...labels);
  };
  const map = make(
    "div",
    { class: "large-map" },
    axis("top"),
    axis("left"),
    make("div", { class: "axis corner" }),
    frame,
  );
  map.style.setProperty("--tokens", tokens.length);
  return map;
}

function headTable(tokens, rows, label) {
  const colours = ends();
  const title = (scope, token) => make("th", { scope, title: name(token), "aria-label": name(token) }, narrow(token));
  const head = make("tr", {}, make("td"), ...tokens.map((token) => title("col", token)));
  const body = make("tbody");
  rows.forEach((row, t) => {
    const cells = make("tr", { "data-row": t }, title("row", tokens[t]));
    row.forEach((share, s) => {
      const cell = make("td", { text: s <= t ? percent(share).replace("%", "") : "" });
      if (s <= t) {
        const colour = mix(colours, share);
        cell.style.setProperty("background-color", `rgb(${colour.join(" ")})`);
        cell.style.setProperty("color", luminance(colour) > 0.179 ? "#000" : "#fff");
      }
      cells.append(cell);
    });
    body.append(cells);
  });
  const hint = make("p", { class: "hint", text: "Per cent. Rows: from which token. Columns: to which." });
  return make("div", {}, hint, make("table", { class: "large", "aria-label": label }, make("thead", {}, head), body));
}

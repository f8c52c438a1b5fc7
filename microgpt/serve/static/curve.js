// The loss curve, as SVG and as a table of numbers.

import { make } from "./dom.js";

const HEIGHT = 280;
const MARGIN = { left: 46, right: 24, top: 12, bottom: 40 };
const ROWS = 40; // maximum number of rows in the table
const FEW = 40; // maximum number of points that are marked with dots

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Return about `count` round numbers between low and high.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high + step * 1e-9; n++)
    found.push(Number((n * step).toPrecision(12)));
  return found;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/**
 * One line of a plot.
 * @typedef {object} Series
 * @property {string} kind CSS class: loss, val, faint or mean
 * @property {string} name
 * @property {[number, number][]} points steps and losses
 */

export class Curve {
  /** @param {HTMLElement} place */
  constructor(place) {
    this.place = place;
    this.drawing = make("div");
    /** @type {Series[]} */
    this.series = [];
    this.width = 0;
    new ResizeObserver(() => this.drawing.clientWidth !== this.width && this.draw()).observe(this.drawing);
  }

  /** Show lines, with the last one on top. @param {Series[]} series */
  show(series) {
    const names = (all) => all.map(({ name, points }) => name + Boolean(points.length)).join();
    const isNew = names(series) !== names(this.series);
    this.series = series;
    if (isNew) this.place.replaceChildren(this.drawing, legend(series), ...(this.table ? [this.table] : []));
    this.draw();
  }

  /** Also show the numbers in a table. @param {Element} table */
  showTable(table) {
    this.table?.remove();
    this.table = table;
    this.place.append(table);
  }

  draw() {
    this.width = this.drawing.clientWidth;
    const isEmpty = this.series.every(({ points }) => !points.length);
    if (this.width && !isEmpty) this.drawing.replaceChildren(draw(this.series, this.width));
  }
}

// Show the loss curve of the run that trained the model.
export function showHistory(place, history) {
  const points = (key) => history.filter((line) => isNumber(line[key])).map((line) => [line.step, line[key]]);
  const [loss, val] = [points("loss"), points("val_loss")];
  if (!loss.length && !val.length) {
    const none = "This checkpoint has no history of its run, so there is no curve to show.";
    place.replaceChildren(make("p", { text: none }));
    return;
  }
  const curve = new Curve(place);
  curve.show([
    { kind: "loss", name: "loss of a batch", points: loss },
    { kind: "val", name: "validation loss", points: val },
  ]);
  const every = Math.max(1, Math.ceil(history.length / ROWS));
  const kept = history.filter((line, i) => i % every === 0 || i === history.length - 1);
  const rows = kept.map((line) => [line.step, line.loss, line.val_loss]);
  curve.showTable(numbers(["Step", "Loss", "Validation loss"], rows, every));
}

function inWords(series) {
  const told = series
    .filter(({ points }) => points.length)
    .map(({ name, points }) => {
      const [[first, from], [last, to]] = [points[0], points.at(-1)];
      return `${name} from ${from.toFixed(2)} at step ${first} to ${to.toFixed(2)} at step ${last}`;
    });
  return told.join("; ").replace(/^./, (letter) => letter.toUpperCase());
}

function draw(series, width) {
  const all = series.flatMap(({ points }) => points);
  const [left, right] = [Math.min(...all.map(([step]) => step)), Math.max(...all.map(([step]) => step))];
  let [low, high] = [Math.min(...all.map(([, loss]) => loss)), Math.max(...all.map(([, loss]) => loss))];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const x = (step) => MARGIN.left + ((step - left) / (right - left || 1)) * (width - MARGIN.left - MARGIN.right);
  const y = (loss) =>
    HEIGHT - MARGIN.bottom - ((loss - low) / (high - low || 1)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const picture = svg("svg", {
    width,
    height: HEIGHT,
    viewBox: `0 0 ${width} ${HEIGHT}`,
    role: "img",
    "aria-label": inWords(series),
  });
  for (const loss of ticks(low, high, 5)) {
    picture.append(svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(loss), y2: y(loss) }));
    picture.append(svg("text", { class: "tick end", x: MARGIN.left - 6, y: y(loss) + 4 }, String(loss)));
  }
  for (const step of ticks(left, right, Math.min(6, width / 70))) {
    picture.append(svg("text", { class: "tick middle", x: x(step), y: HEIGHT - MARGIN.bottom + 18 }, String(step)));
  }
  picture.append(svg("text", { class: "tick middle", x: (width + MARGIN.left) / 2, y: HEIGHT - 4 }, "step"));
  const across = `translate(12 ${(HEIGHT - MARGIN.bottom) / 2}) rotate(-90)`;
  picture.append(svg("text", { class: "tick middle", transform: across }, "nats per token"));
  const bottom = HEIGHT - MARGIN.bottom;
  picture.append(svg("path", { class: "axes", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${width - MARGIN.right}` }));
  for (const { kind, points } of series) {
    const at = points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`);
    picture.append(svg("polyline", { class: `line ${kind}`, points: at.join(" ") }));
    for (const [step, value] of hasDots(kind, points) ? points : []) {
      picture.append(svg("circle", { class: "point", cx: x(step), cy: y(value), r: 3.5 }));
    }
  }
  return picture;
}

const hasDots = (kind, points) => points.length === 1 || (kind === "val" && points.length <= FEW);

function legend(series) {
  const list = make("ul", { class: "legend" });
  for (const { kind, name, points } of series.filter((each) => each.points.length)) {
    const sample = svg("svg", { width: 34, height: 12, "aria-hidden": "true" });
    sample.append(svg("polyline", { class: `line ${kind}`, points: "1,6 33,6" }));
    if (hasDots(kind, points)) sample.append(svg("circle", { class: "point", cx: 17, cy: 6, r: 3.5 }));
    list.append(make("li", {}, sample, name));
  }
  return list;
}

/** Return a collapsible table with the step and the losses of one line in `every`. */
export function numbers(titles, rows, every) {
  const body = make("tbody");
  for (const [step, ...losses] of rows) {
    const texts = [step, ...losses.map((value) => (isNumber(value) ? value.toFixed(4) : "–"))];
    body.append(make("tr", {}, ...texts.map((text) => make("td", { class: "number", text }))));
  }
  const head = make("tr", {}, ...titles.map((text) => make("th", { scope: "col", class: "number", text })));
  const table = make("table", { class: "plain" }, make("thead", {}, head), body);
  const summary = every > 1 ? `The numbers, one line in ${every}` : "The numbers";
  return make("details", {}, make("summary", { text: summary }), table);
}

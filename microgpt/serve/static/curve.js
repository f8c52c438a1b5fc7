// The loss curve, as SVG. Its numbers also stand in a table.

import { make } from "./dom.js";

const HEIGHT = 280;
const MARGIN = { left: 46, right: 24, top: 12, bottom: 40 };
const ROWS = 40; // of the table at most

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// About `count` round numbers between low and high.
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

export function showCurve(place, history) {
  const series = ["loss", "val_loss"].map((key) =>
    history.filter((line) => isNumber(line[key])).map((line) => [line.step, line[key]]),
  );
  if (!series[0].length && !series[1].length) {
    const none = "The run’s history does not lie beside this checkpoint, so there is no curve to show.";
    place.replaceChildren(make("p", { text: none }));
    return;
  }
  const drawing = make("div");
  let width = 0;
  new ResizeObserver(() => {
    if (!drawing.clientWidth || drawing.clientWidth === width) return;
    width = drawing.clientWidth;
    drawing.replaceChildren(draw(series, width));
  }).observe(drawing);
  place.replaceChildren(drawing, legend(series), numbers(history));
}

function inWords([loss, val]) {
  const told = (what, points) =>
    points.length
      ? `${what} from ${points[0][1].toFixed(2)} at step ${points[0][0]} to ${points.at(-1)[1].toFixed(2)} at step ${points.at(-1)[0]}`
      : "";
  return [told("Loss of the batches", loss), told("validation loss", val)].filter(Boolean).join("; ");
}

function draw(series, width) {
  const all = series.flat();
  const [left, right] = [Math.min(...all.map(([step]) => step)), Math.max(...all.map(([step]) => step))];
  const [low, high] = [Math.min(...all.map(([, loss]) => loss)), Math.max(...all.map(([, loss]) => loss))];
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
  picture.append(svg("text", { class: "tick middle", transform: across }, "nats a token"));
  const bottom = HEIGHT - MARGIN.bottom;
  picture.append(svg("path", { class: "axes", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${width - MARGIN.right}` }));
  const [loss, val] = series.map((points) =>
    points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`),
  );
  picture.append(svg("polyline", { class: "line loss", points: loss.join(" ") }));
  picture.append(svg("polyline", { class: "line val", points: val.join(" ") }));
  if (val.length <= 40)
    series[1].forEach(([step, value]) =>
      picture.append(svg("circle", { class: "point", cx: x(step), cy: y(value), r: 3.5 })),
    );
  return picture;
}

function legend([loss, val]) {
  const list = make("ul", { class: "legend" });
  const entry = (kind, words) => {
    const sample = svg("svg", { width: 34, height: 12, "aria-hidden": "true" });
    sample.append(svg("polyline", { class: `line ${kind}`, points: "1,6 33,6" }));
    if (kind === "val") sample.append(svg("circle", { class: "point", cx: 17, cy: 6, r: 3.5 }));
    list.append(make("li", {}, sample, words));
  };
  if (loss.length) entry("loss", "loss of a batch");
  if (val.length) entry("val", "validation loss");
  return list;
}

function numbers(history) {
  const every = Math.max(1, Math.ceil(history.length / ROWS));
  const kept = history.filter((line, i) => i % every === 0 || i === history.length - 1);
  const shown = (value) => (isNumber(value) ? value.toFixed(4) : "–");
  const body = make("tbody");
  for (const line of kept) {
    const cells = [line.step, shown(line.loss), shown(line.val_loss)].map((text) =>
      make("td", { class: "number", text }),
    );
    body.append(make("tr", {}, ...cells));
  }
  const head = make(
    "tr",
    {},
    ...["Step", "Loss", "Validation loss"].map((text) => make("th", { scope: "col", class: "number", text })),
  );
  const table = make("table", { class: "plain" }, make("thead", {}, head), body);
  return make(
    "details",
    {},
    make("summary", { text: every > 1 ? `The numbers, one line in ${every}` : "The numbers" }),
    table,
  );
}

// Pictures of training: attention maps, the loss of each token, and the effect of one step on each tensor.

import { byId, make, say } from "./dom.js";
import { paint, paintSigned } from "./heat.js";
import { chip } from "./tokens.js";

const FULL = 5; // nats at which a token's chip is full

/** Show a text as chips that are filled in proportion to the token's loss; the first token has no loss. */
export function showTokenLosses(place, tokens, losses) {
  const chips = tokens.map((token, i) => {
    const loss = losses[i];
    const element = chip(token, {
      figure: loss === null ? "–" : loss.toFixed(2),
      share: (loss ?? 0) / FULL,
      drawn: i > 0,
      button: false,
    });
    element.setAttribute("role", "listitem");
    return element;
  });
  place.replaceChildren(...chips);
}

/** Show the map of every head. @param {number[][][][]} attention [layer][head][t][s] */
export function showHeads(place, attention) {
  const layers = attention.map((heads, layer) => {
    const maps = make("div", { class: "maps" });
    maps.style.setProperty("--columns", Math.min(heads.length, 4));
    heads.forEach((rows, head) => {
      const canvas = make("canvas", {
        class: "map",
        role: "img",
        "aria-label": `Attention of layer ${layer + 1}, head ${head + 1}`,
      });
      paint(canvas, rows);
      maps.append(make("figure", {}, canvas, make("figcaption", { text: `head ${head + 1}` })));
    });
    return make("div", { class: "layer" }, make("h3", { text: `Layer ${layer + 1}` }), maps);
  });
  if (!layers.length) layers.push(make("p", { text: "This model has no heads: it looks only at the last token." }));
  place.replaceChildren(...layers);
}

/** Show one training step: its document, and each tensor's gradient and update. */
export function explainStep({ step, loss, lr, tokens, losses, tensors }) {
  say("train-step-title", `Step ${step}: loss ${loss.toFixed(4)}, learning rate ${Number(lr.toPrecision(4))}`);
  showTokenLosses(byId("train-step-tokens"), tokens, [null, ...losses]);
  const titles = ["Tensor", "Shape", "Gradient", "Norm", "Update", "Norm", "Weights’ norm"];
  const head = make("tr", {}, ...titles.map((text) => make("th", { scope: "col", text })));
  const rows = tensors.map(({ name, rows, columns, weights, gradient, update }) => {
    const picture = (numbers, what) => {
      const canvas = make("canvas", { class: "matrix", role: "img", "aria-label": `${what} of ${name}` });
      paintSigned(canvas, numbers, rows, columns);
      return make("td", {}, canvas);
    };
    const figure = (numbers) => make("td", { class: "number", text: norm(numbers).toPrecision(3) });
    return make(
      "tr",
      {},
      make("th", { scope: "row", text: name }),
      make("td", { class: "number", text: `${rows} × ${columns}` }),
      picture(gradient, "Gradient"),
      figure(gradient),
      picture(update, "Update"),
      figure(update),
      figure(weights),
    );
  });
  byId("train-tensors").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

const norm = (numbers) => Math.sqrt(numbers.reduce((sum, number) => sum + number * number, 0));

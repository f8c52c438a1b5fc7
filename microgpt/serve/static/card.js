// The model card: the model's architecture, its training, and the device on which it runs.

import { showHistory } from "./curve.js";
import { byId, make, say } from "./dom.js";
import { glyph, name } from "./tokens.js";

const yesNo = (value) => (value ? "yes" : "no");
const grouped = (number) => number.toLocaleString("en");

function facts(card) {
  const isGpt = card.kind === "gpt";
  return [
    ["Name", card.id],
    ["Kind", card.kind + (card.is_chat ? ", for chat" : "")],
    ["Parameters", grouped(card.parameters)],
    ["Block size", `${card.block_size} tokens`],
    ["Width (n_embd)", card.n_embd],
    ["Heads (n_head)", isGpt ? card.n_head : null],
    ["Layers (n_layer)", isGpt ? card.n_layer : null],
    ["Activation", isGpt ? card.activation : null],
    ["Tied output matrix (tie_lm_head)", yesNo(card.tie_lm_head)],
    ["Norm on the input (input_rmsnorm)", yesNo(card.input_rmsnorm)],
    ...Object.entries(card.options).map(([key, value]) => [key, value === true ? "yes" : value]),
    ["Style", card.style ?? "none"],
    ["Trained for", `${grouped(card.step)} steps`],
    ["Validation loss", card.val_loss === null ? "not measured" : `${card.val_loss.toFixed(4)} nats per token`],
    ["Seed", card.seed ?? "unknown"],
    ["Backend", card.backend],
    ["Device", card.device + (card.using_gpu ? " (GPU)" : "")],
    ["Numbers", card.dtype],
  ].filter(([, value]) => value !== null);
}

export function showCard(card) {
  const kind = card.is_chat ? "a chat model" : card.kind === "gpt" ? "a GPT" : "a bigram";
  const loss = card.val_loss === null ? "" : `, validation loss ${card.val_loss.toFixed(3)}`;
  const steps = `${grouped(card.step)} training steps`;
  say(
    "summary",
    `${card.id}, ${kind} with ${grouped(card.parameters)} parameters after ${steps}${loss}. Runs on ${card.device} (${card.backend}).`,
  );
  byId("facts").replaceChildren(
    ...facts(card).map(([term, value]) =>
      make("div", {}, make("dt", { text: term }), make("dd", { text: String(value) })),
    ),
  );
  const characters = card.characters.map((text) => ({ text, special: null }));
  const specials = card.special_tokens.map((special) => ({ text: "", special }));
  const count = `${card.vocab_size} tokens: ${characters.length} characters, ${specials.length + 1} without text.`;
  const list = make("ul", { class: "vocabulary", "aria-label": "Tokens" });
  [...characters, ...specials].forEach((token, id) =>
    list.append(make("li", { title: `${id}: ${name(token)}`, text: glyph(token) })),
  );
  list.append(make("li", { title: "begins and ends every text", text: "start/end" }));
  byId("vocabulary").replaceChildren(make("p", { text: count }), list);
  const rows = card.tensors.map((tensor) => {
    const numbers = tensor.shape.reduce((product, size) => product * size, 1);
    const cells = [
      make("td", { class: "number", text: tensor.shape.join(" × ") }),
      make("td", { class: "number", text: grouped(numbers) }),
    ];
    return make("tr", {}, make("th", { scope: "row", text: tensor.name }), ...cells);
  });
  const head = make("tr", {}, make("th", { scope: "col", text: "Name" }));
  head.append(...["Shape", "Numbers"].map((text) => make("th", { scope: "col", class: "number", text })));
  byId("tensors").classList.add("plain");
  byId("tensors").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  showHistory(byId("curve"), card.history);
}

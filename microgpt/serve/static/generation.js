// From logits to text: temperature, top-k, a style's bias and generation, as in inference/sampling.py and
// inference/generation.py. The same seed gives the same text.

import { Decoder } from "./model.js";

const SMALLEST_TEMPERATURE = 1e-100; // below, 1 / temperature could overflow, and only the likeliest token is possible

/**
 * @typedef {object} Policy
 * @property {number} temperature 0: always the likeliest token
 * @property {number | null} topK null: the whole vocabulary
 * @property {number | null} maxTokens null: until the block is full
 * @property {string[]} phrases phrases of the model's style
 * @property {number} bias added to the logit of each character that begins or continues a phrase
 */

/** Return softmax(logits / temperature) over the topK likeliest tokens (V,); ties go to the lower id. */
export function probabilities(logits, { temperature, topK }) {
  if (!logits.every(Number.isFinite)) throw new Error("the model's logits contain NaN or infinity: training probably diverged");
  if (temperature < SMALLEST_TEMPERATURE) {
    const certain = new Float64Array(logits.length);
    certain[logits.indexOf(logits.reduce((a, b) => Math.max(a, b)))] = 1;
    return certain;
  }
  const scaled = logits.map((logit) => logit * (1 / temperature));
  if (topK && topK < scaled.length) for (const id of byLikelihood(scaled).slice(topK)) scaled[id] = -Infinity;
  const largest = scaled.reduce((a, b) => Math.max(a, b));
  const exps = scaled.map((logit) => Math.exp(logit - largest));
  const norm = 1 / exps.reduce((a, b) => a + b);
  return exps.map((exp) => exp * norm);
}

/** Return token ids, the likeliest first. */
export const byLikelihood = (scores) => [...scores.keys()].sort((a, b) => scores[b] - scores[a]);

/** Return the characters that begin or continue a phrase after `text`; phrases begin only at the beginning of a word. */
function phraseCharacters(text, phrases) {
  const found = new Set();
  const before = [...text];
  for (const phrase of phrases.map((each) => [...each])) {
    for (let length = Math.min(phrase.length - 1, before.length); length >= 0; length--) {
      const start = before.length - length;
      const startsWord = start === 0 || !/[\p{L}\p{N}]/u.test(before[start - 1]);
      if (!startsWord || before.slice(start).join("") !== phrase.slice(0, length).join("")) continue;
      found.add(phrase[length]);
      break;
    }
  }
  return found;
}

function addStyleBias(logits, tokens, tokenizer, { phrases, bias }) {
  if (!phrases.length || !bias) return;
  for (const char of phraseCharacters(tokenizer.decode(tokens), phrases)) {
    if (tokenizer.ids.has(char)) logits[tokenizer.ids.get(char)] += bias;
  }
}

/**
 * Draw the text that follows a prompt, token by token. With maxTokens, the context slides when the block is full: the
 * second half of the block is read again from position 0. The returned reason is end (ended by the model), length or
 * block.
 * @param {import("./spec.js").Spec} spec
 * @param {import("./spec.js").Weights} weights
 * @param {import("./tokenizer.js").Tokenizer} tokenizer
 * @param {number[]} prompt token ids, bos first
 * @param {Policy} policy
 * @param {import("./python_random.js").PythonRandom} random
 * @returns {Generator<{id: number, probs: Float64Array}, {reason: string, text: number[]}>}
 */
export function* generate(spec, weights, tokenizer, prompt, policy, random) {
  const tokens = [...prompt];
  const text = [];
  let pending = prompt;
  let decoder = new Decoder(spec, weights);
  for (;;) {
    let logits = null;
    for (const token of pending) logits = decoder.feed(token);
    addStyleBias(logits, tokens, tokenizer, policy);
    const probs = probabilities(logits, policy);
    const id = random.choice(probs);
    yield { id, probs };
    if (tokenizer.ends.has(id)) return { reason: "end", text };
    tokens.push(id);
    text.push(id);
    pending = [id];
    if (text.length === policy.maxTokens) return { reason: "length", text };
    if (decoder.position < spec.block_size) continue;
    if (!policy.maxTokens) return { reason: "block", text };
    pending = tokens.slice(-Math.max(Math.floor(spec.block_size / 2), 1));
    decoder = new Decoder(spec, weights);
  }
}

/** Return a text drawn with `generate`, as a string. */
export function drawText(spec, weights, tokenizer, policy, random) {
  const tokens = generate(spec, weights, tokenizer, [tokenizer.bos], policy, random);
  let next = tokens.next();
  while (!next.done) next = tokens.next();
  return tokenizer.decode(next.value.text);
}

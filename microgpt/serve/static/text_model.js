// A trained model in this browser, which computes the answers of the server's routes model, attention and stream.

import { byLikelihood, generate } from "./generation.js";
import { readText } from "./model.js";
import { namedWeights } from "./spec.js";
import { PythonRandom } from "./python_random.js";
import { encodeConversation, encodePrompt, encodeWhole, Tokenizer, UserError } from "./tokenizer.js";

const rounded = (value, decimals) => Math.round(value * 10 ** decimals) / 10 ** decimals;

export class TextModel {
  /**
   * @param {object} description
   * @param {import("./spec.js").Spec} description.spec
   * @param {string[]} description.chars
   * @param {string[]} description.special
   * @param {string[]} description.phrases phrases of the style
   * @param {number} description.bias bias of the style
   * @param {number} description.max_new_tokens
   * @param {ArrayBuffer} weights float32, in the order of `shapes`
   */
  constructor(description, weights) {
    this.spec = description.spec;
    this.description = description;
    this.weights = namedWeights(description.spec, weights);
    this.tokenizer = new Tokenizer(description.chars, description.special);
  }

  prompt({ prompt, messages }) {
    const { tokenizer, spec } = this;
    if (messages) return encodeConversation(messages, tokenizer, spec.block_size);
    return { tokens: encodePrompt(prompt, tokenizer, spec.block_size, "prompt"), dropped: 0 };
  }

  policy(body, promptTokens) {
    const { phrases, bias, max_new_tokens: most } = this.description;
    if (body.max_tokens > most) throw new UserError(`max_tokens=${body.max_tokens} is not allowed: at most ${most}`);
    const room = this.spec.block_size - promptTokens + 1;
    const maxTokens = body.max_tokens ?? (room > most ? most : null);
    return { temperature: body.temperature, topK: body.top_k ?? null, maxTokens, phrases, bias };
  }

  /** Yield the events of the route `stream`. */
  *stream(body) {
    const { tokens, dropped } = this.prompt(body);
    const policy = this.policy(body, tokens.length);
    yield { type: "start", tokens_dropped: dropped, prompt_tokens: tokens.length };
    const random = new PythonRandom(body.seed);
    const text = generate(this.spec, this.weights, this.tokenizer, tokens, policy, random);
    let next = text.next();
    for (; !next.done; next = text.next()) yield this.tokenEvent(next.value, body.candidates);
    yield { type: "end", stop_reason: next.value.reason, completion_tokens: next.value.text.length };
  }

  tokenEvent({ id, probs }, count) {
    const described = (each) => ({ ...this.tokenizer.token(each), probability: rounded(probs[each], 9) });
    const likeliest = byLikelihood(probs).slice(0, count);
    return { type: "token", ...described(id), candidates: likeliest.filter((each) => probs[each] > 0).map(described) };
  }

  /** Return the answer of the route `attention`. */
  attention({ text, messages }) {
    const { tokenizer, spec } = this;
    const tokens = messages
      ? encodeWhole(messages, tokenizer, spec.block_size)
      : encodePrompt(text, tokenizer, spec.block_size, "text");
    return { tokens: tokens.map((id) => tokenizer.token(id)), ...readText(spec, this.weights, tokens) };
  }
}

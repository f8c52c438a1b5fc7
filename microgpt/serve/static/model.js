// The architecture, and a model that reads a text token by token with a KV cache. The formulas are those of
// engines/scalar/model.py. Weights may be float32 or float64; sums are float64.

/**
 * The architecture of a model (model/spec.py).
 * @typedef {object} Spec
 * @property {string} kind gpt or bigram
 * @property {number} vocab_size V, with the token that begins and ends a text
 * @property {number} n_embd E, width of the residual stream; V for a bigram
 * @property {number} n_head
 * @property {number} n_layer 0 for a bigram
 * @property {number} block_size the maximum number of tokens in the context
 * @property {boolean} tie_lm_head the output matrix is wte
 * @property {boolean} input_rmsnorm a norm on the summed embedding
 * @property {string} activation a key of ACTIVATIONS
 * @property {number} init_std
 * @property {boolean} zero_init_residual
 */

/** @typedef {Record<string, Float32Array | Float64Array>} Weights tensors by name, row major (outputs, inputs) */

const EPSILON = 1e-5; // of every RMSNorm

/** f(x), and f'(x) from x; the derivative of relu at 0 is 0. */
export const ACTIVATIONS = {
  relu: { value: (x) => (x > 0 ? x : 0), slope: (x) => (x > 0 ? 1 : 0) },
  relu_squared: { value: (x) => (x > 0 ? x * x : 0), slope: (x) => (x > 0 ? 2 * x : 0) },
};

const hasPositions = (spec) => spec.kind === "gpt";

/** The tensors that initial values are drawn for, in that order: [name, rows, columns]. A tied lm_head is drawn too. */
export function drawnShapes(spec) {
  const [V, E] = [spec.vocab_size, spec.n_embd];
  const shapes = [["wte", V, E]];
  if (hasPositions(spec)) shapes.push(["wpe", spec.block_size, E]);
  shapes.push(["lm_head", V, E]);
  for (let layer = 0; layer < spec.n_layer; layer++) {
    for (const name of ["attn_wq", "attn_wk", "attn_wv", "attn_wo"]) shapes.push([`layer${layer}.${name}`, E, E]);
    shapes.push([`layer${layer}.mlp_fc1`, 4 * E, E], [`layer${layer}.mlp_fc2`, E, 4 * E]);
  }
  return shapes;
}

/** The tensors that a model has: [name, rows, columns]. */
export const shapes = (spec) => drawnShapes(spec).filter(([name]) => name !== "lm_head" || !spec.tie_lm_head);

export const outputTensor = (spec) => (spec.tie_lm_head ? "wte" : "lm_head");

/** The tensors of a model by name, from the numbers of all of them one after the other. */
export function namedWeights(spec, /** @type {ArrayBuffer} float32 */ buffer) {
  let start = 0;
  const named = shapes(spec).map(([name, rows, columns]) => {
    start += 4 * rows * columns;
    return [name, new Float32Array(buffer, start - 4 * rows * columns, rows * columns)];
  });
  return Object.fromEntries(named);
}

/** y = x W^T with x (n,), W (y.length, n). */
function linear(y, x, W) {
  const n = x.length;
  const even = n - (n % 4);
  for (let o = 0, w = 0; o < y.length; o++) {
    let a = 0; // four sums, because one would wait for each addition
      let b = 0;
      let c = 0;
      let d = 0;
    let i = 0;
    for (; i < even; i += 4, w += 4) {
      a += W[w] * x[i];
      b += W[w + 1] * x[i + 1];
      c += W[w + 2] * x[i + 2];
      d += W[w + 3] * x[i + 3];
    }
    for (; i < n; i++, w++) a += W[w] * x[i];
    y[o] = a + b + (c + d);
  }
}

/** y = x / sqrt(mean(x^2) + eps); y may be x. */
function rmsnorm(y, x) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * x[i];
  const scale = 1 / Math.sqrt(sum / x.length + EPSILON);
  for (let i = 0; i < x.length; i++) y[i] = x[i] * scale;
}

/** A model reading one text. */
export class Decoder {
  /** @param {Spec} spec @param {Weights} weights */
  constructor(spec, weights) {
    this.spec = spec;
    this.weights = weights;
    this.position = 0;
    const cache = () => Array.from({ length: spec.n_layer }, () => new Float64Array(spec.block_size * spec.n_embd));
    this.keys = cache(); // of each layer (block_size, E)
    this.values = cache();
    this.x = new Float64Array(spec.n_embd); // the residual stream
    this.normed = new Float64Array(spec.n_embd);
    this.q = new Float64Array(spec.n_embd);
    this.mixed = new Float64Array(spec.n_embd);
    this.hidden = new Float64Array(4 * spec.n_embd);
    /** The attention weights of the last position: [layer][head] (position + 1,). @type {Float64Array[][]} */
    this.attention = [];
  }

  /** Read a token. Returns the logits (V,) of the one after it. */
  feed(token) {
    const { spec, weights, x } = this;
    const E = spec.n_embd;
    for (let i = 0; i < E; i++) x[i] = weights.wte[token * E + i];
    if (hasPositions(spec)) for (let i = 0; i < E; i++) x[i] += weights.wpe[this.position * E + i];
    if (spec.input_rmsnorm) rmsnorm(x, x);
    this.attention = [];
    for (let layer = 0; layer < spec.n_layer; layer++) {
      this.attend(layer);
      this.transform(layer);
    }
    this.position += 1;
    const logits = new Float64Array(spec.vocab_size);
    linear(logits, x, weights[outputTensor(spec)]);
    return logits;
  }

  /** Attention: this position reads from the earlier ones. */
  attend(layer) {
    const { weights, normed, q, mixed, x } = this;
    const E = x.length;
    const at = this.position * E;
    rmsnorm(normed, x);
    linear(q, normed, weights[`layer${layer}.attn_wq`]);
    linear(this.keys[layer].subarray(at, at + E), normed, weights[`layer${layer}.attn_wk`]);
    linear(this.values[layer].subarray(at, at + E), normed, weights[`layer${layer}.attn_wv`]);
    const heads = [];
    for (let head = 0; head < this.spec.n_head; head++) heads.push(this.attendHead(layer, head));
    this.attention.push(heads);
    linear(normed, mixed, weights[`layer${layer}.attn_wo`]);
    for (let i = 0; i < E; i++) x[i] += normed[i];
  }

  /** Write one head's part of `mixed`; returns its attention weights (position + 1,). */
  attendHead(layer, head) {
    const { q, mixed } = this;
    const [keys, values] = [this.keys[layer], this.values[layer]];
    const E = q.length;
    const size = E / this.spec.n_head;
    const from = head * size;
    const scale = 1 / Math.sqrt(size);
    const shares = new Float64Array(this.position + 1);
    let largest = -Infinity;
    for (let s = 0; s < shares.length; s++) {
      let dot = 0;
      for (let i = from; i < from + size; i++) dot += q[i] * keys[s * E + i];
      shares[s] = dot * scale;
      if (shares[s] > largest) largest = shares[s];
    }
    let total = 0;
    for (let s = 0; s < shares.length; s++) total += shares[s] = Math.exp(shares[s] - largest);
    for (let i = from; i < from + size; i++) mixed[i] = 0;
    for (let s = 0; s < shares.length; s++) {
      shares[s] /= total;
      for (let i = from; i < from + size; i++) mixed[i] += shares[s] * values[s * E + i];
    }
    return shares;
  }

  /** MLP: this position alone. */
  transform(layer) {
    const { weights, normed, hidden, x } = this;
    const activation = ACTIVATIONS[this.spec.activation].value;
    rmsnorm(normed, x);
    linear(hidden, normed, weights[`layer${layer}.mlp_fc1`]);
    for (let i = 0; i < hidden.length; i++) hidden[i] = activation(hidden[i]);
    linear(normed, hidden, weights[`layer${layer}.mlp_fc2`]);
    for (let i = 0; i < x.length; i++) x[i] += normed[i];
  }
}

/**
 * Read a whole text (token ids, the first begins it).
 * @returns {{attention: number[][][][], losses: (number | null)[]}} attention [layer][head][t][s], 0 for s > t; nats of
 *   each token, given those before it
 */
export function readText(spec, weights, tokens) {
  const decoder = new Decoder(spec, weights);
  const heads = () => Array.from({ length: spec.n_head }, () => []);
  const attention = Array.from({ length: spec.n_layer }, heads);
  const losses = [null];
  tokens.forEach((token, t) => {
    const logits = decoder.feed(token);
    decoder.attention.forEach((layer, l) =>
      layer.forEach((shares, h) => {
        attention[l][h].push([...shares, ...new Array(tokens.length - shares.length).fill(0)]);
      }),
    );
    if (t + 1 < tokens.length) losses.push(tokenLoss(logits, tokens[t + 1]));
  });
  return { attention, losses };
}

/** -log softmax(logits)[target]. */
function tokenLoss(logits, target) {
  const largest = Math.max(...logits);
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - largest);
  return Math.log(sum) + largest - logits[target];
}

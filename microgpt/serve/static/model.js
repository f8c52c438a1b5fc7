// A model that reads a text token by token with a KV cache. Options and formulas are the same as in model/spec.py. Weights
// may be float32 or float64; sums are float64.

import { hasPositions, kvHeads, mlpWidth, outputTensor } from "./spec.js";

/** @typedef {import("./spec.js").Spec} Spec */
/** @typedef {import("./spec.js").Weights} Weights */

export const ACTIVATIONS = {
  relu: (x) => (x > 0 ? x : 0),
  relu_squared: (x) => (x > 0 ? x * x : 0),
  gelu: (x) => (x * (1 + erf(x / Math.SQRT2))) / 2,
  gelu_tanh: (x) => (x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))) / 2,
  silu: (x) => (x * (1 + Math.tanh(x / 2))) / 2,
};

/** Position encoding -> function that rotates a head's query or key x (D,) at position t. */
const ROTATIONS = { learned: () => {}, rope, none: () => {} };

const NORMS = { rmsnorm, layernorm };

/** Decodes one text with a model. */
export class Decoder {
  /** @param {Spec} spec @param {Weights} weights */
  constructor(spec, weights) {
    this.spec = spec;
    this.weights = weights;
    this.position = 0;
    const E = spec.n_embd;
    this.headSize = E / spec.n_head; // D
    this.keySize = kvHeads(spec) * this.headSize; // number of features of the keys of a position
    const cache = () => Array.from({ length: spec.n_layer }, () => new Float64Array(spec.block_size * this.keySize));
    this.keys = cache(); // per layer (block_size, keySize)
    this.values = cache();
    this.x = new Float64Array(E); // the residual stream
    this.normed = new Float64Array(E);
    this.q = new Float64Array(E);
    this.mixed = new Float64Array(E);
    this.hidden = new Float64Array(mlpWidth(spec));
    this.gate = new Float64Array(mlpWidth(spec));
    /** The attention weights of the last position: [layer][head] (position + 1,). @type {Float64Array[][]} */
    this.attention = [];
  }

  /** Read a token. Returns the logits (V,) of the next token. */
  feed(token) {
    const { spec, weights, x } = this;
    const E = spec.n_embd;
    for (let i = 0; i < E; i++) x[i] = weights.wte[token * E + i];
    if (hasPositions(spec)) for (let i = 0; i < E; i++) x[i] += weights.wpe[this.position * E + i];
    if (spec.input_rmsnorm) rmsnorm(x, x, spec.norm_eps);
    this.attention = [];
    for (let layer = 0; layer < spec.n_layer; layer++) {
      this.attend(layer);
      this.transform(layer);
    }
    if (spec.final_norm) this.norm(x, x, "final_norm");
    this.position += 1;
    const logits = new Float64Array(spec.vocab_size);
    multiply(logits, x, weights[outputTensor(spec)]);
    const cap = spec.logit_softcap;
    return cap ? logits.map((logit) => cap * Math.tanh(logit / cap)) : logits;
  }

  /** Attention: this position reads from itself and from earlier positions. */
  attend(layer) {
    const { spec, normed, q, x } = this;
    const name = `layer${layer}`;
    const at = this.position * this.keySize;
    const k = this.keys[layer].subarray(at, at + this.keySize);
    const v = this.values[layer].subarray(at, at + this.keySize);
    this.norm(normed, x, `${name}.attn_norm`);
    this.linear(q, normed, `${name}.attn_wq`);
    this.linear(k, normed, `${name}.attn_wk`);
    this.linear(v, normed, `${name}.attn_wv`);
    for (const features of [q, k]) this.encode(features);
    const heads = [];
    for (let head = 0; head < spec.n_head; head++) heads.push(this.attendHead(layer, head));
    this.attention.push(heads);
    this.linear(normed, this.mixed, `${name}.attn_wo`);
    for (let i = 0; i < x.length; i++) x[i] += normed[i];
  }

  /** Encode the position in each head's query or key, and normalize it. */
  encode(features) {
    const { spec, headSize } = this;
    for (let from = 0; from < features.length; from += headSize) {
      const head = features.subarray(from, from + headSize);
      ROTATIONS[spec.position](head, this.position, spec.rope_theta);
      if (spec.qk_norm) rmsnorm(head, head, spec.norm_eps);
    }
  }

  /** Write one head's part of `mixed`; returns its attention weights (position + 1,). */
  attendHead(layer, head) {
    const { spec, q, mixed, headSize, keySize } = this;
    const [keys, values] = [this.keys[layer], this.values[layer]];
    const from = head * headSize; // in q and mixed
    const shared = Math.floor((head * kvHeads(spec)) / spec.n_head) * headSize; // in keys and values
    const scale = 1 / Math.sqrt(headSize);
    const shares = new Float64Array(this.position + 1);
    let largest = -Infinity;
    for (let s = 0; s < shares.length; s++) {
      const key = s * keySize + shared;
      let dot = 0;
      for (let i = 0; i < headSize; i++) dot += q[from + i] * keys[key + i];
      shares[s] = dot * scale;
      if (shares[s] > largest) largest = shares[s];
    }
    let total = 0;
    for (let s = 0; s < shares.length; s++) total += shares[s] = Math.exp(shares[s] - largest);
    mixed.fill(0, from, from + headSize);
    for (let s = 0; s < shares.length; s++) {
      const value = s * keySize + shared;
      shares[s] /= total;
      for (let i = 0; i < headSize; i++) mixed[from + i] += shares[s] * values[value + i];
    }
    return shares;
  }

  /** MLP: each position is processed independently. */
  transform(layer) {
    const { spec, normed, hidden, gate, x } = this;
    const activation = ACTIVATIONS[spec.activation];
    const name = `layer${layer}`;
    this.norm(normed, x, `${name}.mlp_norm`);
    this.linear(hidden, normed, `${name}.mlp_fc1`);
    if (spec.gated_mlp) {
      this.linear(gate, normed, `${name}.mlp_gate`);
      for (let i = 0; i < hidden.length; i++) hidden[i] *= activation(gate[i]);
    } else for (let i = 0; i < hidden.length; i++) hidden[i] = activation(hidden[i]);
    this.linear(normed, hidden, `${name}.mlp_fc2`);
    for (let i = 0; i < x.length; i++) x[i] += normed[i];
  }

  /** y = x W^T + b with the matrix of that name, and its bias if the model has one. */
  linear(y, x, name) {
    multiply(y, x, this.weights[name]);
    const bias = this.weights[`${name}_bias`];
    if (bias) for (let i = 0; i < y.length; i++) y[i] += bias[i];
  }

  /** The model's norm, with the gain and the bias of that name if it has them; y may be x. */
  norm(y, x, name) {
    NORMS[this.spec.norm](y, x, this.spec.norm_eps);
    const gain = this.weights[`${name}_gain`];
    const bias = this.weights[`${name}_bias`];
    if (gain) for (let i = 0; i < y.length; i++) y[i] *= gain[i];
    if (bias) for (let i = 0; i < y.length; i++) y[i] += bias[i];
  }
}

/** y = x W^T with x (n,), W (y.length, n). */
function multiply(y, x, W) {
  const n = x.length;
  const even = n - (n % 4);
  for (let o = 0, w = 0; o < y.length; o++) {
    let a = 0; // four sums, because a single sum would wait for each addition
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
function rmsnorm(y, x, epsilon) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * x[i];
  const scale = 1 / Math.sqrt(sum / x.length + epsilon);
  for (let i = 0; i < x.length; i++) y[i] = x[i] * scale;
}

/** y = (x - mean) / sqrt(variance + eps); y may be x. */
function layernorm(y, x, epsilon) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i];
  for (let i = 0; i < x.length; i++) y[i] = x[i] - sum / x.length;
  rmsnorm(y, y, epsilon);
}

/** Rotate the features (j, j + D/2) of a head x (D,) at position t by the angle t theta^(-2j / D). */
function rope(x, t, theta) {
  const half = x.length / 2;
  for (let j = 0; j < half; j++) {
    const angle = t * theta ** (-j / half);
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    const [first, second] = [x[j], x[j + half]];
    x[j] = first * cos - second * sin;
    x[j + half] = second * cos + first * sin;
  }
}

/** erf(x) = 2 / sqrt(pi) e^(-x^2) (x + 2 x^3 / 3 + 4 x^5 / 15 + ...); all terms have the sign of x. */
function erf(x) {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) sum += term *= (2 * x * x) / (2 * n + 1);
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

/**
 * Read a whole text (token ids, bos first).
 * @returns {{attention: number[][][][], losses: (number | null)[]}} attention [layer][head][t][s], 0 for s > t; losses in
 *   nats of each token, given the tokens before it
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

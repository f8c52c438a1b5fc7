// Training in float64: forward pass, hand-written backward pass and Adam over flat arrays. The formulas are the same as in
// engines/scalar, for microgpt.py's model and the bigram; the supported options are tie_lm_head, input_rmsnorm and two
// activations. T is the number of positions of an example.

import {
  attention,
  attentionBackward,
  crossEntropy,
  linear,
  linearBackward,
  rmsnorm,
  rmsnormBackward,
} from "./layers.js";
import { ACTIVATIONS } from "./model.js";
import { outputTensor, shapes } from "./spec.js";

/** The derivatives of the activations; the derivative of relu at 0 is 0. */
const SLOPES = { relu: (x) => (x > 0 ? 1 : 0), relu_squared: (x) => (x > 0 ? 2 * x : 0) };

/** @typedef {import("./spec.js").Spec} Spec */
/** @typedef {import("./python_random.js").PythonRandom} PythonRandom */
/**
 * @typedef {object} Adam
 * @property {number} beta1
 * @property {number} beta2
 * @property {number} eps
 */

/** Return the initial weights of every tensor, drawn in microgpt.py's order. @returns {Record<string, Float64Array>} */
export function initialWeights(/** @type {Spec} */ spec, /** @type {PythonRandom} */ random) {
  /** @type {Record<string, Float64Array>} */
  const weights = {};
  for (const [name, rows, columns] of shapes({ ...spec, tie_lm_head: false })) {
    const startsAtZero = spec.residual_init === "zero" && /\.(attn_wo|mlp_fc2)$/.test(name);
    const deviation = startsAtZero ? 0 : spec.init_std;
    weights[name] = Float64Array.from({ length: rows * columns }, () => random.gauss(0, deviation));
  }
  if (spec.tie_lm_head) delete weights.lm_head; // drawn nevertheless, so that the other tensors have the same weights
  return weights;
}

/** The values of one block's forward pass that its backward pass needs. */
class Block {
  constructor(spec, length) {
    const matrix = (columns) => new Float64Array(length * columns);
    const E = spec.n_embd;
    this.normed1 = matrix(E);
    this.scale1 = matrix(1);
    this.q = matrix(E);
    this.k = matrix(E);
    this.v = matrix(E);
    this.shares = new Float64Array(spec.n_head * length * length); // attention weights [head][t][s]
    this.mixed = matrix(E);
    this.middle = matrix(E); // the residual stream between attention and MLP
    this.normed2 = matrix(E);
    this.scale2 = matrix(1);
    this.before = matrix(4 * E); // input and output of the activation function
    this.after = matrix(4 * E);
    this.out = matrix(E);
  }
}

export class Trainer {
  /**
   * @param {Spec} spec
   * @param {Record<string, ArrayLike<number>>} weights
   * @param {Adam} adam
   */
  constructor(spec, weights, adam) {
    this.spec = spec;
    this.adam = adam;
    const sizes = shapes(spec).map(([, rows, columns]) => rows * columns);
    const count = sizes.reduce((sum, size) => sum + size, 0);
    this.parameters = new Float64Array(count); // all tensors, concatenated
    this.gradients = new Float64Array(count);
    this.m = new Float64Array(count); // Adam's moments
    this.v = new Float64Array(count);
    /** Views into `parameters` and `gradients` by tensor name. @type {Record<string, Float64Array>} */
    this.weights = {};
    this.grads = {};
    let start = 0;
    for (const [name, rows, columns] of shapes(spec)) {
      this.weights[name] = this.parameters.subarray(start, start + rows * columns);
      this.grads[name] = this.gradients.subarray(start, start + rows * columns);
      this.weights[name].set(weights[name]);
      start += rows * columns;
    }
    this.losses = new Float64Array(spec.block_size); // losses of the last example's targets
    this.allocate();
  }

  allocate() {
    const { spec } = this;
    const [T, E] = [spec.block_size, spec.n_embd];
    this.first = new Float64Array(T * E); // the residual stream before the first block
    this.firstScale = new Float64Array(T);
    this.blocks = Array.from({ length: spec.n_layer }, () => new Block(spec, T));
    this.probs = new Float64Array(T * spec.vocab_size);
    // gradients of activations
    this.dx = new Float64Array(T * E);
    this.dnormed = new Float64Array(T * E);
    this.dq = new Float64Array(T * E);
    this.dk = new Float64Array(T * E);
    this.dv = new Float64Array(T * E);
    this.dmixed = new Float64Array(T * E);
    this.dhidden = new Float64Array(T * 4 * E);
    this.dshares = new Float64Array(T);
  }

  /**
   * Train one step: forward pass, backward pass, update. A step with a non-finite loss changes nothing.
   * @param {Int32Array[]} batch examples: token ids; every token except the last predicts its successor
   * @param {number} step counted from 0
   * @param {number} lr
   * @returns {number} the mean loss over the batch's targets, in nats
   */
  step(batch, step, lr) {
    const loss = this.backward(batch);
    if (Number.isFinite(loss)) this.update(step, lr);
    return loss;
  }

  /** Set `gradients` to the gradients of the batch's mean loss, and return this loss. */
  backward(batch) {
    this.gradients.fill(0);
    const targets = batch.reduce((sum, tokens) => sum + tokens.length - 1, 0);
    let total = 0;
    for (const tokens of batch) {
      total += this.forward(tokens);
      this.backwardExample(tokens, 1 / targets);
    }
    return total / targets;
  }

  /** Return the sum of the losses of an example's targets. */
  forward(tokens) {
    const { spec, weights, first } = this;
    const [T, E, V] = [tokens.length - 1, spec.n_embd, spec.vocab_size];
    for (let t = 0; t < T; t++) {
      const row = tokens[t] * E;
      for (let i = 0; i < E; i++) first[t * E + i] = weights.wte[row + i];
    }
    if (weights.wpe) for (let i = 0; i < T * E; i++) first[i] += weights.wpe[i];
    if (spec.input_rmsnorm) rmsnorm(first, this.firstScale, first, T, E);
    let x = first;
    this.blocks.forEach((block, layer) => (x = this.forwardBlock(block, layer, x, T)));
    linear(this.probs, x, weights[outputTensor(spec)], T, E, V);
    let total = 0;
    for (let t = 0; t < T; t++) total += this.losses[t] = crossEntropy(this.probs, t * V, V, tokens[t + 1]);
    return total;
  }

  /** x (T, E) -> the residual stream after the block (T, E). */
  forwardBlock(block, layer, x, T) {
    const { spec, weights } = this;
    const E = spec.n_embd;
    const activation = ACTIVATIONS[spec.activation];
    rmsnorm(block.normed1, block.scale1, x, T, E);
    linear(block.q, block.normed1, weights[`layer${layer}.attn_wq`], T, E, E);
    linear(block.k, block.normed1, weights[`layer${layer}.attn_wk`], T, E, E);
    linear(block.v, block.normed1, weights[`layer${layer}.attn_wv`], T, E, E);
    attention(block, T, E, spec.n_head);
    linear(block.middle, block.mixed, weights[`layer${layer}.attn_wo`], T, E, E);
    for (let i = 0; i < T * E; i++) block.middle[i] += x[i];
    rmsnorm(block.normed2, block.scale2, block.middle, T, E);
    linear(block.before, block.normed2, weights[`layer${layer}.mlp_fc1`], T, E, 4 * E);
    for (let i = 0; i < T * 4 * E; i++) block.after[i] = activation(block.before[i]);
    linear(block.out, block.after, weights[`layer${layer}.mlp_fc2`], T, 4 * E, E);
    for (let i = 0; i < T * E; i++) block.out[i] += block.middle[i];
    return block.out;
  }

  /** Add the gradient of share * (sum of the example's losses). */
  backwardExample(tokens, share) {
    const { spec, weights, grads, probs, dx } = this;
    const [T, E, V] = [tokens.length - 1, spec.n_embd, spec.vocab_size];
    // d(loss)/d(logits) = softmax - one_hot(target)
    for (let t = 0; t < T; t++) probs[t * V + tokens[t + 1]] -= 1;
    for (let i = 0; i < T * V; i++) probs[i] *= share;
    const last = this.blocks.length ? this.blocks.at(-1).out : this.first;
    const output = outputTensor(spec);
    dx.fill(0, 0, T * E);
    linearBackward(dx, grads[output], probs, last, weights[output], T, E, V);
    for (let layer = spec.n_layer - 1; layer >= 0; layer--) this.backwardBlock(this.blocks[layer], layer, T);
    if (spec.input_rmsnorm) {
      this.dnormed.set(dx.subarray(0, T * E));
      dx.fill(0, 0, T * E);
      rmsnormBackward(dx, this.dnormed, this.first, this.firstScale, T, E);
    }
    for (let t = 0; t < T; t++) {
      const row = tokens[t] * E;
      for (let i = 0; i < E; i++) grads.wte[row + i] += dx[t * E + i];
    }
    if (grads.wpe) for (let i = 0; i < T * E; i++) grads.wpe[i] += dx[i];
  }

  /** Replace dx, the gradient of the block's output, with the gradient of its input. */
  backwardBlock(block, layer, T) {
    const { spec, weights, grads, dx, dnormed, dhidden, dq, dk, dv, dmixed } = this;
    const E = spec.n_embd;
    const slope = SLOPES[spec.activation];
    const backward = (dinput, doutput, input, name, inputs, outputs) => {
      const tensor = `layer${layer}.${name}`;
      linearBackward(dinput, grads[tensor], doutput, input, weights[tensor], T, inputs, outputs);
    };
    dhidden.fill(0, 0, T * 4 * E);
    backward(dhidden, dx, block.after, "mlp_fc2", 4 * E, E);
    for (let i = 0; i < T * 4 * E; i++) dhidden[i] *= slope(block.before[i]);
    dnormed.fill(0, 0, T * E);
    backward(dnormed, dhidden, block.normed2, "mlp_fc1", E, 4 * E);
    rmsnormBackward(dx, dnormed, block.normed2, block.scale2, T, E);

    dmixed.fill(0, 0, T * E);
    backward(dmixed, dx, block.mixed, "attn_wo", E, E);
    for (const d of [dq, dk, dv, dnormed]) d.fill(0, 0, T * E);
    attentionBackward(block, dq, dk, dv, dmixed, this.dshares, T, E, spec.n_head);
    backward(dnormed, dq, block.normed1, "attn_wq", E, E);
    backward(dnormed, dk, block.normed1, "attn_wk", E, E);
    backward(dnormed, dv, block.normed1, "attn_wv", E, E);
    rmsnormBackward(dx, dnormed, block.normed1, block.scale1, T, E);
  }

  /** Adam (Kingma and Ba, 2014, algorithm 1); `step` counts from 0. */
  update(step, lr) {
    const { parameters, gradients, m, v } = this;
    const { beta1, beta2, eps } = this.adam;
    const [new1, new2] = [1 - beta1, 1 - beta2];
    const correction1 = 1 - beta1 ** (step + 1);
    const correction2 = 1 - beta2 ** (step + 1);
    for (let i = 0; i < parameters.length; i++) {
      const g = gradients[i];
      m[i] = beta1 * m[i] + new1 * g;
      v[i] = beta2 * v[i] + new2 * g * g;
      parameters[i] -= (lr * (m[i] / correction1)) / (Math.sqrt(v[i] / correction2) + eps);
    }
  }
}

// Training microgpt on lines of text: the initial state, the steps, and the samples and attention shown during training. As
// in training/from_config.py, the documents are shuffled first, then the weights are drawn, then batches are trained.

import { drawText } from "./generation.js";
import { readText } from "./model.js";
import { PythonRandom } from "./python_random.js";
import { namedWeights, shapes } from "./spec.js";
import { Tokenizer, UserError } from "./tokenizer.js";
import { initialWeights, Trainer } from "./trainer.js";

const ADAM = { beta1: 0.85, beta2: 0.99, eps: 1e-8 }; // as in microgpt.py
const SAMPLES = { temperature: 0.5, topK: null, maxTokens: null, phrases: [], bias: 0 };
const PREVIEW_TIME = 200; // milliseconds
const MAX_SHOWN = 20; // maximum number of unknown characters in an error message

/**
 * @typedef {object} TrainingOptions
 * @property {string} text one document per line
 * @property {number} seed
 * @property {number} steps
 * @property {number} lr learning rate of the first step; it falls linearly to 0
 * @property {number} batch_size documents per step
 * @property {object} shape the spec without vocab_size and, for a bigram, without n_embd
 * @property {string[] | null} chars the vocabulary of the starting model; null: the characters of the text
 * @property {ArrayBuffer | null} weights the starting weights, float32; null: random weights
 */

export class TrainingSession {
  /** @param {TrainingOptions} options */
  constructor(options) {
    this.options = options;
    const documents = documentsOf(options.text);
    if (!documents.length) throw new UserError("There are no lines to train on: write or paste at least one.");
    this.tokenizer = options.chars ? new Tokenizer(options.chars) : Tokenizer.of(documents);
    const unknown = [...new Set(documents.join(""))].filter((char) => !this.tokenizer.ids.has(char));
    if (unknown.length) {
      const named = unknown.slice(0, MAX_SHOWN).join(" ");
      throw new UserError(
        `This model does not know the characters ${named}: train on lines without them, or from random weights.`,
      );
    }
    const V = this.tokenizer.size;
    /** @type {import("./spec.js").Spec} */
    this.spec = { ...options.shape, vocab_size: V };
    if (this.spec.kind === "bigram") Object.assign(this.spec, { n_embd: V, n_head: 1, n_layer: 0 });
    if (this.spec.n_embd % this.spec.n_head) {
      const { n_embd: width, n_head: heads } = this.spec;
      throw new UserError(`The width must be a multiple of the number of heads: ${width} is not a multiple of ${heads}.`);
    }
    this.examples = documents.map((text) => this.example(text));
    this.cut = documents.filter((text) => [...text].length + 1 > this.spec.block_size).length; // truncated documents
    this.random = new PythonRandom(options.seed);
    this.order = documents.map((_, i) => i);
    this.random.shuffle(this.order);
    const drawn = initialWeights(this.spec, this.random); // always drawn, because the samples use the numbers after them
    const weights = options.weights ? namedWeights(this.spec, options.weights) : drawn;
    this.trainer = new Trainer(this.spec, weights, ADAM);
    this.done = 0; // number of completed steps
    this.watched = this.examples[this.order[0]].slice(0, -1);
  }

  /** Return bos + characters + bos, cut to block_size targets. */
  example(text) {
    const { bos } = this.tokenizer;
    return Int32Array.from([bos, ...this.tokenizer.encode(text), bos].slice(0, this.spec.block_size + 1));
  }

  get isOver() {
    return this.done >= this.options.steps;
  }

  /** Return the examples of a step; documents are repeated cyclically. */
  batch(step) {
    const { batch_size: size } = this.options;
    return Array.from({ length: size }, (_, i) => this.examples[this.order[(step * size + i) % this.order.length]]);
  }

  get lr() {
    return this.options.lr * (1 - this.done / this.options.steps);
  }

  /** Train one step. Returns the loss; throws if it is not finite. */
  step() {
    const loss = this.trainer.step(this.batch(this.done), this.done, this.lr);
    if (!Number.isFinite(loss)) {
      throw new UserError(`The loss of step ${this.done + 1} is not finite: try a smaller learning rate.`);
    }
    this.done += 1;
    return loss;
  }

  /** Train one step and return its last document, and each tensor's gradient and update. */
  explainedStep() {
    const { trainer } = this;
    const before = trainer.parameters.slice();
    const lr = this.lr;
    const batch = this.batch(this.done);
    const loss = this.step();
    let start = 0;
    const tensors = shapes(this.spec).map(([name, rows, columns]) => {
      const end = start + rows * columns;
      const weights = trainer.parameters.slice(start, end);
      const update = weights.map((weight, i) => weight - before[start + i]);
      const gradient = trainer.gradients.slice(start, end);
      start = end;
      return { name, rows, columns, weights, gradient, update };
    });
    const last = batch.at(-1);
    const tokens = [...last].map((id) => this.tokenizer.token(id));
    return { step: this.done, loss, lr, tokens, losses: [...trainer.losses.slice(0, last.length - 1)], tensors };
  }

  /**
   * Return samples of the current model, always drawn with the same random numbers, so that only the model differs. A slow
   * model returns fewer than `count`.
   */
  preview(count) {
    const random = new PythonRandom(this.options.seed);
    const texts = [];
    const end = performance.now() + PREVIEW_TIME;
    while (texts.length < count && (!texts.length || performance.now() < end)) texts.push(this.draw(random));
    return texts;
  }

  /** Return samples drawn with the random numbers that follow the initial weights, as in microgpt.py after training. */
  samples(count) {
    return Array.from({ length: count }, () => this.draw(this.random));
  }

  draw(random) {
    return drawText(this.spec, this.trainer.weights, this.tokenizer, SAMPLES, random);
  }

  /** Set the text whose attention is shown. Throws UserError for unknown characters. */
  watch(text) {
    this.watched = this.example(text).slice(0, -1);
  }

  /** Return the watched text's tokens, attention [layer][head][t][s] and losses. */
  attention() {
    const tokens = [...this.watched];
    const described = tokens.map((id) => this.tokenizer.token(id));
    return { tokens: described, ...readText(this.spec, this.trainer.weights, tokens) };
  }
}

const documentsOf = (text) =>
  text
    .split(/\r\n|\r|\n/)
    .map((line) => line.trim())
    .filter(Boolean);

// The architecture of a model: its tensors and their shapes, as in model/spec.py.

/**
 * The architecture of a model: the fields of ModelSpec in model/spec.py.
 * @typedef {object} Spec
 * @property {string} kind gpt or bigram
 * @property {number} vocab_size V, including the token that begins and ends a text
 * @property {number} n_embd E, width of the residual stream; V for a bigram
 * @property {number} n_head H
 * @property {number} n_layer 0 for a bigram
 * @property {number} block_size the maximum number of tokens in the context
 * @property {boolean} tie_lm_head whether wte is also the output matrix
 * @property {boolean} input_rmsnorm whether the summed embedding is normalized
 * @property {string} activation a key of ACTIVATIONS in model.js
 * @property {string} position learned or a key of ROTATIONS in model.js
 * @property {number} rope_theta
 * @property {string} norm a key of NORMS in model.js
 * @property {number} norm_eps
 * @property {boolean} norm_gain
 * @property {boolean} final_norm
 * @property {boolean} qk_norm
 * @property {boolean} bias
 * @property {boolean} gated_mlp
 * @property {number | null} mlp_width null: 4 E
 * @property {number | null} n_kv_head null: H
 * @property {number | null} logit_softcap
 * @property {number} init_std standard deviation of the initial weights, for training
 * @property {string} residual_init zero: attn_wo and mlp_fc2 start at 0; normal
 */

/** @typedef {Record<string, Float32Array | Float64Array>} Weights tensors by name, row major (outputs, inputs) */

/** Return whether wpe is added to the embedding of a token. */
export const hasPositions = (spec) => spec.kind === "gpt" && spec.position === "learned";
export const kvHeads = (spec) => spec.n_kv_head ?? spec.n_head;
export const mlpWidth = (spec) => spec.mlp_width ?? 4 * spec.n_embd;

export const outputTensor = (spec) => (spec.tie_lm_head ? "wte" : "lm_head");

/**
 * Return the tensors of a model in order, as [name, rows, columns].
 * @param {Spec} spec
 * @returns {[string, number, number][]}
 */
export function shapes(spec) {
  const [V, E, F] = [spec.vocab_size, spec.n_embd, mlpWidth(spec)];
  const K = (kvHeads(spec) * E) / spec.n_head; // features of the keys
  const linear = (name, rows, columns) => [[name, rows, columns], ...(spec.bias ? [[`${name}_bias`, 1, rows]] : [])];
  const norm = (name) => [
    ...(spec.norm_gain ? [[`${name}_gain`, 1, E]] : []),
    ...(spec.bias && spec.norm === "layernorm" ? [[`${name}_bias`, 1, E]] : []),
  ];
  /** @type {any} */
  const found = [["wte", V, E]];
  if (hasPositions(spec)) found.push(["wpe", spec.block_size, E]);
  if (!spec.tie_lm_head) found.push(["lm_head", V, E]);
  for (let layer = 0; layer < spec.n_layer; layer++) {
    const name = `layer${layer}`;
    found.push(
      ...norm(`${name}.attn_norm`),
      ...linear(`${name}.attn_wq`, E, E),
      ...linear(`${name}.attn_wk`, K, E),
      ...linear(`${name}.attn_wv`, K, E),
      ...linear(`${name}.attn_wo`, E, E),
      ...norm(`${name}.mlp_norm`),
      ...linear(`${name}.mlp_fc1`, F, E),
      ...(spec.gated_mlp ? linear(`${name}.mlp_gate`, F, E) : []),
      ...linear(`${name}.mlp_fc2`, E, F),
    );
  }
  if (spec.final_norm) found.push(...norm("final_norm"));
  return found;
}

/** Return the tensors of a model by name, given a buffer with all tensors concatenated. */
export function namedWeights(spec, /** @type {ArrayBuffer} float32 */ buffer) {
  let start = 0;
  const named = shapes(spec).map(([name, rows, columns]) => {
    start += 4 * rows * columns;
    return [name, new Float32Array(buffer, start - 4 * rows * columns, rows * columns)];
  });
  return Object.fromEntries(named);
}

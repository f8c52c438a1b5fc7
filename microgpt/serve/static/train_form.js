// The fields of Train: the options of a training session.

import { byId, complain, mistake, say } from "./dom.js";

const LR_OF_TRAINED = 0.001; // for continuing from trained weights
const GPT_ALONE = ["n_embd", "n_head", "n_layer", "activation"];
const SHAPE = ["kind", ...GPT_ALONE, "block_size", "input_rmsnorm", "tie_lm_head"];
// The other fields of a spec, as in microgpt.py
const MICROGPT = {
  init_std: 0.08,
  residual_init: "normal",
  position: "learned",
  norm: "rmsnorm",
  norm_eps: 1e-5,
  norm_gain: false,
  final_norm: false,
  qk_norm: false,
  bias: false,
  gated_mlp: false,
  mlp_width: null,
  n_kv_head: null,
  logit_softcap: null,
};

const field = (name) => byId(`train-${name.replaceAll("_", "-")}`);

export class TrainForm {
  constructor(card) {
    this.card = card;
    byId("train-start").options[1].disabled = Boolean(this.card.not_trainable);
    byId("train-start").addEventListener("change", () => this.choose());
    byId("train-data").addEventListener("change", () => this.showFields());
    byId("train-kind").addEventListener("change", () => this.showFields());
    this.showFields();
  }

  /** Fill in the model's shape and a smaller learning rate, or restore the previous fields. */
  choose() {
    if (byId("train-start").value === "model") {
      this.before = { shape: chosenShape(), lr: byId("train-lr").value };
      showShape(this.ownShape());
      byId("train-lr").value = LR_OF_TRAINED;
    } else {
      showShape(this.before.shape);
      byId("train-lr").value = this.before.lr;
    }
    this.showFields();
  }

  /** Show and enable the fields that apply to the selected options. */
  showFields() {
    const isModel = byId("train-start").value === "model";
    const isBigram = byId("train-kind").value === "bigram";
    byId("train-lines-field").hidden = byId("train-data").value !== "lines";
    for (const name of SHAPE) field(name).disabled = isModel;
    for (const name of GPT_ALONE) field(name).disabled = isModel || isBigram;
    const hint = isModel
      ? "The optimizer starts from zero: with a learning rate well above 0.001, the model forgets at first. The other tabs keep the original weights."
      : (this.card.not_trainable ?? "");
    say("train-start-hint", hint);
  }

  /** Return the options in the fields. If a field is invalid, show an error and return null. */
  body() {
    const wrong = mistake(byId("train-form"));
    complain("train-error", wrong);
    if (wrong) return null;
    const isModel = byId("train-start").value === "model";
    const isNames = byId("train-data").value === "names";
    return {
      isModel,
      lines: isNames ? null : byId("train-lines").value,
      seed: Number(byId("train-seed").value),
      steps: Number(byId("train-steps").value),
      lr: Number(byId("train-lr").value),
      batch_size: Number(byId("train-batch-size").value),
      shape: isModel ? this.ownShape() : chosenShape(),
    };
  }

  ownShape() {
    return { ...Object.fromEntries(SHAPE.map((key) => [key, this.card[key]])), ...MICROGPT };
  }
}

/** Return the values of the shape fields. */
function chosenShape() {
  const value = ({ type, value, checked }) => ({ number: Number(value), checkbox: checked })[type] ?? value;
  return { ...Object.fromEntries(SHAPE.map((key) => [key, value(field(key))])), ...MICROGPT };
}

function showShape(shape) {
  for (const key of SHAPE) field(key)[field(key).type === "checkbox" ? "checked" : "value"] = shape[key];
}

// The page's Web Worker: it trains on both pages and, on the exported page, also runs the model. Requests are
// {id, type, body}; answers are {id, event}, then {id, result} or {id, error}. "cancel" ends a request early.

import { TextModel } from "./text_model.js";
import { UserError } from "./tokenizer.js";
import { TrainingSession } from "./training_session.js";

const TURN = 25; // milliseconds of computing between two turns of the event loop
const NEWS = 100; // milliseconds between two reports of losses
const PICTURES = 700; // minimum milliseconds between two reports of samples and attention
const SHARE = 5; // minimum interval between these reports, as a multiple of the time taken to compute them
const PREVIEW = 10; // number of samples in a report
const FINAL = 20; // number of samples after the last step, as in microgpt.py

let model = null;
let training = null;
const cancelled = new Set();

const handlers = {
  load({ description, weights }) {
    model = new TextModel(description, weights);
  },

  attention: (body) => model.attention(body),

  async stream(body, { post, isCancelled }) {
    let turn = performance.now();
    for (const event of model.stream(body)) {
      post(event);
      if (performance.now() - turn < TURN) continue;
      await nextTurn();
      turn = performance.now();
      if (isCancelled()) return;
    }
  },

  startTraining(options) {
    training = new TrainingSession(options);
    const { spec, trainer, examples, cut } = training;
    const parameters = trainer.parameters.length;
    return { parameters, spec, documents: examples.length, cut, ...pictures() };
  },

  // Train until the last step or until the request is cancelled.
  async train(_, { post, isCancelled }) {
    let losses = [];
    let seconds = 0; // spent in steps
    let steps = 0;
    let news = performance.now();
    let nextPictures = news + PICTURES;
    const report = (extra) => {
      post({ step: training.done, losses: Float64Array.from(losses), rate: steps / seconds, ...extra });
      losses = [];
      news = performance.now();
    };
    while (!training.isOver && !isCancelled()) {
      const start = performance.now();
      let now = start;
      for (; now - start < TURN && !training.isOver; now = performance.now(), steps++) losses.push(training.step());
      seconds += (now - start) / 1000;
      if (now > nextPictures) {
        report(pictures());
        const then = performance.now();
        nextPictures = then + Math.max(PICTURES, SHARE * (then - now));
      } else if (now - news > NEWS) report();
      await nextTurn();
    }
    report(pictures());
    return training.isOver ? { isOver: true, samples: training.samples(FINAL) } : { isOver: false };
  },

  trainStep() {
    const explained = training.explainedStep();
    return {
      ...explained,
      ...pictures(),
      isOver: training.isOver,
      ...(training.isOver ? { samples: training.samples(FINAL) } : {}),
    };
  },

  watch({ text }) {
    training.watch(text);
    return pictures();
  },
};

const pictures = () => ({ preview: training.preview(PREVIEW), attention: training.attention() });

// Waits for a message to the worker itself, because setTimeout(0) waits for 4 ms.
const channel = new MessageChannel();
const sleeping = [];
channel.port1.onmessage = () => sleeping.shift()();
function nextTurn() {
  return new Promise((wake) => {
    sleeping.push(wake);
    channel.port2.postMessage(null);
  });
}

addEventListener("message", async ({ data: { id, type, body } }) => {
  if (type === "cancel") {
    cancelled.add(id);
    return;
  }
  const context = { post: (event) => postMessage({ id, event }), isCancelled: () => cancelled.has(id) };
  try {
    postMessage({ id, result: await handlers[type](body, context) });
  } catch (error) {
    const said = error instanceof UserError ? error.message : `The computation failed: ${error.message}.`;
    postMessage({ id, error: said });
  } finally {
    cancelled.delete(id);
  }
});

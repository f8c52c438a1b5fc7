// Train: a model is trained in this browser, in a worker. Losses, samples and attention are shown during training.

import { names, startWorker, weights } from "./api.js";
import { Curve, numbers } from "./curve.js";
import { bringIntoSight, byId, complain, make, say, submitOnEnter } from "./dom.js";
import { TrainForm } from "./train_form.js";
import { explainStep, showHeads, showTokenLosses } from "./train_pictures.js";
import { WorkerClient } from "./worker_client.js";

const MEAN = 50; // number of steps averaged in the bold line
const POINTS = 500; // maximum number of points in a line
const ROWS = 40; // maximum number of rows in the table
const grouped = (number) => number.toLocaleString("en");

export class Train {
  constructor(card) {
    this.card = card;
    this.client = null; // the worker, which holds one training session
    this.key = null; // the options of the current session, as JSON
    this.losses = []; // of all steps of the session
    this.isOver = false;
    this.isBusy = false;
    this.pause = null; // an AbortController while training runs
    this.epoch = 0; // number of resets; results of work that began before a reset are discarded
    this.curve = new Curve(byId("train-curve"));
    this.form = new TrainForm(card);
    byId("train-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.pause) this.pause.abort();
      else this.run();
    });
    submitOnEnter(byId("train-form"));
    byId("train-lines").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.ctrlKey) event.stopPropagation(); // begins a new line
    });
    byId("train-one").addEventListener("click", () => this.step());
    byId("train-reset").addEventListener("click", () => this.reset());
    byId("train-save").addEventListener("click", () => this.save());
    byId("train-watch").addEventListener("change", () => this.watch());
  }

  /** Start a session, unless the current one was started with the same fields and has not ended. */
  async prepare() {
    const body = this.form.body();
    if (!body) return false;
    const key = JSON.stringify(body);
    const { epoch } = this;
    if (this.client?.isDead) this.client = null;
    if (this.client && this.key === key && !this.isOver) return true;
    say("train-status", "Preparing …");
    const { isModel, lines, ...options } = body;
    options.text = lines ?? (await names());
    options.weights = isModel ? await weights() : null;
    options.chars = isModel ? this.card.characters : null;
    const client = this.client ?? new WorkerClient(await startWorker());
    if (epoch !== this.epoch) return false;
    this.client = client;
    const started = await client.ask("startTraining", options);
    if (epoch !== this.epoch) return false;
    this.key = key;
    this.steps = body.steps;
    this.isOver = false;
    this.losses = [];
    byId("train-step").hidden = true;
    byId("train-result").hidden = false;
    byId("train-reset").disabled = false;
    byId("train-curve").replaceChildren();
    this.curve = new Curve(byId("train-curve"));
    this.started = started;
    this.showPictures(started);
    await this.watchAgain();
    return true;
  }

  /** Do some work with the session, unless it is busy; show errors. */
  async attempt(work) {
    if (this.isBusy) return;
    const { epoch } = this;
    this.isBusy = true;
    this.showButtons();
    complain("train-error", "");
    try {
      if (await this.prepare()) await work();
    } catch (error) {
      if (epoch !== this.epoch) return;
      say("train-status", "");
      complain("train-error", error.message);
    }
    if (epoch !== this.epoch) return;
    this.isBusy = false;
    this.pause = null;
    this.showButtons();
  }

  run() {
    return this.attempt(async () => {
      byId("train-step").hidden = true;
      say("train-status", `Training ${this.described()}.`);
      bringIntoSight(byId("train-title"));
      this.pause = new AbortController();
      this.showButtons();
      const onEvent = (event) => this.showProgress(event);
      const end = await this.client.ask("train", {}, onEvent, this.pause.signal);
      if (end.isOver) this.finish(end.samples);
      else say("train-status", `Paused after step ${grouped(this.losses.length)}.`);
      this.showTable();
    });
  }

  step() {
    return this.attempt(async () => {
      const explained = await this.client.ask("trainStep");
      this.showProgress({ ...explained, losses: [explained.loss] });
      byId("train-step").hidden = false;
      explainStep(explained);
      say("train-status", `Trained one step of ${this.described()}.`);
      if (explained.isOver) this.finish(explained.samples);
      this.showTable();
    });
  }

  /** Return a description of the session. */
  described() {
    const { spec, parameters, documents, cut } = this.started;
    const cutShort = cut ? `, of which ${grouped(cut)} are cut to the block` : "";
    const lines = `${grouped(documents)} line${documents === 1 ? "" : "s"}${cutShort}`;
    return `a ${spec.kind} with ${grouped(parameters)} parameters on ${lines}`;
  }

  finish(samples) {
    this.isOver = true;
    this.showSamples(samples);
    say("train-samples-title", `${samples.length} samples after training`);
    say("train-status", `Trained ${grouped(this.steps)} steps. Train starts over; another seed gives another model.`);
  }

  reset() {
    this.epoch += 1;
    this.client?.end();
    this.client = this.key = this.pause = null;
    this.isBusy = false;
    byId("train-result").hidden = true;
    byId("train-reset").disabled = true;
    say("train-progress", "");
    say("train-status", "The training was reset.");
    this.showButtons();
    byId("train-run").focus();
  }

  showButtons() {
    byId("train-run").textContent = this.pause ? "Pause" : "Train";
    byId("train-run").disabled = this.isBusy && !this.pause;
    byId("train-one").disabled = this.isBusy;
  }

  showProgress({ losses, rate, ...pictures }) {
    for (const loss of losses) this.losses.push(loss);
    const done = this.losses.length;
    const mean = average(this.losses.slice(-MEAN));
    const speed = rate ? ` ${grouped(Math.round(rate))} steps a second.` : "";
    const of = `Step ${grouped(done)} of ${grouped(this.steps)}.`;
    say("train-progress", `${of} Mean loss of the last ${Math.min(done, MEAN)}: ${mean.toFixed(3)} nats.${speed}`);
    const every = Math.max(1, Math.ceil(done / POINTS));
    this.curve.show([
      {
        kind: "faint",
        name: every > 1 ? `mean of ${every} steps` : "loss of a step",
        points: points(this.losses, every, every),
      },
      { kind: "mean", name: `mean of the last ${MEAN} steps`, points: points(this.losses, every, MEAN) },
    ]);
    if (pictures.preview) this.showPictures(pictures);
  }

  showPictures({ preview, attention }) {
    say("train-samples-title", "Samples");
    this.showSamples(preview);
    if (document.activeElement !== byId("train-watch")) {
      byId("train-watch").value = attention.tokens.map((token) => token.text).join("");
    }
    showTokenLosses(byId("train-losses"), attention.tokens, attention.losses);
    showHeads(byId("train-heads"), attention.attention);
  }

  showSamples(texts) {
    byId("train-samples").replaceChildren(...texts.map((text) => make("li", {}, make("code", { text }))));
  }

  showTable() {
    const every = Math.max(1, Math.ceil(this.losses.length / ROWS));
    const rows = [];
    for (let step = every; step <= this.losses.length; step += every) {
      rows.push([step, this.losses[step - 1], average(this.losses.slice(Math.max(0, step - MEAN), step))]);
    }
    this.curve.showTable(numbers(["Step", "Loss", `Mean of ${MEAN}`], rows, every));
  }

  async watch() {
    this.watched = byId("train-watch").value;
    complain("train-error", "");
    try {
      if (this.client) this.showPictures(await this.client.ask("watch", { text: this.watched }));
    } catch (error) {
      complain("train-error", error.message);
    }
  }

  /** Watch the text of the previous session in the new one, if its characters are known. */
  async watchAgain() {
    if (!this.watched) return;
    try {
      this.showPictures(await this.client.ask("watch", { text: this.watched }));
    } catch {
      this.watched = null;
    }
  }

  save() {
    const lines = ["step,loss", ...this.losses.map((loss, i) => `${i + 1},${loss}`)];
    const address = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
    make("a", { href: address, download: "losses.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }
}

const average = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;

/** Return [step, mean of the last `width` losses] for one step in `every`. */
function points(losses, every, width) {
  const found = [];
  for (let step = every; step <= losses.length; step += every) {
    found.push([step, average(losses.slice(Math.max(0, step - width), step))]);
  }
  return found;
}

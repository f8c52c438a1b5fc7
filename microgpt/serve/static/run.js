// One text under way: the server's events are kept as they come, and handed out one by one, when they are asked for.

import { stream } from "./api.js";

export class Run {
  constructor(body) {
    this.body = body;
    this.tokens = []; // come so far
    this.next = 0; // how many of them were handed out
    this.end = null; // the last event, once it has come
    this.start = null;
    this.error = null;
    this.stopped = false;
    this.abort = new AbortController();
    this.wake = () => {};
    this.read();
  }

  async read() {
    try {
      for await (const event of stream(this.body, this.abort.signal)) {
        if (event.type === "token") this.tokens.push(event);
        else if (event.type === "end") this.end = event;
        else if (event.type === "start") this.start = event;
        this.wake();
      }
    } catch (error) {
      if (!this.stopped) this.error = error;
    }
    this.wake();
  }

  stop() {
    this.stopped = true;
    this.abort.abort();
    this.wake();
  }

  // Whether everything was handed out that will ever come.
  get isOver() {
    return this.stopped || (this.next === this.tokens.length && Boolean(this.end || this.error));
  }

  // The next token; null where no more comes. Raises what went wrong.
  async take() {
    while (!this.stopped && this.next === this.tokens.length) {
      if (this.error) throw this.error;
      if (this.end) return null;
      await new Promise((wake) => (this.wake = wake));
    }
    return this.stopped ? null : this.tokens[this.next++];
  }
}

// Why a text ended, in words.
export function whyItEnded(run, card) {
  if (run.stopped) return "Stopped.";
  switch (run.end?.stop_reason) {
    case "end":
      return "Ended by the model.";
    case "length":
      return "It has as many tokens as were asked for.";
    case "block":
      return `The block of ${card.block_size} tokens is full.`;
    default:
      return "";
  }
}

// A text in progress: the server's events are stored as they arrive and returned one by one on request.

import { stream } from "./api.js";

export class Run {
  constructor(body) {
    this.body = body;
    this.tokens = []; // received so far
    this.next = 0; // number of tokens returned by `take`
    this.end = null; // the last event, once it has arrived
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

  // Whether `take` will return no more tokens.
  get isOver() {
    return this.stopped || (this.next === this.tokens.length && Boolean(this.end || this.error));
  }

  // Return the next token, or null if there are no more. Throws the error of the request, if any.
  async take() {
    while (!this.stopped && this.next === this.tokens.length) {
      if (this.error) throw this.error;
      if (this.end) return null;
      await new Promise((wake) => (this.wake = wake));
    }
    return this.stopped ? null : this.tokens[this.next++];
  }
}

// Return why a text ended, as a sentence.
export function whyItEnded(run, card) {
  if (run.stopped) return "Stopped.";
  switch (run.end?.stop_reason) {
    case "end":
      return "Ended by the model.";
    case "length":
      return "The maximum number of tokens is reached.";
    case "block":
      return `The block of ${card.block_size} tokens is full.`;
    default:
      return "";
  }
}

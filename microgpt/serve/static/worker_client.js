// Requests to worker.js, and the answers.

export class WorkerClient {
  /** @param {Worker} worker */
  constructor(worker) {
    this.worker = worker;
    this.count = 0;
    this.waiting = new Map(); // pending requests by id
    this.isDead = false;
    worker.addEventListener("message", ({ data }) => this.receive(data));
    worker.addEventListener("error", (event) => this.fail(event.message));
  }

  /**
   * Send a request. Resolves with the result; rejects with the worker's error message.
   * @param {string} type a handler of worker.js
   * @param {object} [body]
   * @param {(event: any) => void} [onEvent]
   * @param {AbortSignal} [signal] ends the request early; the result still arrives
   */
  ask(type, body, onEvent = () => {}, signal = undefined) {
    if (this.isDead) return Promise.reject(new Error("The worker has ended."));
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, onEvent });
      const cancel = () => this.worker.postMessage({ id, type: "cancel" });
      this.worker.postMessage({ id, type, body });
      signal?.addEventListener("abort", cancel);
      if (signal?.aborted) cancel();
    });
  }

  receive({ id, event, result, error }) {
    const request = this.waiting.get(id);
    if (!request) return;
    if (event !== undefined) {
      request.onEvent(event);
      return;
    }
    this.waiting.delete(id);
    if (error === undefined) request.resolve(result);
    else request.reject(new Error(error));
  }

  fail(message) {
    this.isDead = true;
    for (const { reject } of this.waiting.values()) reject(new Error(`The worker failed: ${message}`));
    this.waiting.clear();
  }

  end() {
    this.worker.terminate();
    this.isDead = true;
    this.waiting.clear(); // the promises stay pending, because the caller that ended the worker needs no answer
  }
}

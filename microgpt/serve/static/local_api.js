// Replaces api.js in an exported page, which has no server: the model is part of the page and runs in a worker.

import { WorkerClient } from "./worker_client.js";

export class Refused extends Error {
  constructor(words, status = 0) {
    super(words);
    this.status = status;
  }
}

// An exported page needs no key.
export const setKey = () => {};
export const hasKey = () => false;
export const onKeyWanted = () => {};

/** Return the text of a data block in the page. */
const block = (id) => document.getElementById(id).textContent.trim();

function bytes(base64) {
  const text = atob(base64);
  const found = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
  return found;
}

async function unzipped(base64) {
  if (!("DecompressionStream" in self)) throw new Refused("This browser is too old: it cannot unpack the page.");
  const stream = new Blob([bytes(base64)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

let content = null;
/** @returns {Promise<{card: object, description: object}>} */
const page = () => (content ??= unzipped(block("data-model")).then(JSON.parse));

/** The model's weights: float32, all tensors concatenated in the order of the card. @returns {Promise<ArrayBuffer>} */
export const weights = async () => bytes(block("data-weights")).buffer;

/**
 * The embedded names, one per line, in alphabetical order. A name is stored as the length of the prefix that it shares
 * with the previous name (A: 0) and its remaining letters.
 */
export async function names() {
  const found = [];
  let last = "";
  for (const [, shared, rest] of (await unzipped(block("data-names"))).matchAll(/([A-Z])([a-z]*)/g)) {
    last = last.slice(0, shared.charCodeAt(0) - 65) + rest;
    found.push(last);
  }
  return found.join("\n");
}

/** A worker that runs worker.js, whose script is part of the page. */
export async function startWorker() {
  const script = await unzipped(block("script-worker"));
  const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  const worker = new Worker(address);
  worker.addEventListener("message", () => URL.revokeObjectURL(address), { once: true });
  return worker;
}

let started = null;
const model = () => (started ??= load());

async function load() {
  const client = new WorkerClient(await startWorker());
  const { description } = await page();
  await client.ask("load", { description, weights: await weights() });
  return client;
}

export async function ask(path, body) {
  if (path === "model") return (await page()).card;
  return told((await model()).ask(path, body));
}

async function told(request) {
  try {
    return await request;
  } catch (error) {
    throw new Refused(error.message);
  }
}

/** Yield the events of a text as they arrive. */
export async function* stream(body, signal) {
  const events = [];
  let isOver = false;
  let wake = () => {};
  const onEvent = (event) => {
    events.push(event);
    wake();
  };
  const request = (await model()).ask("stream", body, onEvent, signal).finally(() => {
    isOver = true;
    wake();
  });
  request.catch(() => {}); // handled below
  while (events.length || !isOver) {
    if (events.length) yield events.shift();
    else await new Promise((resolve) => (wake = resolve));
  }
  await told(request);
}

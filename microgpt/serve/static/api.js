// Requests to the server, which answers with JSON or streams a text token by token. An error is always one sentence.

const KEY = "microgpt-api-key";

export class Refused extends Error {
  constructor(words, status = 0) {
    super(words);
    this.status = status;
  }
}

export const setKey = (key) => sessionStorage.setItem(KEY, key);
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

let askForKey = () => {};
export const onKeyWanted = (listener) => (askForKey = listener);

async function request(path, body, signal) {
  const headers = {};
  if (hasKey()) headers.Authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method: body === undefined ? "GET" : "POST", headers, signal };
  if (body !== undefined) options.body = JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(new URL(`microgpt/v1/${path}`, document.baseURI), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer; it may have been stopped.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) askForKey();
  throw new Refused(await words(answer), answer.status);
}

async function words(answer) {
  let said = `The server answered ${answer.status}.`;
  try {
    said = (await answer.json()).error ?? said;
  } catch {
    // no JSON: the answer of a proxy between the page and the server
  }
  const seconds = answer.headers.get("Retry-After");
  return seconds ? `${said} (Try again in ${seconds} s.)` : said;
}

export async function ask(path, body, signal) {
  return (await request(path, body, signal)).json();
}

// Yield the events of POST stream as they arrive, up to the event of type "end". Throws Refused for an event of type
// "error", and if the answer ends early.
export async function* stream(body, signal) {
  const reader = (await request("stream", body, signal)).body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let isWhole = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done && isWhole) return;
      if (done) throw new Refused("The answer broke off before its end.");
      const parts = (rest + decoder.decode(value, { stream: true })).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (!data.length) continue;
        const event = JSON.parse(data.map((line) => line.slice(5)).join("\n"));
        if (event.type === "error") throw new Refused(event.error);
        yield event;
        isWhole ||= event.type === "end";
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Refused) throw error;
    throw new Refused("The answer broke off before its end.");
  } finally {
    if (!isWhole) reader.cancel().catch(() => {});
  }
}

/** The model's weights: float32, all tensors concatenated in the order of the card. @returns {Promise<ArrayBuffer>} */
export async function weights() {
  return (await request("weights")).arrayBuffer();
}

/** The embedded names, one per line, in alphabetical order. */
export async function names() {
  const answer = await fetch(new URL("names.txt", document.baseURI));
  if (!answer.ok) throw new Refused(await words(answer), answer.status);
  return (await answer.text()).trim().split("\n").sort().join("\n");
}

/** A worker that runs worker.js. */
export async function startWorker() {
  return new Worker(new URL("worker.js", document.baseURI), { type: "module" });
}

// Convert characters to token ids and back, and conversations to prompts, as in data/tokenizer.py and
// data/conversations.py. The sorted characters have the ids 0 .. n - 1, followed by a chat model's special tokens and by
// the token that begins and ends a text (bos).

const ANSWER_SHARE = 4; // 1/4 of the block is reserved for an answer
const MIN_PROMPT = 5; // tokens: bos, user, one character, end_turn, assistant
const MAX_SHOWN = 200; // maximum number of characters of the text in an error message

/** @typedef {{role: "user" | "assistant", content: string}} Message */

/** A mistake of the user, shown as one sentence. */
export class UserError extends Error {}

export class Tokenizer {
  /** @param {string[]} chars @param {string[]} special names of a chat model's special tokens */
  constructor(chars, special = []) {
    this.chars = chars;
    this.ids = new Map(chars.map((char, id) => [char, id]));
    this.special = new Map(special.map((name, i) => [name, chars.length + i]));
    this.bos = chars.length + special.length;
    this.size = this.bos + 1;
    this.ends = new Set([this.bos, ...this.special.values()]); // tokens that end generation
    this.names = new Map([...this.special, ["bos", this.bos]].map(([name, id]) => [id, name]));
  }

  /** Return a tokenizer for all characters that occur in the texts, in the order of their code points. */
  static of(texts) {
    const chars = new Set();
    for (const text of texts) for (const char of text) chars.add(char);
    return new Tokenizer([...chars].sort((a, b) => a.codePointAt(0) - b.codePointAt(0)));
  }

  get isChat() {
    return this.special.size > 0;
  }

  /** Return the token ids of a text, without bos. Throws UserError for unknown characters, with `name` in the message. */
  encode(text, name = "text") {
    const chars = [...text];
    const unknown = [...new Set(chars)].filter((char) => !this.ids.has(char));
    if (unknown.length) {
      const shown = quoted(chars.slice(0, MAX_SHOWN).join("")) + (chars.length > MAX_SHOWN ? "..." : "");
      const known = quoted(this.chars.join(""));
      throw new UserError(
        `${name}=${shown} has characters that the model does not know: ${unknown.map(quoted).join(" ")} (it knows ${known})`,
      );
    }
    return chars.map((char) => this.ids.get(char));
  }

  decode(ids) {
    return [...ids].map((id) => this.chars[id] ?? "").join("");
  }

  /** Return a token in the form that the page shows. */
  token(id) {
    return { id, text: this.chars[id] ?? "", special: this.names.get(id) ?? null };
  }

  /** @param {Message} message */
  encodeTurn({ role, content }) {
    return [this.special.get(role), ...this.encode(content, role), this.special.get("end_turn")];
  }
}

/** Return a text in quotes, with control characters escaped. */
const quoted = (text) => {
  const escaped = JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"');
  return text.includes("'") ? `"${escaped}"` : `'${escaped}'`;
};

/** Return bos and the tokens of a text. Throws UserError for unknown characters and a text that is too long. */
export function encodePrompt(text, tokenizer, blockSize, name) {
  const tokens = [tokenizer.bos, ...tokenizer.encode(text, name)];
  if (tokens.length > blockSize) {
    throw new UserError(`prompt token count ${tokens.length} exceeds max prompt tokens ${blockSize}`);
  }
  return tokens;
}

export const promptRoom = (blockSize) => blockSize - Math.floor(blockSize / ANSWER_SHARE);

/**
 * Return the prompt of a conversation, [bos] + turns + [assistant]. If it is too long, the oldest turns are dropped first,
 * then the beginning of the last turn. Throws UserError if the last turn is empty or not the user's.
 * @param {Message[]} messages
 * @returns {{tokens: number[], dropped: number}} dropped: number of tokens that did not fit
 */
export function encodeConversation(messages, tokenizer, blockSize) {
  requireChat(tokenizer);
  const room = promptRoom(blockSize);
  if (room < MIN_PROMPT) {
    throw new UserError(
      `model.block_size=${blockSize} is too small for a chat: it leaves ${room} tokens for the prompt, but the shortest prompt takes ${MIN_PROMPT}`,
    );
  }
  const last = messages.at(-1);
  if (last?.role !== "user") {
    throw new UserError('the last message must have the role "user": there is nothing to answer');
  }
  if (!last.content) throw new UserError("the last message is empty: there is nothing to answer");
  const turns = messages.map((message) => tokenizer.encodeTurn(message));
  let excess = turns.flat().length - (room - 2);
  let start = 0;
  while (excess > 0 && start < turns.length - 1) excess -= turns[start++].length;
  let [role, ...tokens] = turns[start]; // tokens: characters and end_turn
  if (excess > 0) tokens = tokens.slice(Math.max(0, Math.min(excess, tokens.length - 2)));
  const kept = [role, ...tokens, ...turns.slice(start + 1).flat()];
  return {
    tokens: [tokenizer.bos, ...kept, tokenizer.special.get("assistant")],
    dropped: turns.flat().length - kept.length,
  };
}

/** Return the tokens of a conversation, which may end with any role. Throws UserError if it does not fit the block. */
export function encodeWhole(messages, tokenizer, blockSize) {
  requireChat(tokenizer);
  const tokens = [tokenizer.bos, ...messages.flatMap((message) => tokenizer.encodeTurn(message))];
  if (tokens.length > blockSize) {
    throw new UserError(`messages of ${tokens.length} tokens are too long: the model sees ${blockSize} at once`);
  }
  return tokens;
}

function requireChat(tokenizer) {
  if (tokenizer.isChat) return;
  throw new UserError("messages are not allowed: this model is not a chat model; it continues a prompt");
}

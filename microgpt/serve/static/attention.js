// Attention: for a text, the loss of each token and the attention weights of every head of every layer.

import { ask } from "./api.js";
import { bringIntoSight, byId, complain, make, rove, say, submitOnEnter } from "./dom.js";
import { largeHead, paint, paintScale } from "./heat.js";
import { chip, exactPercent, name, percent, press } from "./tokens.js";

const FULL = 5; // nats at which a token's chip is full

export class Attention {
  constructor(card) {
    this.card = card;
    this.seen = null; // the server's answer
    this.wanted = null; // a text that has not been shown yet
    this.query = 0; // the position whose row is marked
    this.head = [0, 0]; // layer and index of the enlarged head
    byId("attention-plain").hidden = card.is_chat;
    byId("attention-question-field").hidden = !card.is_chat;
    byId("attention-answer-field").hidden = !card.is_chat;
    byId("attention-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.look();
    });
    submitOnEnter(byId("attention-form"));
    rove(byId("losses"), "button");
    rove(byId("heads"), "button");
    for (const kind of ["focusin", "mouseover", "click"]) {
      byId("losses").addEventListener(kind, (event) => this.ask(event.target.closest("button")?.position, true));
      byId("heads").addEventListener(kind, (event) => this.overHead(event));
      byId("head").addEventListener(kind, (event) => this.ask(event.target.closest("tr")?.dataset.row));
    }
    for (const place of ["heads", "head"]) {
      byId(place).addEventListener("mousemove", (event) => this.overMap(event));
    }
    byId("heads").addEventListener("keydown", (event) => this.moveQuery(event));
    byId("head").addEventListener("keydown", (event) => this.moveQuery(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.seen && this.showHeads());
  }

  // Set the text to show when the section is opened.
  fill({ prompt, text }) {
    if (this.card.is_chat) {
      byId("attention-question").value = prompt;
      byId("attention-answer").value = text;
    } else {
      byId("attention-text").value = [...(prompt + text)].slice(0, this.card.block_size - 1).join("");
    }
    this.wanted = true;
  }

  open() {
    if (this.wanted) this.look();
  }

  body() {
    if (!this.card.is_chat) return { text: byId("attention-text").value };
    const messages = [{ role: "user", content: byId("attention-question").value }];
    const answer = byId("attention-answer").value;
    return { messages: answer ? [...messages, { role: "assistant", content: answer }] : messages };
  }

  async look() {
    this.wanted = null;
    complain("attention-error", "");
    say("attention-status", "Looking …");
    try {
      this.seen = await ask("attention", this.body());
    } catch (error) {
      this.seen = null;
      complain("attention-error", error.message);
    }
    byId("attention-result").hidden = !this.seen;
    say("attention-status", this.seen ? this.summary() : "");
    if (this.seen) this.show();
    if (this.seen) bringIntoSight(byId("losses-title"));
  }

  summary() {
    const { tokens, attention, losses } = this.seen;
    // In a conversation, only the loss of the answer counts: the model does not have to predict the question.
    const answer = tokens.findLastIndex((token) => token.special === "assistant") + 1;
    const counted = losses.slice(answer).filter((loss) => loss !== null);
    const mean = counted.reduce((sum, loss) => sum + loss, 0) / counted.length;
    const heads = attention.length * (attention[0]?.length ?? 0);
    const looks = heads
      ? ` ${heads} heads in ${attention.length} layer${attention.length === 1 ? "" : "s"}.`
      : " A bigram looks only at the last token: it has no heads.";
    const which = answer ? "of the answer " : "";
    const loss = counted.length ? ` The mean loss ${which}is ${mean.toFixed(2)} nats per token.` : "";
    return `${tokens.length} tokens.${loss}${looks}`;
  }

  show() {
    const { tokens, losses, attention } = this.seen;
    const chips = tokens.map((token, position) => {
      const loss = losses[position];
      const figure = loss === null ? "–" : loss.toFixed(2);
      const label = `${loss === null ? "no loss" : "nats"}, position ${position}`;
      const button = chip(token, { figure, share: (loss ?? 0) / FULL, label });
      button.position = position;
      return button;
    });
    chips.at(-1).tabIndex = 0;
    byId("losses").replaceChildren(...chips);
    byId("heads-part").hidden = !attention.length;
    this.query = tokens.length - 1;
    press(byId("losses"), chips.at(-1));
    if (this.head[0] >= attention.length || this.head[1] >= attention[0]?.length) this.head = [0, 0];
    if (attention.length) this.showHeads();
  }

  showHeads() {
    paintScale(byId("scale"));
    const layers = this.seen.attention.map((heads, layer) => {
      const row = make("div", { class: "layer" }, make("h3", { text: `Layer ${layer + 1}` }));
      const maps = make("div", { class: "maps" });
      maps.style.setProperty(
        "--columns",
        [4, 3, 2].find((count) => heads.length % count === 0) ?? Math.min(heads.length, 4),
      );
      heads.forEach((rows, head) => maps.append(this.small(rows, layer, head)));
      row.append(maps);
      return row;
    });
    byId("heads").replaceChildren(...layers);
    this.showHead();
  }

  small(rows, layer, head) {
    const canvas = make("canvas", { class: "map", "aria-hidden": "true" });
    paint(canvas, rows);
    const frame = make("span", { class: "map-frame" }, canvas, make("span", { class: "row-mark" }));
    const label = `Layer ${layer + 1}, head ${head + 1}`;
    const attributes = { type: "button", class: "small", "aria-pressed": "false", "aria-label": label, tabindex: "-1" };
    const button = make("button", attributes, frame, make("span", { text: `head ${head + 1}` }));
    button.head = [layer, head];
    if (layer === this.head[0] && head === this.head[1]) button.tabIndex = 0;
    return button;
  }

  overHead(event) {
    const button = event.target.closest("button");
    if (!button || event.type === "mouseover") return;
    if (event.type === "click") this.overMap(event);
    if (String(this.head) === String(button.head)) return;
    this.head = button.head;
    this.showHead();
  }

  // Select the row of a map under the pointer.
  overMap(event) {
    const canvas = event.target.closest(".map-frame")?.querySelector("canvas");
    const isSmall = byId("heads").contains(canvas);
    if (!canvas || event.clientY === 0) return; // a click by keyboard has no position
    const box = canvas.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * this.seen.tokens.length);
    this.ask(Math.max(0, Math.min(this.seen.tokens.length - 1, row)), isSmall);
  }

  moveQuery(event) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.ask(Math.max(0, Math.min(this.seen.tokens.length - 1, this.query + step)), true);
  }

  // Mark the row of a token everywhere, and scroll a large map to the row.
  ask(position, follow = false) {
    if (position === undefined || Number(position) === this.query) return;
    this.query = Number(position);
    press(byId("losses"), byId("losses").children[this.query]);
    if (!this.seen.attention.length) return;
    this.markRow();
    if (follow) this.follow();
  }

  follow() {
    const place = byId("head");
    const at = this.query / this.seen.tokens.length;
    place.scrollTo(place.scrollWidth * at - place.clientWidth * 0.8, place.scrollHeight * at - place.clientHeight / 2);
  }

  showHead() {
    const [layer, head] = this.head;
    const label = `Layer ${layer + 1}, head ${head + 1}`;
    say("head-title", label);
    byId("head").replaceChildren(largeHead(this.seen.tokens, this.seen.attention[layer][head], label));
    for (const button of byId("heads").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(String(button.head) === String(this.head)));
    }
    this.markRow();
    this.follow();
  }

  markRow() {
    const { tokens, attention } = this.seen;
    const part = byId("heads-part");
    part.style.setProperty("--row", this.query / tokens.length);
    part.style.setProperty("--rows", 1 / tokens.length);
    for (const row of byId("head").querySelectorAll("tr")) {
      row.classList.toggle("chosen", row.dataset.row === String(this.query));
    }
    const shares = attention[this.head[0]][this.head[1]][this.query].slice(0, this.query + 1);
    byId("row").replaceChildren(
      ...shares.map((share, s) => {
        const element = chip(tokens[s], { figure: percent(share), share, button: false });
        element.setAttribute("role", "listitem");
        if (s === this.query) element.classList.add("chosen");
        return element;
      }),
    );
    const best = shares.indexOf(Math.max(...shares));
    const there = best === this.query ? "itself" : `position ${best}, ${name(tokens[best])}`;
    const from = `From position ${this.query}, ${name(tokens[this.query])}`;
    say("reading", `${from}, it looks most at ${there}: ${exactPercent(shares[best])}.`);
  }
}

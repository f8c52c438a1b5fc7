// Chat: a conversation with a model that was trained on conversations.

import { byId, complain, make, mistake, say, submitOnEnter, tie } from "./dom.js";
import { Run, whyItEnded } from "./run.js";

export class Chat {
  constructor(card, onText) {
    this.card = card;
    this.onText = onText;
    this.turns = []; // {role, content}
    this.run = null;
    byId("chat-none").hidden = card.is_chat;
    byId("chat-part").hidden = !card.is_chat;
    if (!card.is_chat) return;
    tie(byId("chat-temperature-slider"), byId("chat-temperature"));
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    submitOnEnter(byId("chat-form"));
    byId("chat-stop").addEventListener("click", () => this.run?.stop());
    byId("chat-clear").addEventListener("click", () => this.clear());
  }

  clear() {
    this.run?.stop();
    this.run = null;
    this.turns = [];
    byId("chat-stop").disabled = true;
    byId("turns").replaceChildren();
    complain("chat-error", "");
    say("chat-status", "The conversation was cleared.");
    byId("message").focus();
  }

  // Show a turn; returns its element and the element of its text, to which tokens are appended.
  add(role, content) {
    const text = make("p", { text: content });
    const turn = make(
      "div",
      { class: `turn ${role}` },
      make("p", { class: "who", text: role === "user" ? "You" : "Model" }),
      text,
    );
    byId("turns").append(turn);
    return { turn, text };
  }

  async send() {
    const wrong = mistake(byId("chat-form"));
    const content = byId("message").value.trim();
    complain("chat-error", wrong || (content ? "" : "Your turn is empty: there is nothing to answer."));
    if (wrong || !content || this.run) return;
    const messages = [...this.turns, { role: "user", content }];
    const temperature = Number(byId("chat-temperature").value);
    const run = new Run({ messages, temperature, seed: Number(byId("chat-seed").value), candidates: 0 });
    this.run = run;
    byId("message").value = "";
    byId("chat-stop").disabled = false;
    say("chat-status", "Answering …");
    const shown = [this.add("user", content), this.add("assistant", "")];
    try {
      await this.receive(run, shown[1].text);
      if (this.run === run) this.keep(run, messages, shown[1].text.textContent);
    } catch (error) {
      if (this.run === run) this.takeBack(error, content, shown);
    }
    if (this.run !== run) return;
    this.run = null;
    byId("chat-stop").disabled = true;
  }

  async receive(run, text) {
    text.parentElement.setAttribute("aria-busy", "true");
    for (let token = await run.take(); token; token = await run.take()) text.append(token.text);
    text.parentElement.removeAttribute("aria-busy");
  }

  keep(run, messages, answer) {
    this.turns = [...messages, { role: "assistant", content: answer }];
    const dropped = run.start?.tokens_dropped ?? 0;
    const lost = dropped
      ? ` The model no longer sees the oldest ${dropped} token${dropped === 1 ? "" : "s"} of the conversation.`
      : "";
    say("chat-status", whyItEnded(run, this.card) + lost);
    this.onText({ prompt: messages.at(-1).content, text: answer });
  }

  // Remove a turn that was not answered, and put its text back into the field.
  takeBack(error, content, shown) {
    shown.forEach(({ turn }) => turn.remove());
    if (!byId("message").value) byId("message").value = content;
    complain("chat-error", error.message);
    say("chat-status", "");
    byId("message").focus();
  }
}

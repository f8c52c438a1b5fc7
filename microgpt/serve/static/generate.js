// Generate: a text that appears token by token, with the candidates for each token.

import { bringIntoSight, byId, complain, make, mistake, rove, say, submitOnEnter, tie } from "./dom.js";
import { Run, whyItEnded } from "./run.js";
import { candidateTable, chip, percent, press } from "./tokens.js";

const EARLIER = 12; // number of earlier texts shown
const SPECIAL_START = { special: "bos", text: "" };

export class Generate {
  // onText({prompt, text}) is called with every finished text.
  constructor(card, onText) {
    this.card = card;
    this.onText = onText;
    this.run = null;
    this.isPlaying = false;
    this.follows = true; // whether to show the newest token's candidates; false after another token is selected
    tie(byId("temperature-slider"), byId("temperature"));
    byId("max-tokens").max = card.limits.max_new_tokens;
    byId("top-k").max = card.vocab_size;
    if (card.is_chat) {
      say("prompt-label", "Question");
      say("prompt-hint", "The model answers this question without any earlier turns.");
      byId("prompt").required = true;
    } else byId("prompt").maxLength = card.block_size - 1;
    byId("generate-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.generate();
    });
    submitOnEnter(byId("generate-form"));
    byId("step").addEventListener("click", () => this.step());
    byId("stop").addEventListener("click", () => this.stop());
    byId("another").addEventListener("click", () => {
      byId("seed").value = Number(byId("seed").value) + 1;
      this.generate();
    });
    rove(byId("tokens"), "button");
    byId("tokens").addEventListener("focusin", (event) => this.choose(event.target.closest("button")));
    byId("tokens").addEventListener("click", (event) => this.choose(event.target.closest("button")));
  }

  // Return the request that the fields describe. If a field is invalid, show an error and return null.
  body() {
    const wrong = mistake(byId("generate-form"));
    complain("generate-error", wrong);
    if (wrong) return null;
    const number = (id) => (byId(id).value === "" ? undefined : Number(byId(id).value));
    const prompt = byId("prompt").value;
    return {
      ...(this.card.is_chat ? { messages: [{ role: "user", content: prompt }] } : { prompt }),
      temperature: number("temperature"),
      top_k: number("top-k"),
      seed: number("seed"),
      max_tokens: number("max-tokens"),
      candidates: Math.min(10, this.card.limits.max_candidates),
    };
  }

  begin(body) {
    this.run?.stop();
    this.run = new Run(body);
    this.follows = true;
    byId("candidates").replaceChildren();
    this.showPrompt();
    bringIntoSight(byId("tokens-title"));
    return this.run;
  }

  showPrompt() {
    const prompt = this.card.is_chat ? [] : [...byId("prompt").value].map((text) => ({ text, special: null }));
    const given = (token) => chip(token, { figure: "given", button: false });
    byId("tokens").replaceChildren(...(this.card.is_chat ? [] : [SPECIAL_START, ...prompt].map(given)));
  }

  async generate() {
    const body = this.body();
    if (!body) return;
    const run = this.begin(body);
    await this.busy(async () => {
      for (let token = await run.take(); token; token = await run.take()) {
        this.show(token, run);
        const pace = Number(byId("pace").value);
        if (pace) await new Promise((done) => setTimeout(done, pace));
        if (run !== this.run) return;
      }
    });
  }

  // Draw the next token of the current text, or the first token of a new text if there is none or a field has changed.
  async step() {
    const body = this.body();
    if (!body || this.isPlaying) return;
    const goesOn = this.run && !this.run.isOver && JSON.stringify(this.run.body) === JSON.stringify(body);
    const run = goesOn ? this.run : this.begin(body);
    await this.busy(async () => {
      const token = await run.take();
      if (token) this.show(token, run);
    });
    if (run === this.run && !run.isOver) say("generate-status", `${this.counted(run)}. Step draws the next one.`);
  }

  stop() {
    this.run?.stop();
    this.finish(this.run);
  }

  // Do some work with the run, disable and enable the buttons accordingly, and show how the run ended.
  async busy(work) {
    const run = this.run;
    this.isPlaying = true;
    byId("stop").disabled = false;
    byId("step").disabled = true;
    say("generate-status", "Drawing …");
    try {
      await work();
    } catch (error) {
      complain("generate-error", error.message);
      say("generate-status", "");
    }
    if (run !== this.run) return;
    this.isPlaying = false;
    byId("step").disabled = false;
    if (run.isOver) this.finish(run);
  }

  counted(run) {
    return `${run.next} token${run.next === 1 ? "" : "s"}`;
  }

  finish(run) {
    byId("stop").disabled = true;
    byId("step").disabled = false;
    if (!run || run.isDone || run.error) return;
    run.isDone = true;
    const { temperature, seed, prompt, messages } = run.body;
    const text = run.tokens
      .slice(0, run.next)
      .map((token) => token.text)
      .join("");
    say(
      "generate-status",
      `${this.counted(run)}. ${whyItEnded(run, this.card)} Seed ${seed}, temperature ${temperature}.`,
    );
    const asked = prompt ?? messages[0].content;
    const shown = this.card.is_chat ? `${asked} → ${text}` : asked + text;
    const entry = make("li", {}, make("code", { text: shown || "(empty)" }));
    entry.append(make("span", { class: "hint", text: ` seed ${seed}, temperature ${temperature}` }));
    byId("earlier-texts").prepend(entry);
    byId("earlier-texts").children[EARLIER]?.remove();
    byId("earlier").hidden = false;
    this.onText({ prompt: asked, text });
  }

  show(token, run) {
    const label = `token ${run.next}`;
    const button = chip(token, { figure: percent(token.probability), share: token.probability, drawn: true, label });
    button.token = token;
    button.position = run.next;
    if (run.next === 1) button.tabIndex = 0;
    byId("tokens").append(button);
    if (this.follows) this.present(button);
  }

  choose(button) {
    if (!button) return;
    this.follows = button === byId("tokens").lastElementChild;
    this.present(button);
  }

  present(button) {
    if (button.getAttribute("aria-pressed") === "true") return;
    press(byId("tokens"), button);
    byId("candidates").replaceChildren(candidateTable(button.token, button.position));
  }
}

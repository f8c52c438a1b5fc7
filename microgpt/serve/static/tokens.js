// The display of tokens: a glyph, a name, and a chip that is filled in proportion to a share.

import { make } from "./dom.js";

const BLANKS = { " ": ["␣", "space"], "\n": ["⏎", "new line"], "\t": ["⇥", "tab"], "\u00a0": ["⍽", "hard space"] };
const SPECIAL = {
  bos: ["start", "start"],
  user: ["user", "the user’s turn"],
  assistant: ["assistant", "the assistant’s turn"],
  end_turn: ["end", "end of turn"],
};
// The token that begins a text also ends it
const ENDING = { ...SPECIAL, bos: ["end", "end of text"] };

function described(token, drawn) {
  if (token.special) return (drawn ? ENDING : SPECIAL)[token.special] ?? [token.special, token.special];
  if (BLANKS[token.text]) return BLANKS[token.text];
  if (/\p{C}|\p{Z}|\p{M}/u.test(token.text)) {
    const code = `U+${token.text.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    return [code, code];
  }
  return [token.text, token.text];
}

// One character per token, for narrow places.
const LETTERS = { bos: "S", user: "U", assistant: "A", end_turn: "E" };
export function narrow(token) {
  if (!token.special) return make("span", { text: glyph(token).length > 2 ? "·" : glyph(token) });
  return make("span", { class: "badge", text: LETTERS[token.special] ?? "?" });
}

export const glyph = (token, drawn = false) => described(token, drawn)[0];
export const name = (token, drawn = false) => described(token, drawn)[1];

// Return a share as a whole percentage; only exact shares are shown as 0% or 100%.
export function percent(share) {
  if (share > 0 && share < 0.005) return "<1%";
  if (share < 1 && share > 0.995) return ">99%";
  return `${Math.round(share * 100)}%`;
}

export function exactPercent(share) {
  const shown = (share * 100).toFixed(1);
  if (shown === "0.0" && share > 0) return "<0.1 %";
  if (shown === "100.0" && share < 1) return ">99.9 %";
  return `${shown} %`;
}

// Return a token with a figure below it, filled in proportion to `share` (0 to 1). With `button` the token can be
// selected; `label` is appended to its accessible name.
export function chip(token, { figure = "", share = 0, drawn = false, label = "", button = true } = {}) {
  // The accessible name begins with the visible text, for voice control, followed by the token's name if it differs.
  const seen = glyph(token, drawn);
  const called = name(token, drawn) === seen ? [] : [name(token, drawn)];
  const said = [`${seen} ${figure}`, ...called, label].join(", ");
  const kind = `chip${token.special ? " special" : ""}`;
  const attributes = button
    ? { type: "button", class: kind, "aria-pressed": "false", "aria-label": said, tabindex: "-1" }
    : { class: `${kind} still` };
  const element = make(
    button ? "button" : "span",
    attributes,
    make("span", { class: "glyph", text: seen }),
    " ",
    make("span", { class: "figure", text: figure }),
  );
  element.style.setProperty("--share", Math.max(0, Math.min(1, share)));
  return element;
}

export function press(container, chosen) {
  for (const each of container.querySelectorAll("[aria-pressed]")) {
    each.setAttribute("aria-pressed", String(each === chosen));
  }
}

const NEXT_TO_NOTHING = 1e-9; // shown for a probability that the server rounds to 0; no candidate is impossible

// Return the candidates for a token: bars with percentages, the drawn token marked, and the share of all others.
export function candidateTable(token, position) {
  const rows = [...token.candidates];
  if (!rows.some((each) => each.id === token.id)) rows.push(token);
  const rest = 1 - rows.reduce((sum, each) => sum + each.probability, 0);
  const body = make("tbody");
  for (const each of rows) {
    const isDrawn = each.id === token.id;
    const bar = make("span", { class: "meter" });
    bar.style.setProperty("--share", each.probability);
    body.append(
      make(
        "tr",
        isDrawn ? { class: "drawn" } : {},
        make("th", { scope: "row", class: "glyph", title: name(each, true), text: glyph(each, true) }),
        make("td", { class: "number", text: exactPercent(each.probability || NEXT_TO_NOTHING) }),
        make("td", { class: "meter-cell" }, bar, make("span", { class: "mark", text: isDrawn ? "◀ drawn" : "" })),
      ),
    );
  }
  if (rest > 0.0005) {
    const cells = [
      make("th", { scope: "row", text: "others" }),
      make("td", { class: "number", text: exactPercent(rest) }),
      make("td"),
    ];
    body.append(make("tr", { class: "others" }, ...cells));
  }
  const caption = make("caption", { text: `Token ${position}: drawn from` });
  const head = make("thead", { class: "unseen" });
  const titles = ["Token", "Probability", "Drawn"].map((text) => make("th", { scope: "col", text }));
  head.append(make("tr", {}, ...titles));
  return make("table", { class: "candidates" }, caption, head, body);
}

// A playground for one model: generation, attention, chat, training and the model card. Uses no library, no build step and
// no other host.

import { ask, hasKey, onKeyWanted, setKey } from "./api.js";
import { Attention } from "./attention.js";
import { showCard } from "./card.js";
import { Chat } from "./chat.js";
import { byId, complain, say } from "./dom.js";
import { Generate } from "./generate.js";
import { Train } from "./train.js";

const SECTIONS = ["generate", "attention", "chat", "train", "model"];
let attention = null;

function show(section) {
  for (const each of SECTIONS) {
    const tab = byId(`tab-${each}`);
    tab.setAttribute("aria-selected", String(each === section));
    tab.tabIndex = each === section ? 0 : -1;
    byId(each).hidden = each !== section;
  }
  history.replaceState(null, "", `#${section}`);
  if (section === "attention") attention?.open();
}

function startTabs() {
  SECTIONS.forEach((section, at) => {
    const tab = byId(`tab-${section}`);
    tab.addEventListener("click", () => show(section));
    tab.addEventListener("keydown", (event) => {
      const last = SECTIONS.length - 1;
      const to = { ArrowRight: (at + 1) % SECTIONS.length, ArrowLeft: at ? at - 1 : last, Home: 0, End: last }[
        event.key
      ];
      if (to === undefined) return;
      event.preventDefault();
      show(SECTIONS[to]);
      byId(`tab-${SECTIONS[to]}`).focus();
    });
  });
  const asked = location.hash.slice(1);
  if (SECTIONS.includes(asked)) show(asked);
}

function startKey() {
  onKeyWanted(() => {
    byId("key-form").hidden = false;
    say("key-why", hasKey() ? "The server does not accept this key." : "This server requires a key.");
    byId("key").focus();
  });
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setKey(byId("key").value);
    byId("key-form").hidden = true;
    if (!attention) start();
  });
}

async function start() {
  complain("page-error", "");
  let card;
  try {
    card = await ask("model");
  } catch (error) {
    say("summary", "");
    if (error.status !== 401) complain("page-error", error.message);
    return;
  }
  document.title = `${card.id} · microgpt`;
  showCard(card);
  attention = new Attention(card);
  const onText = (text) => attention.fill(text);
  new Generate(card, onText);
  new Chat(card, onText);
  new Train(card);
  byId("room").hidden = false;
}

startTabs();
startKey();
start();

// Elements, and errors in words. Knows nothing of models.

export const byId = (id) => document.getElementById(id);

// make("p", {class: "hint", text: "..."}, child, ...): text is never markup, so that no model's output can be any.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function say(id, words) {
  byId(id).textContent = words;
}

// Show an error in its place, or take it away with "".
export function complain(id, words) {
  byId(id).hidden = !words;
  say(id, words);
  if (words) byId(id).scrollIntoView({ block: "nearest" });
}

// Bring what has changed into sight, where it begins below it.
export function bringIntoSight(element) {
  if (element.getBoundingClientRect().top > innerHeight * 0.7) element.scrollIntoView({ block: "start" });
}

// The first field of a form that cannot be used, in words, with the focus on it; "" where all can.
export function mistake(form) {
  for (const field of form.elements) {
    if (field.willValidate && !field.checkValidity()) {
      field.closest("details")?.setAttribute("open", "");
      field.focus();
      const label = field.getAttribute("aria-label") ?? field.labels[0]?.textContent ?? field.id;
      return `${label}: ${field.validationMessage}`;
    }
  }
  return "";
}

// A slider and a number that say the same.
export function tie(slider, number) {
  slider.addEventListener("input", () => (number.value = slider.value));
  number.addEventListener("input", () => (slider.value = number.value));
}

// Arrow keys, Home and End move the focus among a container's buttons; one of them is in the tab order.
export function rove(container, selector) {
  const items = () => [...container.querySelectorAll(selector)];
  container.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    all[Math.max(0, Math.min(all.length - 1, to))].focus();
  });
  container.addEventListener("focusin", (event) => {
    const chosen = event.target.closest(selector);
    if (chosen) items().forEach((item) => (item.tabIndex = item === chosen ? 0 : -1));
  });
}

// Enter in a text, and Ctrl+Enter in any field, submit a form; Shift+Enter begins a new line.
export function submitOnEnter(form) {
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    if (event.target.localName !== "textarea" && !event.ctrlKey) return;
    event.preventDefault();
    form.requestSubmit();
  });
}

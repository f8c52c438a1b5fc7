// Functions for elements, messages and forms.

export const byId = (id) => document.getElementById(id);

// make("p", {class: "hint", text: "..."}, child, ...): text is never parsed as markup, because it may be a model's output.
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

// Show an error, or remove it with "".
export function complain(id, words) {
  byId(id).hidden = !words;
  say(id, words);
  if (words) byId(id).scrollIntoView({ block: "nearest" });
}

// Scroll to a changed element if it begins near or below the bottom of the window.
export function bringIntoSight(element) {
  if (element.getBoundingClientRect().top > innerHeight * 0.7) element.scrollIntoView({ block: "start" });
}

// Return a message about the first invalid field of a form, and focus the field; "" if all fields are valid.
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

// Keep the values of a slider and a number field equal.
export function tie(slider, number) {
  slider.addEventListener("input", () => (number.value = slider.value));
  number.addEventListener("input", () => (slider.value = number.value));
}

// Let arrow keys, Home and End move the focus between a container's buttons; only one button is in the tab order.
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

// Submit a form on Enter in a text area and on Ctrl+Enter in any field; Shift+Enter begins a new line.
export function submitOnEnter(form) {
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    if (event.target.localName !== "textarea" && !event.ctrlKey) return;
    event.preventDefault();
    form.requestSubmit();
  });
}

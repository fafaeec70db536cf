// Elements from values. Every text goes in as text; markup is taken only from this console's own plots.

const policy = window.trustedTypes?.createPolicy("boardfit-plot", { createHTML: (text) => text });

/** Make an element. Properties: class, dataset, on (events), aria-* and attributes; null and false are left out. */
export function h(name, properties, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [event, handler] of Object.entries(value)) made.addEventListener(event, handler);
    else if (key === "dataset") Object.assign(made.dataset, value);
    else if (key === "vars") for (const [name_, value_] of Object.entries(value)) made.style.setProperty(name_, value_);
    else if (key === "value" || key === "checked") made[key] = value;
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  add(made, children);
  return made;
}

function add(to, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    to.append(child instanceof Node ? child : String(child));
  }
}

/** Put children in place of what is there. */
export function fill(element, ...children) {
  const held = document.createDocumentFragment();
  add(held, children);
  element.replaceChildren(held);
  return element;
}

/** Make a plot of the markup that this console's server has drawn. */
export function plot(markup) {
  const text = policy ? policy.createHTML(markup) : markup;
  const read = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  const made = document.importNode(read, true);
  for (const marked of made.querySelectorAll("[data-mark]")) marked.style.setProperty("--mark", marked.dataset.mark);
  for (const option of made.querySelectorAll("[tabindex]")) option.removeAttribute("tabindex"); // the table has it all
  return made;
}

/** Replace a part of a page only when what it shows has changed; what has the focus keeps it, and open details stay. */
export function renew(holder, value, render) {
  const now = JSON.stringify(value);
  if (holder.dataset && holder.shown === now) return false;
  const first = holder.shown === undefined;
  holder.shown = now;
  const focused = holder.contains(document.activeElement) ? document.activeElement.id : null;
  const open = [...holder.querySelectorAll("details[open][id]")].map((one) => one.id);
  fill(holder, render(value));
  for (const id of open) holder.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
  if (focused) holder.querySelector(`#${CSS.escape(focused)}`)?.focus();
  return !first;
}

let said = 0;
/** Tell people who hear the page, at most every few seconds. */
export function announce(text) {
  const now = Date.now();
  if (now - said < 4000) return;
  said = now;
  document.getElementById("announce").textContent = text;
}

// Tables: headings that sort, rows that the arrow keys walk through, cells that several pages share.

import { h } from "./dom.js";
import { ago, clock, NONE, words } from "./format.js";

/** Make a heading that sorts. */
export function sortable(name, label, { sort, descending, numeric, onSort, title }) {
  const now = sort === name ? (descending ? "descending" : "ascending") : null;
  return h("th", { scope: "col", class: numeric ? "n" : null, "aria-sort": now ?? "none" },
    h("button", { type: "button", title, id: `sort-${name}`, on: { click: () => onSort(name, now === "ascending") } }, numeric ? null : label,
      h("span", { class: "arrow", "aria-hidden": "true" }, now === "descending" ? "↓" : now ? "↑" : ""), numeric ? label : null));
}

/** Let arrow keys walk through the links marked data-row of a table; one of them is in the tab order. */
export function roving(table) {
  const links = () => [...table.querySelectorAll("[data-row]")];
  const settle = (chosen) => {
    for (const link of links()) link.tabIndex = link === chosen ? 0 : -1;
  };
  table.addEventListener("focusin", (event) => { if (event.target.matches("[data-row]")) settle(event.target); });
  table.addEventListener("keydown", (event) => {
    if (!event.target.matches("[data-row]")) return;
    const all = links();
    const at = all.indexOf(event.target);
    const to = { ArrowDown: at + 1, j: at + 1, ArrowUp: at - 1, k: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    all[Math.max(0, Math.min(to, all.length - 1))]?.focus();
  });
  return { settle: () => {
    const all = links();
    settle(all.find((link) => link.tabIndex === 0) ?? all[0]);
  }, first: () => links()[0] };
}

const SHAPES = { online: "●", busy: "◐", offline: "○", unknown: "?" };
/** Make a status: a shape, a colour and a word. */
export function status(text, reason) {
  const known = text in SHAPES ? text : "unknown";
  return h("span", { class: `status ${known}`, title: reason }, h("i", { "aria-hidden": "true" }, SHAPES[known]), known);
}

const JOBS = { SUCCEEDED: ["✓", "good"], FAILED: ["✕", "bad"], TIMED_OUT: ["✕", "bad"], REJECTED: ["✕", "bad"],
  CANCELED: ["–", "dull"], QUEUED: ["…", "busy"], IN_PROGRESS: ["▸", "busy"] };
/** Make the state of a job: a shape, a colour and a word. */
export function jobState(state) {
  const [sign, kind] = JOBS[state] ?? ["?", "dull"];
  return h("span", { class: `mark-${kind} sign-word` }, h("i", { "aria-hidden": "true" }, sign), words(state));
}

/** Make a time that says how long ago it was, and goes on saying so. */
export const since = (time) => (time ? h("time", { datetime: time, title: `${time}`, dataset: { ago: "" } }, ago(time)) : "never");
/** Make a time of the clock. */
export const at = (time) => (time ? h("time", { datetime: time, title: `${time}` }, clock(time)) : NONE);

/** Make a table of rows. columns: [label, {numeric, wide}]. */
export function table(caption, columns, rows, { id, empty = "Nothing yet.", card = false } = {}) {
  if (!rows.length) return h("p", { class: "empty" }, empty);
  return h("div", { class: card ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": caption }, h("table", { id },
    h("caption", { class: "unseen" }, caption),
    h("thead", null, h("tr", null, columns.map(([label, form = {}]) => h("th", { scope: "col", class: form.numeric ? "n" : null }, label)))),
    h("tbody", null, rows)));
}

const STANDINGS = { fits: ["✓", "fits"], over_budget: ["✕", "over budget"], unknown: ["?", "unknown"], failed: ["!", "failed"] };
/** Make a standing: a shape, a colour and a word. */
export function standing(name) {
  const [sign, word] = STANDINGS[name] ?? ["?", words(name)];
  return h("span", { class: `standing ${name}` }, h("i", { "aria-hidden": "true" }, sign), word);
}

const SETTLED = ["none", "done", "failed", "rolled_back", "stepped", "active"];
/** Whether something is going on in a deployment. */
export const unsettled = (phase) => Boolean(phase) && !SETTLED.includes(phase.toLowerCase());

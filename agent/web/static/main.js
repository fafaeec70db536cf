// The frame around every page: which page is shown, the fleet, what is live, who is signed in, the keys.

import { fleetPath, get, pagePath, Refusal } from "./api.js";
import { announce, fill, h } from "./dom.js";
import { ago } from "./format.js";
import { showHelp } from "./help.js";
import { Live } from "./live.js";
import { openByLink, session } from "./session.js";
import { wishes } from "./wishes.js";
import * as board from "./board.js";
import * as boards from "./boards.js";
import * as classes from "./classes.js";
import * as oneClass from "./class.js";
import * as rollouts from "./rollouts.js";
import * as rollout from "./rollout.js";

const PAGES = [
  ["boards", "Boards", boards, board],
  ["classes", "Classes", classes, oneClass],
  ["rollouts", "Rollouts", rollouts, rollout],
];
const main = document.getElementById("main");
let fleets = [];
let live = null;
let page = null;
let turn = 0;
let shown = null;

function place() {
  const parts = location.pathname.split("/").filter(Boolean).map(decodeURIComponent);
  const [first, fleet, kind = "boards", name] = parts;
  return first === "fleets" && fleet ? { fleet, kind, name } : { first };
}

/** Go to an address of this console without loading the page again. */
export function go(path, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", path);
  render({ moved: true });
}

async function render({ moved = false } = {}) {
  const mine = (turn += 1);
  shown = location.pathname + location.search;
  const { fleet, kind, name, first } = place();
  page?.close?.();
  page = null;
  frame(fleet, kind);
  if (!fleet) {
    live?.close();
    live = null;
    setLive("", "");
    if (first) return missing();
    if (fleets.length === 1) return go(pagePath(fleets[0], "boards"), { replace: true });
    title(fleets.length ? "Fleets" : "Nothing is stored yet");
    const list = fleets.map((one) => h("li", null, h("a", { href: pagePath(one, "boards") }, one)));
    return fill(main, h("h1", null, fleets.length ? "Fleets" : "Nothing is stored yet"),
      fleets.length ? h("ul", { class: "plain" }, list)
        : h("p", { class: "lead" }, "The collector has heard of no board. As soon as one speaks, it is listed here."));
  }
  watch(fleet);
  const entry = PAGES.find(([path]) => path === kind);
  if (!entry) return missing();
  const context = { fleet, name, root: main, query: new URLSearchParams(location.search), note, title, fields: main.fields };
  try {
    const made = await (name ? entry[3] : entry[2]).show(context);
    if (mine !== turn) return made.close?.();
    page = made;
  } catch (error) {
    if (mine === turn) failed(error);
  }
  if (moved && mine === turn && document.activeElement === document.body) main.focus({ preventScroll: true });
  if (moved) scrollTo(0, 0);
}

/** Keep what a page shows in its address, without going anywhere. */
function note(path) {
  history.replaceState(null, "", path);
  shown = path;
}

function failed(error) {
  if (!(error instanceof Refusal)) throw error;
  title(error.status === 404 ? "Not found" : "Not available");
  fill(main, h("h1", null, error.status === 404 ? "Not found" : "Not available"),
    h("p", { class: "lead", role: "alert" }, error.sentence),
    h("p", null, h("button", { type: "button", on: { click: () => render() } }, "Try again")));
}

function missing() {
  title("Not found");
  fill(main, h("h1", null, "Not found"), h("p", { class: "lead" }, "This console has no such page. ",
    h("a", { href: "/" }, "See the fleets"), "."));
}

function title(text) {
  document.title = `${text} – boardfit`;
}

function frame(fleet, kind) {
  const choice = document.getElementById("fleet-choice");
  if (fleet && fleets.length > 1) {
    const options = fleets.map((one) => h("option", { value: one, selected: one === fleet }, one));
    fill(choice, h("select", { "aria-label": "Fleet", on: { change: (e) => go(pagePath(e.target.value, "boards")) } }, options));
  } else fill(choice, fleet ? h("span", { class: "fleet" }, fleet) : null);
  fill(document.getElementById("pages"), fleet ? PAGES.map(([path, label]) => h("li", null, h("a",
    { href: pagePath(fleet, path), "aria-current": path === kind ? "page" : null }, label))) : null);
}

function watch(fleet) {
  if (live?.fleet === fleet) return;
  live?.close();
  live = new Live(fleet, {
    changed: (change) => page?.changed?.(change),
    trouble: (problem) => setTrouble(problem),
    wishes: () => wishes.refresh(),
    state: setLive,
  });
}

let trouble = null;
function setTrouble(problem) {
  trouble = problem;
  if (problem) setLive("the store is away", "lost", problem);
}

function setLive(text, kind, why = "") {
  const shown = document.getElementById("live");
  if (trouble && kind === "live") [text, kind, why] = ["the store is away", "lost", trouble];
  if (shown.textContent === text) return;
  shown.dataset.kind = kind;
  shown.title = why;
  shown.textContent = text;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
  const url = new URL(link.href);
  if (url.origin !== location.origin || link.target || link.hash || !/^\/($|fleets)/.test(url.pathname)) return;
  event.preventDefault();
  go(url.pathname + url.search);
});
addEventListener("popstate", () => {
  if (location.pathname + location.search !== shown) render({ moved: true }); // not for a # alone
});

const HOPS = { b: "boards", c: "classes", r: "rollouts" };
let hop = 0;
addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.target.isContentEditable;
  if (typing || event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "?") showHelp(main.fields);
  else if (event.key === "g") hop = Date.now();
  else if (Date.now() - hop < 1500 && HOPS[event.key] && place().fleet) go(pagePath(place().fleet, HOPS[event.key]));
  else if (page?.key?.(event)) { /* the page has taken it */ } else return;
  event.preventDefault();
});

const THEMES = ["", "light", "dark"];
const SIGNS = { "": "◐", light: "○", dark: "●" };
const NAMES = { "": "as the system has them", light: "light", dark: "dark" };
function setTheme(chosen) {
  const button = document.getElementById("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
  fill(button, h("span", { "aria-hidden": "true" }, SIGNS[chosen]));
  button.setAttribute("aria-label", `Colours: ${NAMES[chosen]}`);
  button.title = `Colours: ${NAMES[chosen]}`;
  try { localStorage.setItem("boardfit-theme", chosen); } catch { /* not kept */ }
}
document.getElementById("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
document.getElementById("help-button").addEventListener("click", () => showHelp(main.fields));

setInterval(() => {
  const now = Date.now();
  for (const one of document.querySelectorAll("time[data-ago]")) {
    const text = ago(one.dateTime, now);
    if (one.textContent !== text) one.textContent = text;
  }
}, 5000);

async function begin() {
  setTheme(document.documentElement.dataset.theme ?? "");
  if (location.pathname === "/sign-in") {
    await openByLink();
    history.replaceState(null, "", "/");
  }
  await session.refresh();
  session.listen(() => { page?.changed?.({ whole: true, session: true }); wishes.refresh(); });
  try {
    const known = await get("/api/fleets");
    fleets = known.fleets;
    main.fields = known.fields;
  } catch (error) {
    return failed(error);
  }
  render();
  if (session.signedIn) announce(`Signed in as ${session.operator}`);
}

begin();

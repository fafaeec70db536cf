// How rollouts and the boards in them stand: a shape, a colour and a word each.

import { h } from "./dom.js";
import { words } from "./format.js";

const STATES = { running: ["▸", "busy"], paused: ["❙❙", "warn"], undoing: ["↩", "warn"], stopping: ["■", "warn"],
  completed: ["✓", "good"], rolled_back: ["↩", "bad"], aborted: ["■", "bad"], superseded: ["–", "dull"] };
export const ENDED = ["completed", "rolled_back", "aborted", "superseded"];
const STALE_MS = 180_000;

/** Make a rollout's state; one that nobody drives, or whose driver says nothing, says so. */
export function rolloutState(one) {
  const [sign, kind] = STATES[one.status] ?? ["?", "dull"];
  const still = !ENDED.includes(one.status);
  const silent = still && one.updated_at && Date.now() - Date.parse(one.updated_at) > STALE_MS;
  const note = silent ? "nothing heard of it" : still && one.driven === false ? "nobody drives it" : null;
  return h("span", { class: `mark-${kind} sign-word` }, h("i", { "aria-hidden": "true" }, sign), words(one.status),
    note && h("small", { class: "dull" }, note));
}

// the order in which they are drawn, from done to not begun
export const PHASES = ["succeeded", "soaking", "proving", "ordered", "measuring", "undoing", "undone", "failed", "rolled_back", "unreachable", "waiting"];
const KINDS = { succeeded: "good", soaking: "soak", proving: "busy", ordered: "busy", measuring: "busy", undoing: "warn", undone: "warn",
  failed: "bad", rolled_back: "bad", unreachable: "gone", waiting: "rest" };

/** Make a bar of how many boards stand where, with the same in words. */
export function phaseBar(phases, total) {
  const known = PHASES.filter((phase) => phases[phase]);
  const all = Math.max(total ?? 0, known.reduce((sum, phase) => sum + phases[phase], 0), 1);
  return h("div", { class: "phase-bar" },
    h("div", { class: "stack", "aria-hidden": "true" }, known.map((phase) => h("i", { class: KINDS[phase], vars: { "--part": `${(100 * phases[phase]) / all}%` } }))),
    h("span", { class: "phase-words" }, known.map((phase) => `${phases[phase].toLocaleString("en")} ${words(phase)}`).join(", ") || "none begun"));
}

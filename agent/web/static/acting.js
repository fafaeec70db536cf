// Asking for something: which verb, with what. It becomes a wish; the operator's own machine signs it, or does not.

import { Refusal } from "./api.js";
import { fill, h } from "./dom.js";
import { openDialog } from "./dialog.js";
import { session } from "./session.js";
import { wishes } from "./wishes.js";

const VERBS = [
  ["bench", "Bench", "measure candidates"], ["select", "Select", "decide from what is measured"],
  ["deploy", "Deploy", "put a candidate in place"], ["rollback", "Roll back", "go back to what served before"],
  ["pardon", "Pardon", "let models be tried again that are kept out"],
  ["leave-safe-mode", "Leave safe mode", "let an agent that kept dying go back to work"],
  ["sync", "Sync", "refresh the registry's metadata"], ["set-desired", "Ask for settings", "budgets, objective, pin"],
  ["status", "Tell status", "tell what runs"], ["profile", "Tell profile", "tell what the board is"],
];
const NEEDS_TASK = ["deploy", "rollback", "pardon", "set-desired"];
const NO_CANDIDATE = { bench: "all", deploy: "the last decision's winner", pardon: "all that are kept out" };
const TAKES_TASK = ["bench", "select", ...NEEDS_TASK];

/** Make the button that opens the form; it cannot be pressed while nobody is signed in, and says why. */
export function actButton(label, { fleet, address, tasks, candidates, boards }) {
  const refusal = session.signedIn ? null : session.refusal("");
  return h("span", { class: "act" },
    refusal && h("span", { class: "why-not", id: "why-not" }, refusal),
    h("button", { type: "button", id: "act", disabled: refusal !== null, "aria-describedby": refusal && "why-not",
      on: { click: () => openForm(fleet, address(), tasks(), candidates(), boards()) } }, label));
}

/** Make a button for one thing without arguments to fill in. */
export function wishButton(label, fleet, verb, address, args) {
  const refusal = session.refusal(verb);
  return h("button", { type: "button", disabled: refusal !== null, title: refusal, dataset: { wish: verb },
    "aria-label": refusal ? `${label} (${refusal})` : null,
    on: { click: async (event) => {
      event.target.disabled = true;
      try {
        await wishes.ask(fleet, verb, address, args);
        wishes.open();
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        openDialog(label, h("p", { role: "alert" }, error.sentence));
      } finally {
        event.target.disabled = false;
      }
    } } }, label);
}

function openForm(fleet, address, tasks, candidates, boards) {
  const fields = h("div", { class: "form-fields" });
  const problem = h("p", { class: "problem", role: "alert" });
  const choices = VERBS.map(([verb, label, meaning]) => {
    const refusal = session.refusal(verb);
    const input = h("input", { type: "radio", name: "verb", value: verb, disabled: refusal !== null, required: true,
      on: { change: () => fill(fields, inputs(verb, tasks, candidates)) } });
    return h("label", { class: refusal ? "choice off" : "choice" }, input,
      h("span", null, h("b", null, label), h("small", null, refusal ?? meaning)));
  });
  const form = h("form", { method: "dialog", class: "act-form", on: { submit: (event) => send(event) } },
    h("p", null, "For ", h("b", null, boards), ": ", h("code", null, address)),
    h("fieldset", { class: "choices" }, h("legend", null, "What"), choices),
    fields, problem,
    h("div", { class: "form-end" }, h("span", { class: "note" }, `${session.operator}'s machine asks once more, and signs.`),
      h("button", { type: "submit", class: "main" }, "Ask for it")));
  const dialog = openDialog("Act on boards", form);

  async function send(event) {
    event.preventDefault();
    const verb = form.elements.verb.value;
    try {
      await wishes.ask(fleet, verb, address, given(form, verb));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      problem.textContent = error.sentence;
      return;
    }
    dialog.close();
    wishes.open();
  }
}

function inputs(verb, tasks, candidates) {
  if (!TAKES_TASK.includes(verb)) return null;
  const needed = NEEDS_TASK.includes(verb);
  const made = [field("Task", h("select", { name: "task", required: needed },
    needed ? null : h("option", { value: "" }, "every task"), tasks.map((task) => h("option", null, task))))];
  if (verb in NO_CANDIDATE) {
    made.push(field("Candidate", [h("input", { name: "candidate", list: "candidates", autocomplete: "off", spellcheck: "false",
      placeholder: NO_CANDIDATE[verb] }),
    h("datalist", { id: "candidates" }, candidates.map((name) => h("option", { value: name })))]));
  }
  if (verb === "bench") {
    made.push(h("label", { class: "tick" }, h("input", { type: "checkbox", name: "again" }), "measure again what is measured"));
    made.push(h("label", { class: "tick" }, h("input", { type: "checkbox", name: "exhaustive" }), "measure everything in full"));
  }
  if (verb === "set-desired") {
    made.push(field("Budgets, one a line", h("textarea", { name: "budgets", rows: 3, placeholder: "latency_p95 <= 20 ms\naccuracy_top1 >= 0.9" })));
    made.push(field("Objective, one a line", h("textarea", { name: "objective", rows: 2, placeholder: "minimize latency_p95" })));
    made.push(field("Pin", h("input", { name: "pin", list: "candidates", autocomplete: "off", placeholder: "no pin" })));
  }
  return made;
}

const field = (label, input) => h("label", { class: "field" }, h("span", null, label), input);

function given(form, verb) {
  const value = (name) => form.elements[name]?.value.trim() || undefined;
  const lines = (name) => (value(name) ?? "").split("\n").map((line) => line.trim()).filter(Boolean);
  if (!TAKES_TASK.includes(verb)) return {};
  const made = { task: value("task") };
  if (verb === "deploy" || verb === "pardon") made.candidate = value("candidate");
  if (verb === "bench") {
    if (value("candidate")) made.candidates = [value("candidate")];
    if (form.elements.again.checked) made.again = true;
    if (form.elements.exhaustive.checked) made.exhaustive = true;
  }
  if (verb === "set-desired") {
    made.budgets = Object.fromEntries(lines("budgets").map((line) => {
      const [, name, sign, limit] = /^([a-z0-9_]+)\s*(<=|>=|:)?\s*(.*)$/.exec(line) ?? [null, line, "", ""];
      return [name, sign === ">=" ? `>= ${limit}` : limit];
    }));
    if (lines("objective").length) made.objective = lines("objective");
    if (value("pin")) made.pin = value("pin");
  }
  return Object.fromEntries(Object.entries(made).filter(([, one]) => one !== undefined));
}

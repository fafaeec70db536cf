// What a task of a board runs, and why: the decision in words, in figures and as a plot.

import { h, plot } from "./dom.js";
import { metric, metricName, quantity, share, words } from "./format.js";
import { at, standing, table, unsettled } from "./tables.js";

const STATES = { met: ["✓", "met"], missed: ["✕", "missed"], unknown: ["?", "unknown"] };

export function taskSection(task, board) {
  const { deployment, decision } = task;
  const line = board.tasks.find((one) => one.task === task.task);
  return [h("div", { class: "task-head" }, h("h2", null, task.task),
    h("p", { class: "serves-now" }, deployment?.candidate
      ? [h("b", null, deployment.candidate), " serves", point(deployment)]
      : "Nothing serves here", unsettled(deployment?.phase) && h("span", { class: "phase" }, words(deployment.phase)))),
  deployment?.reason && h("p", { class: "note" }, deployment.reason),
  Object.entries(deployment?.withheld ?? {}).map(([name, reason]) =>
    h("p", { class: "note" }, h("b", null, name), ` is kept out: ${reason}`)),
  decision ? why(task, decision, line) : h("p", { class: "empty" }, "Nothing was decided here yet.")];
}

const point = (one) => (one.engine ? ` on ${one.engine}${one.provider ? ` ${one.provider.replaceAll("ExecutionProvider", "")}` : ""}, ${one.threads === 1 ? "1 thread" : `${one.threads ?? "?"} threads`}` : "");

function why(task, decision) {
  return [h("p", { class: "reason" }, sentence(decision.reason), h("small", null, " decided ", at(decision.decided_at))),
    budgets(decision), miss(decision),
    task.plot && h("figure", { class: "trade" }, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Trade-off plot" }, plot(task.plot)), legend()),
    options(decision),
    task.text && h("details", { id: `words-${task.task}` }, h("summary", null, "The whole decision in words"),
      h("pre", { tabindex: "0" }, task.text))];
}

/** End a text as a sentence; a name that it begins with stays as it is. */
export function sentence(text) {
  if (!text) return "";
  const first = /^[a-z]+(?=[ ,.;:]|$)/.test(text) ? text[0].toUpperCase() : text[0];
  return first + text.slice(1) + (text.endsWith(".") ? "" : ".");
}

const FIGURES = { latency_p50: "latency_p50_s", latency_p90: "latency_p90_s", latency_p95: "latency_p95_s", latency_p99: "latency_p99_s",
  latency_p95_sustained: "latency_p95_sustained_s", throughput: "throughput_per_s", memory_peak: "memory_peak_bytes",
  power_mean: "power_mean_w", energy_per_inference: "energy_per_inference_j", size: "size_bytes", load_time: "load_time_s",
  first_inference: "first_inference_s", accuracy_top1: "accuracy_top1", accuracy_drop: "accuracy_drop" };

function budgets(decision) {
  if (!decision.budgets?.length) return h("p", { class: "note" }, "No budget limits it. Objective: ", objective(decision));
  return [h("ul", { class: "budgets", "aria-label": "Budgets" }, decision.budgets.map((one) => {
    const [sign, word] = STATES[one.state] ?? ["–", "not judged"];
    const value = decision[FIGURES[one.metric]];
    const used = value != null && one.limit && one.miss_ratio != null ? 1 + one.miss_ratio : null;
    return h("li", { class: one.state ?? "none" }, h("span", { class: "name" }, metricName(one.metric)),
      h("span", { class: "value" }, metric(value, one.metric)),
      h("span", { class: "against" }, h("i", { "aria-hidden": "true" }, sign), ` ${word} · ${limit(one)}`,
        used !== null && one.metric.match(/latency|energy|memory|size|time|power/) ? ` · ${share(used)} of it` : ""));
  })), h("p", { class: "note" }, "Objective: ", objective(decision))];
}

const limit = (one) => `${/^[<>≤≥]/.test(one.text) ? "" : one.metric.startsWith("accuracy_top1") || one.metric === "throughput" ? "≥ " : "≤ "}${one.text.replace("<=", "≤").replace(">=", "≥")}`;
const objective = (decision) => (decision.objectives?.join(", then ") || "none") + ".";

function miss(decision) {
  if (!decision.nearest_miss_candidate) return null;
  return h("p", { class: "miss" }, h("b", null, "Nearest miss: "), decision.nearest_miss_candidate, ": ", sentence(decision.nearest_miss_reason ?? metricName(decision.nearest_miss_metric ?? "")));
}

function options(decision) {
  const rows = decision.options.map((one) => h("tr", { class: one.rank === 1 ? "winner" : null },
    h("td", null, standing(one.standing)), h("th", { scope: "row" }, one.candidate, one.rank === 1 && h("span", { class: "tag" }, "chosen"),
      one.candidate === decision.incumbent_candidate && one.point === decision.incumbent_point && one.rank !== 1 && h("span", { class: "tag" }, "served before")),
    h("td", { class: "dull" }, one.point), h("td", { class: "n" }, quantity(one.latency_p95_s, "time")),
    h("td", { class: "n" }, quantity(one.accuracy_top1, "ratio")), h("td", { class: "n" }, quantity(one.energy_per_inference_j, "energy")),
    h("td", { class: "n" }, quantity(one.size_bytes, "bytes")), h("td", { class: "wrap why" }, one.reason)));
  const left = [decision.options_left_out && `${decision.options_left_out} more were not sent`,
    decision.options_untried && `${decision.options_untried} were not measured in full, ${decision.options_untried_that_matter || "none"} of them could change this`].filter(Boolean);
  return [table("Options", [["standing"], ["candidate"], ["run as"], ["p95", { numeric: true }], ["top-1", { numeric: true }],
    ["energy", { numeric: true }], ["size", { numeric: true }], ["why"]], rows, { empty: "No option was told of." }),
  left.length ? h("p", { class: "note" }, `${sentence(left.join("; "))}`) : null];
}

/** Say what the marks of a trade-off plot mean. */
export function legend(judged = true) {
  return h("figcaption", { class: "legend" },
    judged && [h("span", null, h("i", { class: "dot full", "aria-hidden": "true" }), "fits every budget"),
      h("span", null, h("i", { class: "dot hollow", "aria-hidden": "true" }), "over a budget"),
      h("span", null, h("i", { class: "dot dashed", "aria-hidden": "true" }), "a budget is unknown")],
    h("span", null, h("i", { class: "step", "aria-hidden": "true" }), "best trade-offs"),
    h("span", null, "area: size"), h("span", null, h("i", { class: "ramp", "aria-hidden": "true" }), "colour: energy, little to much"));
}

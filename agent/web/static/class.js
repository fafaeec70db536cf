// One class: what its boards have measured for a task, as a plot and as a table, and what serves.

import { fleetPath, get, pagePath } from "./api.js";
import { fill, h, plot, renew } from "./dom.js";
import { many, metricName, NONE, quantity, short } from "./format.js";
import { seldom } from "./live.js";
import { legend } from "./decision.js";
import { standing, table } from "./tables.js";

export async function show({ fleet, name, root, query, title }) {
  const holder = h("div");
  const task = query.get("task");

  async function load() {
    const page = await get(fleetPath(fleet, "classes", name) + (task ? `?task=${encodeURIComponent(task)}` : ""));
    title(`Class ${short(page.class.class_fingerprint)}`);
    renew(holder, page, () => draw(fleet, page));
  }

  await load();
  fill(root, holder);
  const again = seldom(load, 15000);
  return { changed: (change) => { if (change.whole || change.boards?.length) again(); } };
}

function draw(fleet, page) {
  const one = page.class;
  const base = pagePath(fleet, "classes", one.class_fingerprint);
  const boards = `${pagePath(fleet, "boards")}?filter=${encodeURIComponent(`class:${one.class_fingerprint.slice(0, 16)}`)}`;
  return [h("p", { class: "crumbs" }, h("a", { href: pagePath(fleet, "classes") }, "Classes")),
    h("div", { class: "page-head" }, h("h1", null, one.model ?? one.profile ?? "Unknown model", h("small", { class: "mono" }, short(one.class_fingerprint))),
      h("a", { href: boards }, many(one.boards, "board")), h("span", { class: "note" }, `${one.online} online`)),
    one.tasks.length > 1 ? h("nav", { class: "tabs", "aria-label": "Tasks" }, h("ul", null, one.tasks.map((task) => h("li", null, h("a",
      { href: `${base}?task=${encodeURIComponent(task)}`, "aria-current": task === page.task ? "page" : null }, task))))) : null,
    page.task ? [h("section", { class: "part" }, h("h2", null, `Trade-offs for ${page.task}`), budgetLine(page), serving(page),
      page.plot ? h("figure", { class: "trade" }, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Trade-off plot" }, plot(page.plot)), legend(page.budgets.length > 0))
        : h("p", { class: "empty" }, "Nothing that can be drawn was measured yet."),
      figures(page)), page.traps.length ? h("section", { class: "part" }, h("h2", null, "Mind"), h("ul", { class: "traps" }, page.traps.map((text) => h("li", null, text)))) : null]
      : h("p", { class: "empty" }, "No task was told of yet.")];
}

function budgetLine(page) {
  if (!page.budgets.length) return h("p", { class: "note" }, "No budget is known of its boards.");
  const said = page.budgets.map((one) => `${metricName(one.metric)} ${one.text}`).join("; ");
  return h("p", { class: "note" }, `Budgets: ${said}, of ${page.having === page.counted ? "all" : `${page.having} of`} ${many(page.counted, "board")} that told theirs.`);
}

function serving(page) {
  const known = page.serving.filter((one) => one.candidate);
  if (!known.length) return h("p", null, "Nothing serves here yet.");
  return h("p", null, "Serves: ", known.map((one, at) => [at ? ", " : "", h("b", null, one.candidate), ` on ${many(one.boards, "board")}`]), ".");
}

function figures(page) {
  const spread = (one) => (one.boards > 1 && one.latency_p95_least_s !== null && one.latency_p95_least_s !== one.latency_p95_most_s
    ? h("small", null, `${quantity(one.latency_p95_least_s, "time")} – ${quantity(one.latency_p95_most_s, "time")}`) : null);
  return table("What this class has measured", [["standing"], ["candidate"], ["run as"], ["p95", { numeric: true }], ["top-1", { numeric: true }],
    ["energy", { numeric: true }], ["memory", { numeric: true }], ["size", { numeric: true }], ["measured on", { numeric: true }], ["serves on", { numeric: true }]],
  page.rows.map(({ figures: one, standing: word, front, reason }) => h("tr", { class: one.serving ? "winner" : null, title: reason },
    h("td", null, page.budgets.length ? standing(word) : NONE),
    h("th", { scope: "row" }, one.candidate, front && h("span", { class: "tag" }, "best trade-off")),
    h("td", { class: "dull" }, `${one.engine} ${one.provider.replaceAll("ExecutionProvider", "")} ×${one.threads}${one.batch > 1 ? `, batch ${one.batch}` : ""}`),
    h("td", { class: "n" }, quantity(one.latency_p95_s, "time"), spread(one)), h("td", { class: "n" }, quantity(one.accuracy_top1, "ratio")),
    h("td", { class: "n" }, quantity(one.energy_per_inference_j, "energy")), h("td", { class: "n" }, quantity(one.memory_peak_bytes, "bytes")),
    h("td", { class: "n" }, quantity(one.size_bytes, "bytes")), h("td", { class: "n" }, many(one.boards, "board")),
    h("td", { class: "n" }, one.serving ? many(one.serving, "board") : NONE))), { empty: "Nothing was measured yet." });
}

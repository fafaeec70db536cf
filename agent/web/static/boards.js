// The table of boards: filter, sort, pages, live.

import { fleetPath, get, pagePath, Refusal } from "./api.js";
import { actButton } from "./acting.js";
import { announce, fill, h } from "./dom.js";
import { many, NONE, quantity, share, short, words } from "./format.js";
import { seldom } from "./live.js";
import { since, sortable, status, roving, unsettled } from "./tables.js";

// name, heading, own filter (none, text or choice), right-aligned, what the filter takes
const COLUMNS = [
  ["status", "Status", ["online", "busy", "offline"]], ["name", "Board", "text"], ["model", "Model", "text"],
  ["class", "Class", null], ["group", "Groups", "text"], ["candidate", "Serves", "text"],
  ["p95", "p95", "text", true, ">20ms"], ["use", "of budget", null, true], ["energy", "Energy", "text", true, ">2mJ"],
  ["temperature", "Temp.", "text", true, ">70°C"], ["outbox", "Outbox", "text", true, ">100"], ["seen", "Last seen", null, true],
];
const FILTERED = COLUMNS.filter(([, , own]) => own).map(([name]) => name);

export async function show({ fleet, root, query, note, title }) {
  title(`Boards of ${fleet}`);
  const given = new URLSearchParams(query);
  const head = h("div", { class: "page-head" });
  const problem = h("p", { class: "problem", id: "filter-problem", role: "alert" });
  const filter = h("input", { id: "filter", type: "search", value: given.get("filter") ?? "", autocomplete: "off", spellcheck: "false",
    placeholder: "soc=bcm2712 and ram>=4GiB and status=online", "aria-describedby": "filter-problem", "aria-keyshortcuts": "/",
    on: { input: () => typed(), keydown: (event) => { if (event.key === "Escape") event.target.blur(); } } });
  const heads = h("tr");
  const own = h("tr", { class: "filters" });
  const body = h("tbody");
  const table = h("table", { class: "boards" }, h("caption", { class: "unseen" }, `Boards of ${fleet}`),
    h("thead", null, heads, own), body);
  const walk = roving(table);
  const pager = h("nav", { class: "pager", "aria-label": "Pages of the table" });
  const rows = new Map();
  let answer = null;
  let asking = null;

  fill(root, head,
    h("form", { class: "filter-bar", role: "search", on: { submit: (event) => { event.preventDefault(); load(); } } },
      h("label", { for: "filter" }, "Filter"), filter, h("kbd", { "aria-hidden": "true" }, "/")),
    problem, h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Boards" }, table), pager);
  fill(own, COLUMNS.map(([name, label, kind, , hint]) => h("td", null, own_(name, label, kind, hint))));

  function own_(name, label, kind, hint) {
    if (!kind) return null;
    const value = given.get(name) ?? "";
    const properties = { "aria-label": `Filter by ${label.toLowerCase()}`, id: `filter-${name}`, on: { input: () => typed(name) } };
    if (kind === "text") return h("input", { ...properties, type: "text", value, placeholder: hint ?? "", autocomplete: "off", spellcheck: "false" });
    return h("select", properties, h("option", { value: "" }, "any"), kind.map((one) => h("option", { selected: one === value }, one)));
  }

  const typed = seldom(() => {
    put("filter", filter.value.trim());
    for (const name of FILTERED) put(name, root.querySelector(`#filter-${name}`)?.value.trim());
    given.delete("page");
    load();
  }, 250);

  function put(name, value) {
    if (value) given.set(name, value);
    else given.delete(name);
  }

  function remember() {
    const text = given.toString();
    note(location.pathname + (text ? `?${text}` : ""));
  }

  async function load() {
    asking?.abort();
    asking = new AbortController();
    remember();
    try {
      const before = answer;
      answer = await get(`${fleetPath(fleet, "boards")}?${given}`, asking.signal);
      problem.textContent = "";
      filter.removeAttribute("aria-invalid");
      draw(before);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Refusal)) throw error;
      if (!answer) throw error;
      problem.textContent = error.sentence;
      if (error.status === 400) filter.setAttribute("aria-invalid", "true");
    }
  }

  function draw(before) {
    const counts = answer.counts;
    if (before && before.expression === answer.expression && JSON.stringify(before.counts) !== JSON.stringify(counts)) {
      announce(`${counts.online} online, ${counts.busy} busy, ${counts.offline} offline`);
    }
    drawHead(counts);
    const focused = document.activeElement?.id;
    fill(heads, COLUMNS.map(([name, label, , numeric]) => sortable(name, label, {
      sort: given.get("sort") ?? "name", descending: given.get("order") === "desc", numeric, onSort: sortBy })));
    if (focused?.startsWith("sort-")) document.getElementById(focused)?.focus();
    drawRows();
    drawPager();
    walk.settle();
  }

  function drawHead(counts) {
    const chip = (kind, count, label, parameters) => h("li", null, h("button", { type: "button", class: `chip ${kind}`,
      disabled: !count, id: `chip-${kind}`, on: { click: () => narrow(parameters) } }, h("b", null, count.toLocaleString("en")), ` ${label}`));
    const all = answer.found === answer.total ? many(answer.total, "board") : `${answer.found.toLocaleString("en")} of ${many(answer.total, "board")}`;
    const focused = head.contains(document.activeElement) ? document.activeElement.id : null;
    fill(head, h("h1", null, "Boards", h("small", null, all)),
      h("ul", { class: "chips", "aria-label": "How many" },
        chip("online", counts.online, "online", { status: "online" }), chip("busy", counts.busy, "busy", { status: "busy" }),
        chip("offline", counts.offline, "offline", { status: "offline" }),
        chip("over", counts.over_budget, "over budget", { sort: "use", order: "desc" }),
        chip("waiting", counts.waiting, "outbox waiting", { outbox: "> 0" })),
      actButton("Act on these…", { fleet, address: () => answer.expression || "all",
        tasks: () => [...new Set(answer.boards.flatMap((one) => one.tasks.map((task) => task.task)))],
        candidates: () => [...new Set(answer.boards.flatMap((one) => one.tasks.map((task) => task.candidate)).filter(Boolean))],
        boards: () => many(answer.found, "board") }));
    if (focused) document.getElementById(focused)?.focus();
  }

  function narrow(parameters) {
    for (const [name, value] of Object.entries(parameters)) {
      given.set(name, value);
      const input = root.querySelector(`#filter-${name}`);
      if (input) input.value = value;
    }
    given.delete("page");
    load();
  }

  function sortBy(name, descending) {
    given.set("sort", name);
    if (descending) given.set("order", "desc");
    else given.delete("order");
    load();
  }

  function drawRows() {
    const wanted = [];
    for (const board of answer.boards) {
      const text = JSON.stringify(board);
      const known = rows.get(board.name);
      if (known?.text === text) wanted.push(known.row);
      else {
        const had = known?.row.contains(document.activeElement);
        const row = boardRow(fleet, board);
        if (known) row.classList.add("fresh");
        rows.set(board.name, { text, row });
        if (known?.row.isConnected) known.row.replaceWith(row);
        if (had) row.querySelector("[data-row]").focus();
        wanted.push(row);
      }
    }
    const names = new Set(answer.boards.map((one) => one.name));
    for (const name of rows.keys()) if (!names.has(name)) rows.delete(name);
    if (wanted.length !== body.children.length || wanted.some((row, place) => body.children[place] !== row)) {
      const focused = body.contains(document.activeElement) ? document.activeElement : null;
      body.replaceChildren(...wanted);
      focused?.isConnected && focused.focus();
    }
    if (!wanted.length) fill(body, h("tr", null, h("td", { colspan: COLUMNS.length, class: "empty" },
      answer.total ? "No board is meant by this filter." : "No board has told of itself yet.")));
  }

  function drawPager() {
    const from = (answer.page - 1) * answer.per_page + 1;
    const step = (to, label, key) => h("button", { type: "button", id: `page-${key}`, "aria-keyshortcuts": key,
      disabled: to < 1 || to > answer.pages, on: { click: () => turn(to) } }, label);
    const focused = pager.contains(document.activeElement) ? document.activeElement.id : null;
    fill(pager, answer.pages > 1 ? [step(answer.page - 1, "Previous", "p"),
      h("span", null, `${from.toLocaleString("en")}–${(from + answer.boards.length - 1).toLocaleString("en")} of ${answer.found.toLocaleString("en")}`),
      step(answer.page + 1, "Next", "n")] : null);
    if (focused) document.getElementById(focused)?.focus();
  }

  function turn(to) {
    if (to < 1 || to > answer.pages) return;
    given.set("page", to);
    load().then(() => walk.first()?.focus());
  }

  const again = seldom(load, 1000);
  await load();
  return {
    changed: (change) => {
      if (change.session && answer) drawHead(answer.counts);
      if (change.whole || change.boards?.length) again();
    },
    key: (event) => {
      if (event.key === "/") filter.focus();
      else if (event.key === "n") turn(answer.page + 1);
      else if (event.key === "p") turn(answer.page - 1);
      else if (event.key === "j" || event.key === "ArrowDown") {
        if (event.target !== document.body && event.target !== root) return false;
        walk.first()?.focus();
      } else return false;
      return true;
    },
    close: () => asking?.abort(),
  };
}

function boardRow(fleet, board) {
  const lines = (render) => board.tasks.length ? board.tasks.map((task) => h("div", { class: "line" }, render(task))) : NONE;
  const known = board.model ?? board.profile;
  return h("tr", null,
    h("td", null, status(board.status, board.reason)),
    h("th", { scope: "row" }, h("a", { href: pagePath(fleet, "boards", board.name), dataset: { row: "" }, tabindex: -1 }, board.name),
      board.desired_error && h("small", { class: "bad" }, "refused its settings")),
    h("td", { class: "clip", title: known }, known ?? NONE),
    h("td", null, board.class_fingerprint
      ? h("a", { href: pagePath(fleet, "classes", board.class_fingerprint), class: "mono quiet-link" }, short(board.class_fingerprint)) : NONE),
    h("td", { class: "clip", title: board.groups.join(", ") }, board.groups.join(", ") || NONE),
    h("td", { class: "serves" }, lines((task) => [h("span", { class: "task" }, task.task), h("b", null, task.candidate ?? "nothing"),
      unsettled(task.phase) && h("span", { class: "phase" }, words(task.phase))])),
    h("td", { class: "n" }, lines((task) => quantity(task.p95_s, "time"))),
    h("td", { class: "n use" }, lines((task) => budgetUse(task))),
    h("td", { class: "n" }, lines((task) => quantity(task.energy_j, "energy"))),
    h("td", { class: "n" }, quantity(board.temperature_celsius, "temperature")),
    h("td", { class: "n" }, board.outbox ? board.outbox.toLocaleString("en") : board.outbox === 0 ? "0" : NONE),
    h("td", { class: "n seen" }, since(board.seen)));
}

function budgetUse(task) {
  if (task.p95_s === null || !task.budget_p95_s) return NONE;
  const used = task.p95_s / task.budget_p95_s;
  const over = used > 1;
  return h("span", { class: over ? "budget over" : "budget", title: `budget ${quantity(task.budget_p95_s, "time")}` },
    h("span", { class: "bar", "aria-hidden": "true" }, h("i", { vars: { "--part": `${Math.min(100, used * 100)}%` } })),
    h("span", null, over && h("span", { class: "over-sign" }, "over "), share(used)));
}

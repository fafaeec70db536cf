// One board: what it is, what runs there and why, what happened.

import { fleetPath, get, pagePath, Refusal } from "./api.js";
import { actButton, wishButton } from "./acting.js";
import { announce, fill, h, plot, renew } from "./dom.js";
import { metric, metricName, NONE, quantity, short, words } from "./format.js";
import { seldom } from "./live.js";
import { taskSection } from "./decision.js";
import { at, jobState, since, status, table } from "./tables.js";

export async function show({ fleet, name, root, title }) {
  title(name);
  const place = (id) => h("section", { id, class: "part" });
  const parts = { head: h("div"), facts: place("facts"), tasks: h("div"), series: place("series"), jobs: place("jobs"),
    events: place("events"), settings: place("settings") };
  let page = null;

  async function load() {
    const before = page;
    page = await get(fleetPath(fleet, "boards", name));
    if (before && before.board.status !== page.board.status) announce(`${name} is ${page.board.status}`);
    draw();
  }

  function draw() {
    renew(parts.head, [page.board, page.telemetry, actKey()], () => head(fleet, page));
    renew(parts.facts, [page.facts, page.traps, page.telemetry], () => facts(page));
    drawTasks();
    const said = renew(parts.jobs, page.jobs, () => jobs(fleet, name, page.jobs));
    if (said && page.jobs[0]) announce(`${page.jobs[0].verb}: ${words(page.jobs[0].state)}`);
    renew(parts.events, page.events, () => events(page.events));
    renew(parts.settings, page.reported, () => settings(page.reported));
  }

  const actKey = () => document.getElementById("who").textContent;

  function drawTasks() {
    const held = new Map([...parts.tasks.children].map((one) => [one.dataset.task, one]));
    const wanted = page.tasks.map((task) => held.get(task.task) ?? h("section", { class: "part", dataset: { task: task.task } }));
    if (wanted.length !== parts.tasks.children.length) fill(parts.tasks, wanted);
    page.tasks.forEach((task, at_) => renew(wanted[at_], task, () => taskSection(task, page.board)));
  }

  async function loadSeries() {
    try {
      const found = await get(fleetPath(fleet, "boards", name, "series"));
      renew(parts.series, found.plots, () => series(found.plots));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      fill(parts.series, h("h2", null, "Over time"), h("p", { class: "problem" }, error.sentence));
    }
  }

  await load();
  fill(root, parts.head, h("div", { class: "two" }, h("div", { class: "wide" }, parts.tasks, parts.series, parts.jobs),
    h("div", { class: "side" }, parts.facts, parts.settings, parts.events)));
  loadSeries();
  const again = seldom(() => load().catch((error) => { if (!(error instanceof Refusal)) throw error; }), 1000);
  const seriesAgain = seldom(loadSeries, 10000);
  return { changed: (change) => {
    if (change.session) draw();
    if (!change.whole && !change.boards?.includes(name)) return;
    again();
    seriesAgain();
  } };
}

function head(fleet, page) {
  const { board, telemetry } = page;
  const figures = [["last seen", since(board.seen)], ["temperature", quantity(board.temperature_celsius, "temperature")],
    ["outbox", board.outbox === null ? NONE : `${board.outbox.toLocaleString("en")} waiting`],
    ["load", telemetry?.load_1min == null ? NONE : telemetry.load_1min.toFixed(2)],
    ["throttled", telemetry?.throttle_now == null ? NONE : telemetry.throttle_now || "no"],
    ["power", quantity(telemetry?.power_w, "power")]];
  return [h("p", { class: "crumbs" }, h("a", { href: pagePath(fleet, "boards") }, "Boards")),
    h("div", { class: "page-head" }, h("h1", null, board.name), status(board.status, board.reason),
      board.reason && h("span", { class: "note" }, board.reason),
      board.class_fingerprint && h("a", { class: "mono", href: pagePath(fleet, "classes", board.class_fingerprint) }, `class ${short(board.class_fingerprint)}`),
      actButton("Act on this board…", { fleet, address: () => board.name, tasks: () => board.tasks.map((task) => task.task),
        candidates: () => page.tasks.flatMap((task) => (task.decision?.options ?? []).map((one) => one.candidate)).filter((one, at_, all) => all.indexOf(one) === at_),
        boards: () => "this board" })),
    h("dl", { class: "figures" }, figures.map(([label, value]) => h("div", null, h("dt", null, label), h("dd", null, value))))];
}

function facts(page) {
  return [h("h2", null, "What it is"),
    h("dl", { class: "facts" }, page.facts.map(([label, text]) => [h("dt", null, label), h("dd", null, text)])),
    page.traps.length ? [h("h3", null, "Mind"), h("ul", { class: "traps" }, page.traps.map((text) => h("li", null, text)))] : null];
}

function series(plots) {
  const drawn = plots.filter((one) => one.svg);
  return [h("h2", null, "Over time"), drawn.length ? h("div", { class: "plots" }, drawn.map((one) => h("figure", null,
    h("figcaption", null, h("b", null, one.title), one.series.length > 1 && h("span", { class: "keys-of" }, one.series.map((name, at_) => h("span",
      { class: `key s${at_ + 1}` }, h("i", { "aria-hidden": "true" }), name)),
      one.left_out > 0 && h("span", null, `and ${one.left_out} more, in the table of options`))),
    plot(one.svg),
    h("details", { id: `values-${one.name}` }, h("summary", null, "The newest figures"), table(one.title, [["when"], ["what"], ["value", { numeric: true }]],
      one.values.map((value) => h("tr", null, h("td", null, at(value.time)), h("td", null, value.name),
        h("td", { class: "n" }, metric(value.value, one.metric))))))))) : h("p", { class: "empty" }, "Nothing was measured yet.")];
}

const LIVE = ["QUEUED", "IN_PROGRESS"];
function jobs(fleet, board, known) {
  return [h("h2", null, "Jobs"), table("Jobs", [["what"], ["state"], ["progress"], ["by"], ["when"], ["id"], [h("span", { class: "unseen" }, "Cancel")]],
    known.map((job) => h("tr", null, h("td", null, h("b", null, job.verb), job.task ? ` ${job.task}` : ""),
      h("td", null, jobState(job.state)), h("td", { class: "wrap" }, progress(job)), h("td", null, job.issuer ?? NONE),
      h("td", null, since(job.finished_at ?? job.started_at ?? job.time)), h("td", { class: "mono dull" }, (job.id ?? "").slice(0, 12)),
      h("td", null, LIVE.includes(job.state) && wishButton("Cancel", fleet, "cancel", board, { job: job.id })))),
    { empty: "It was never ordered to do anything." })];
}

function progress(job) {
  const ratio = job.progress_ratio ?? (job.done !== null && job.total ? job.done / job.total : null);
  const bar = LIVE.includes(job.state) && ratio != null
    ? h("progress", { max: 1, value: ratio, "aria-label": `${job.verb}: ${Math.round(ratio * 100)} %` }) : null;
  const result = job.result && Object.entries(job.result).filter(([, value]) => value !== null).map(([key, value]) => `${key} ${value}`).join(", ");
  return [bar, bar && " ", [bar && job.stage, job.reason ?? (LIVE.includes(job.state) ? "" : result)].filter(Boolean).join(": ")];
}

function events(known) {
  const signs = { error: ["✕", "bad"], warning: ["!", "warn"], info: ["·", "dull"] };
  return [h("h2", null, "Events"), known.length ? h("ol", { class: "events" }, known.map((event) => {
    const [sign, kind] = signs[event.level] ?? signs.info;
    return h("li", null, h("i", { class: `mark-${kind}`, "aria-hidden": "true" }, sign), h("div", null,
      h("span", { class: "unseen" }, `${event.level}: `), event.text, event.fix && h("small", null, event.fix),
      h("small", null, at(event.time), event.task ? ` · ${event.task}` : "")));
  })) : h("p", { class: "empty" }, "Nothing happened that a person may want to know.")];
}

function settings({ settings: held, desired, taken, refused }) {
  const tasks = Object.entries(held?.tasks ?? {});
  const versions = Object.entries(taken).map(([scope, version]) => `${scope} ${version}`).join(", ");
  const asked = desired?.settings?.tasks ?? {};
  return [h("h2", null, "Settings in force"),
    refused && h("p", { class: "problem" }, `It refused what was asked for: ${refused}`),
    h("p", { class: "note" }, versions ? `It has taken the desired state ${versions}.` : "Nothing is asked for of it: agent.yaml holds."),
    tasks.map(([task, one]) => h("div", { class: "setting" }, h("h3", null, task), h("dl", { class: "facts" },
      h("dt", null, "Budgets"), h("dd", null, one.budgets?.join("; ") || "none"),
      h("dt", null, "Objective"), h("dd", null, one.objective?.join(", then ") || "none"),
      h("dt", null, "Pin"), h("dd", null, one.pin ?? "none"),
      asked[task] ? [h("dt", null, "Asked for"), h("dd", null, told(asked[task]))] : null))),
    held?.schedule?.length ? [h("h3", null, "Schedule"), h("ul", { class: "plain" }, held.schedule.map((entry) => h("li", null,
      h("b", null, entry.name), ` ${entry.action}, ${entry.when}`, entry.next_at ? [", next ", at(entry.next_at)] : "")))] : null];
}

const told = (one) => [...Object.entries(one.budgets ?? {}).map(([name, limit]) => `${metricName(name)} ${limit}`),
  ...(one.objective ?? []), one.pin ? `pin ${one.pin}` : ""].filter(Boolean).join("; ");

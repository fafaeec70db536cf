// One rollout: its waves, its boards that are not in order, all that happened.

import { fleetPath, get, pagePath } from "./api.js";
import { wishButton } from "./acting.js";
import { announce, fill, h, renew } from "./dom.js";
import { many, quantity, share, short, words } from "./format.js";
import { sentence } from "./decision.js";
import { seldom } from "./live.js";
import { ENDED, phaseBar, rolloutState } from "./phases.js";
import { at, since, table } from "./tables.js";

export async function show({ fleet, name, root, title }) {
  title(`Rollout ${name}`);
  const parts = { head: h("div"), waves: h("section", { class: "part" }), boards: h("section", { class: "part" }), history: h("section", { class: "part" }) };
  let one = null;

  async function load() {
    const before = one;
    one = (await get(fleetPath(fleet, "rollouts", name))).rollout;
    if (before && before.status !== one.status) announce(`The rollout is ${words(one.status)}`);
    draw();
  }

  function draw() {
    const { tracks, boards, transitions, ...rest } = one;
    renew(parts.head, [rest, document.getElementById("who").textContent], () => head(fleet, one));
    renew(parts.waves, [tracks, one.phases], () => waves(fleet, one));
    renew(parts.boards, boards, () => bad(fleet, one));
    renew(parts.history, transitions, () => history_(fleet, one));
  }

  await load();
  fill(root, parts.head, parts.waves, parts.boards, parts.history);
  const again = seldom(load, 1000);
  return { changed: (change) => {
    if (change.session) draw();
    if (change.whole || change.rollouts?.includes(name)) again();
  } };
}

function head(fleet, one) {
  const order = one.order ?? {};
  const still = !ENDED.includes(one.status);
  const ask = (label, verb, more = {}) => wishButton(label, fleet, verb, "", { rollout: one.id, ...more });
  const rows = [["boards", `${many(one.boards_total ?? 0, "board")}: ${order.address ?? ""}`], ["waves", (order.waves ?? []).join(", ") + (order.per_class ? ", in each class" : "")],
    ["success", order.success_ratio == null ? "–" : share(order.success_ratio)], ["stops on", `${(order.abort_on ?? []).join(", ") || "nothing"}, then ${order.on_breach === "pause" ? "pauses" : "rolls back"}`],
    ["soak", quantity(order.soak_s, "time")], ["by", `${one.operator}${one.machine ? ` on ${one.machine}` : ""}`], ["started", at(one.started_at)], ["last heard", since(one.updated_at)]];
  return [h("p", { class: "crumbs" }, h("a", { href: pagePath(fleet, "rollouts") }, "Rollouts")),
    h("div", { class: "page-head" }, h("h1", null, one.candidate ?? "Each board's own choice", h("small", null, ` for ${one.task}`)), rolloutState(one),
      h("span", { class: "mono dull" }, one.id),
      still && h("span", { class: "act" }, one.status === "paused" ? ask("Resume", "rollout-resume") : ask("Pause", "rollout-pause"),
        ask("Abort", "rollout-abort"), ask("Abort and undo", "rollout-abort", { undo: true }))),
    h("p", { class: "reason" }, sentence(one.reason)),
    h("dl", { class: "figures" }, rows.map(([label, value]) => h("div", null, h("dt", null, label), h("dd", null, value))))];
}

function waves(fleet, one) {
  const tracks = one.tracks ?? [];
  return [h("h2", null, "Waves"), phaseBar(one.phases ?? {}, one.boards_total),
    tracks.map((track) => h("div", { class: "track" }, h("h3", null, track.class_fingerprint
      ? h("a", { href: pagePath(fleet, "classes", track.class_fingerprint) }, `class ${short(track.class_fingerprint)}`) : track.name === "all" ? "All boards" : track.name,
    h("small", null, ` ${many(track.total, "board")} · ${track.done ? "through" : track.soak_until ? "soaks" : track.reason}`),
    track.soak_until && h("small", null, " until ", at(track.soak_until))),
    h("ol", { class: "waves" }, (track.waves ?? []).map((wave) => {
      const stopped = ENDED.includes(one.status);
      const state = track.done || wave.number < track.wave ? "done" : wave.number > track.wave ? "ahead" : stopped ? "stopped" : "now";
      const given = Object.values(wave.phases ?? {}).reduce((sum, count) => sum + count, 0);
      const label = { done: ["✓", "done"], now: ["▸", "now"], ahead: ["○", "to come"], stopped: ["■", "ended here"] }[state];
      return h("li", { class: state, "aria-current": state === "now" ? "step" : null },
        h("div", { class: "wave-head" }, h("i", { "aria-hidden": "true" }, label[0]), h("b", null, `Wave ${wave.number}`), h("span", null, `to ${wave.text.includes("%") ? wave.text : many(Number(wave.text), "board")}`), h("small", null, label[1])),
        h("div", { class: "wave-count" }, `${given.toLocaleString("en")} of ${many(wave.boards, "board")}`),
        given ? phaseBar(wave.phases, wave.boards) : null);
    })),
    idle(track).length ? h("p", { class: "note" }, "Given no work: ", idle(track).map(([phase, count]) => `${count} ${words(phase)}`).join(", "), ".") : null)),
    one.tracks_left_out ? h("p", { class: "note" }, `${many(one.tracks_left_out, "more track")} left out.`) : null];
}

const idle = (track) => Object.entries(track.idle ?? {}).filter(([, count]) => count);

function bad(fleet, one) {
  const boards = one.boards ?? [];
  return [h("h2", null, "Boards to look at"), table("Boards to look at", [["board"], ["phase"], ["wave", { numeric: true }], ["why"]],
    boards.map((board) => h("tr", null, h("th", { scope: "row" }, h("a", { href: pagePath(fleet, "boards", board.name) }, board.name)),
      h("td", null, h("span", { class: `sign-word mark-${board.phase === "unreachable" ? "dull" : "bad"}` }, h("i", { "aria-hidden": "true" }, board.phase === "unreachable" ? "○" : "✕"), words(board.phase))),
      h("td", { class: "n" }, board.wave ?? "–"), h("td", { class: "wrap" }, board.reason ?? ""))), { empty: "Every board is as it should be." }),
  one.boards_left_out ? h("p", { class: "note" }, `${many(one.boards_left_out, "more board")} left out; see boardfit fleet rollout show ${one.id}.`) : null];
}

function history_(fleet, one) {
  const happened = [...(one.transitions ?? [])].reverse();
  const subject = (name) => (name === "rollout" || name.startsWith("track ") ? name : h("a", { href: pagePath(fleet, "boards", name) }, name));
  return [h("h2", null, "What happened"), table("What happened", [["when"], ["what"], ["from"], ["to"], ["why"]],
    happened.map((row) => h("tr", null, h("td", null, at(row.at)), h("td", null, subject(row.subject)), h("td", { class: "dull" }, words(row.before) || "–"),
      h("td", null, words(row.after)), h("td", { class: "wrap" }, [row.reason, row.verb && `ordered ${row.verb}`].filter(Boolean).join("; ")))), { empty: "Nothing yet." }),
  one.transitions_left_out ? h("p", { class: "note" }, `${many(one.transitions_left_out, "earlier step")} left out.`) : null];
}

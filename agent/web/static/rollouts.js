// The rollouts that operators' machines have told of.

import { fleetPath, get, pagePath } from "./api.js";
import { fill, h, renew } from "./dom.js";
import { many } from "./format.js";
import { seldom } from "./live.js";
import { phaseBar, rolloutState } from "./phases.js";
import { roving, since, table } from "./tables.js";

export async function show({ fleet, root, title }) {
  title(`Rollouts of ${fleet}`);
  const holder = h("div");
  const walk = roving(holder);

  async function load() {
    const { rollouts } = await get(fleetPath(fleet, "rollouts"));
    renew(holder, rollouts, () => [h("div", { class: "page-head" }, h("h1", null, "Rollouts", h("small", null, many(rollouts.length, "rollout")))),
      table("Rollouts", [["rollout"], ["state"], ["task"], ["candidate"], ["boards", { numeric: true }], ["how they stand"], ["by"], ["started"], ["why"]],
        rollouts.map((one) => h("tr", null,
          h("th", { scope: "row" }, h("a", { class: "mono", dataset: { row: "" }, href: pagePath(fleet, "rollouts", one.id) }, one.id)),
          h("td", null, rolloutState(one)), h("td", null, one.task), h("td", null, one.candidate ?? "each its own"),
          h("td", { class: "n" }, (one.boards_total ?? 0).toLocaleString("en")), h("td", null, phaseBar(one.phases ?? {}, one.boards_total)),
          h("td", null, one.operator), h("td", null, since(one.started_at)), h("td", { class: "wrap dull" }, one.reason))),
        { card: true, empty: "No rollout was told of yet. Start one with `boardfit fleet rollout start`." })]);
    walk.settle();
  }

  await load();
  fill(root, holder);
  const again = seldom(load, 1000);
  return { changed: (change) => { if (change.whole || change.rollouts?.length) again(); } };
}

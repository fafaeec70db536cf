// The classes of boards.

import { fleetPath, get, pagePath } from "./api.js";
import { fill, h, renew } from "./dom.js";
import { many, NONE, short } from "./format.js";
import { seldom } from "./live.js";
import { roving, table } from "./tables.js";

export async function show({ fleet, root, title }) {
  title(`Classes of ${fleet}`);
  const holder = h("div");
  const walk = roving(holder);

  async function load() {
    const { classes } = await get(fleetPath(fleet, "classes"));
    renew(holder, classes, () => [h("div", { class: "page-head" }, h("h1", null, "Classes", h("small", null, many(classes.length, "class", "classes")))),
      h("p", { class: "lead" }, "Boards of one class have the same hardware, system and engines: what one has measured holds for all."),
      table("Classes", [["class"], ["model"], ["profile"], ["boards", { numeric: true }], ["online", { numeric: true }], ["tasks"]],
        classes.map((one) => h("tr", null,
          h("th", { scope: "row" }, h("a", { class: "mono", dataset: { row: "" }, href: pagePath(fleet, "classes", one.class_fingerprint) }, short(one.class_fingerprint))),
          h("td", null, one.model ?? NONE), h("td", null, one.profile ?? NONE), h("td", { class: "n" }, one.boards.toLocaleString("en")),
          h("td", { class: "n" }, one.online.toLocaleString("en")), h("td", null, one.tasks.map((task) => h("a",
            { class: "tag", href: `${pagePath(fleet, "classes", one.class_fingerprint)}?task=${encodeURIComponent(task)}` }, task))))),
        { card: true, empty: "No board has told what it is yet." })]);
    walk.settle();
  }

  await load();
  fill(root, holder);
  const again = seldom(load, 5000);
  return { changed: (change) => { if (change.whole || change.boards?.length) again(); } };
}

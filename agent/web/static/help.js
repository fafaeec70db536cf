// Help: the keys, and the words of the filter.

import { h } from "./dom.js";
import { openDialog } from "./dialog.js";

const KEYS = [
  ["/", "to the filter"], ["↑ ↓ or k j", "from row to row"], ["Home End", "first and last row"], ["Enter", "open"],
  ["n p", "next and previous page of the table"], ["g b, g c, g r", "boards, classes, rollouts"],
  ["?", "this help"], ["Esc", "close, or leave the filter"],
];
const EXAMPLES = [
  "soc=bcm2712 and ram>=4GiB and status=online", "group:line-2 and not model ~ \"*zero*\"",
  "candidate=net-int8 and p95>20ms", "class:3fa9 or pi5-kitchen",
];

export function showHelp(fields) {
  openDialog("Help",
    h("div", { class: "columns" },
      h("section", null, h("h3", null, "Keys"),
        h("dl", { class: "keys" }, KEYS.map(([keys, what]) => [h("dt", null, h("kbd", null, keys)), h("dd", null, what)]))),
      h("section", null, h("h3", null, "The filter"),
        h("p", null, "The same words as on the command line:"),
        h("ul", { class: "examples" }, EXAMPLES.map((text) => h("li", null, h("code", null, text)))),
        h("p", { class: "note" }, "= and != compare, ~ takes * and ?, quantities carry their unit. What a board has not ",
          "told matches neither a comparison nor its opposite."))),
    h("section", null, h("h3", null, "Fields"),
      h("dl", { class: "fields" }, Object.entries(fields ?? {}).map(([name, what]) => [
        h("dt", null, h("code", null, name)), h("dd", null, what)]))));
}

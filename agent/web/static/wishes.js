// What was asked for in this console, and how it fares on the operator's machine.

import { get, post, Refusal } from "./api.js";
import { announce, h, renew } from "./dom.js";
import { openDialog } from "./dialog.js";
import { session } from "./session.js";

const STATES = {
  asked: ["…", "on its way to your machine"], shown: ["?", "waits for your yes in the terminal"],
  refused: ["✕", "refused"], working: ["▸", "at work"], done: ["✓", "done"], failed: ["✕", "failed"],
};
const OPEN = ["asked", "shown", "working"];

class Wishes {
  constructor() {
    this.known = [];
    this.button = document.getElementById("wishes-button");
    this.button.addEventListener("click", () => this.open());
  }

  async refresh() {
    if (session.signedIn) await session.refresh(); // it may have ended
    if (!session.signedIn) {
      this.known = [];
      return this.show();
    }
    try {
      const before = new Map(this.known.map((one) => [one.wish.id, one.state]));
      this.known = (await get("/api/wishes")).wishes;
      for (const one of this.known) {
        if (before.has(one.wish.id) && before.get(one.wish.id) !== one.state) announce(`${text(one.wish)}: ${STATES[one.state][1]}`);
      }
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
    }
    return this.show();
  }

  show() {
    const open = this.known.filter((one) => OPEN.includes(one.state)).length;
    this.button.hidden = !session.signedIn || !this.known.length;
    this.button.textContent = open ? `Asked for · ${open} open` : "Asked for";
    if (this.list?.isConnected) renew(this.list, this.known, (known) => list(known));
  }

  open() {
    if (this.list?.isConnected) return;
    this.list = h("div", { class: "wishes" });
    renew(this.list, this.known, (known) => list(known));
    openDialog("Asked for", this.list);
  }

  /** Ask for something; what becomes of it is told in the list. */
  async ask(fleet, verb, address, args) {
    await post("/api/wishes", { fleet, verb, address, arguments: args });
    await this.refresh();
  }
}

const text = (wish) => [wish.verb.replaceAll("-", " "), wish.arguments.task, wish.arguments.candidate,
  wish.arguments.rollout, wish.address && `for ${wish.address}`].filter(Boolean).join(" ");

function list(known) {
  if (!known.length) return h("p", null, "Nothing was asked for yet.");
  return h("ul", { class: "plain" }, known.map((one) => h("li", { dataset: { state: one.state } },
    h("span", { class: "sign", "aria-hidden": "true" }, STATES[one.state][0]),
    h("div", null, h("b", null, text(one.wish)), h("small", null, STATES[one.state][1], one.text ? `: ${one.text}` : "")))));
}

export const wishes = new Wishes();

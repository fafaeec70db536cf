// Who is signed in here, and what they may ask for. The key is never here: it stays on the operator's machine.

import { get, post, Refusal, remove, setWord } from "./api.js";
import { announce, fill, h } from "./dom.js";
import { openDialog } from "./dialog.js";

class Session {
  constructor() {
    this.signedIn = false;
    this.why = null;
    this.listeners = [];
  }

  /** Ask the server who we are. */
  async refresh() {
    const before = this.signedIn ? this.operator + this.role : "";
    try {
      const said = await get("/api/session");
      this.signedIn = said.signed_in;
      this.operator = said.operator ?? null;
      this.role = said.role ?? null;
      this.refusals = said.refusals ?? {};
      this.why = said.why ?? null;
      this.origin = said.origin ?? location.origin;
      setWord(said.csrf ?? null);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return;
    }
    this.show();
    const after = this.signedIn ? this.operator + this.role : "";
    if (before && !after) announce("The sign-in has ended; the console is read-only.");
    if (before !== after) for (const listener of this.listeners) listener();
  }

  listen(listener) { this.listeners.push(listener); }

  /** Say why a wish cannot be made now; null where it can. */
  refusal(wish) {
    if (!this.signedIn) return "read-only: sign in to act";
    return wish in this.refusals ? this.refusals[wish] : `there is no ${wish}`;
  }

  show() {
    const who = document.getElementById("who");
    if (!this.signedIn) {
      return fill(who, h("button", { type: "button", class: "quiet", id: "sign-in", on: { click: () => howToSignIn() } }, "Sign in"));
    }
    return fill(who, h("span", { class: "who", title: "Commands are signed on this operator's machine" },
      h("b", null, this.operator), ` · ${this.role}`),
    h("button", { type: "button", class: "quiet", on: { click: () => this.leave() } }, "Sign out"));
  }

  async leave() {
    await remove("/api/session");
    await this.refresh();
  }
}

export const session = new Session();

function howToSignIn() {
  const command = `boardfit fleet sign-in ${session.origin ?? location.origin}`;
  const copy = h("button", { type: "button", on: { click: async () => {
    await navigator.clipboard?.writeText(command);
    copy.textContent = "Copied";
  } } }, "Copy");
  openDialog("Sign in", session.why
    ? h("p", null, "Nobody can sign in here: ", session.why, session.why.endsWith(".") ? "" : ".")
    : [h("p", null, "Your key stays on your machine, and so does the last word. Run there:"),
      h("p", { class: "command" }, h("code", null, command), copy),
      h("p", { class: "note" }, "The command proves who you are and opens this console signed in. What you ask for here ",
        "is shown there, and nothing is sent before you have said yes. When the command ends, so does the sign-in.")]);
}

/** Come in by the link that the operator's command has printed. */
export async function openByLink() {
  const word = location.hash.slice(1);
  history.replaceState(null, "", "/sign-in");
  if (!word) return;
  try {
    await post("/api/session", { word });
  } catch (error) {
    openDialog("Sign in", h("p", { role: "alert" }, error.sentence ?? String(error)));
  }
}

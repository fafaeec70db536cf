// What changes, as it changes: server-sent events; where they do not come through, asking now and then.

import { fleetPath, get } from "./api.js";

const POLL_MS = 5000;
const TRIES = 2;

export class Live {
  /** told: {changed(change), trouble(problem), wishes(), state(text, kind)} */
  constructor(fleet, told) {
    this.fleet = fleet;
    this.told = told;
    this.failures = 0;
    this.cursor = null;
    this.closed = false;
    this.seen = () => this.visibility();
    document.addEventListener("visibilitychange", this.seen);
    this.listen();
  }

  /** A tab that nobody sees holds no connection: a browser has six for one host, and people have many tabs. */
  visibility() {
    if (document.hidden) {
      this.source?.close();
    } else if (!this.polling && !this.closed) {
      this.failures = 0;
      this.source?.close();
      this.listen();
    }
  }

  listen() {
    const source = (this.source = new EventSource(fleetPath(this.fleet, "live")));
    const on = (kind, handler) => source.addEventListener(kind, (event) => handler(JSON.parse(event.data)));
    on("hello", (news) => {
      this.failures = 0;
      this.heard = true;
      this.told.state("live", "live");
      this.told.trouble(news.problem);
      if (this.cursor !== null && this.cursor !== news.cursor) this.told.changed({ whole: true });
      this.cursor = news.cursor;
      this.told.wishes();
    });
    on("changed", (change) => {
      this.cursor = change.cursor ?? this.cursor;
      this.told.changed(change);
    });
    on("trouble", (news) => this.told.trouble(news.problem));
    on("wishes", () => this.told.wishes());
    source.onerror = () => {
      this.failures += 1;
      this.told.state("reconnecting", "waiting");
      if (source.readyState === EventSource.CLOSED || !this.heard || this.failures >= TRIES) {
        source.close();
        this.poll();
      }
    };
  }

  async poll() {
    if (this.polling) return;
    this.polling = true;
    for (; !this.closed; await new Promise((resolve) => setTimeout(resolve, POLL_MS))) {
      if (document.hidden) continue;
      try {
        const news = await get(fleetPath(this.fleet, "changes"));
        this.told.state("asking every 5 s", "polling");
        this.told.trouble(news.problem);
        if (news.cursor !== this.cursor) this.told.changed({ whole: true });
        this.cursor = news.cursor;
        this.told.wishes();
        this.polled = (this.polled ?? 0) + 1;
        if (this.polled % 6 === 0) { // events may come through again
          this.failures = 0;
          this.polling = false;
          this.listen();
          return;
        }
      } catch {
        this.told.state("not connected", "lost");
      }
    }
  }

  close() {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.seen);
    this.source?.close();
  }
}

/** Call at once, then at most once in a while however often it is asked for; the last call is never lost. */
export function seldom(work, least = 1000) {
  let last = 0;
  let waiting = null;
  return () => {
    if (waiting !== null) return;
    const left = Math.max(0, last + least - Date.now());
    waiting = setTimeout(() => {
      waiting = null;
      last = Date.now();
      work();
    }, left);
  };
}

// Asking the console's server; errors are the sentences that it says.

export class Refusal extends Error {
  constructor(problem, fix, status) {
    super(problem);
    this.fix = fix;
    this.status = status;
  }

  get sentence() {
    const first = `${this.message}.`;
    return this.fix ? `${first} ${this.fix[0].toUpperCase()}${this.fix.slice(1)}.` : first;
  }
}

let word = null;
/** Remember what must come with everything that is asked for. */
export function setWord(csrf) { word = csrf; }

async function ask(method, path, body, signal) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (method !== "GET" && word) headers["x-boardfit-csrf"] = word;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("the console's server does not answer", "what is shown is the last that was heard", 0);
  }
  let document_;
  try {
    document_ = await answer.json();
  } catch {
    throw new Refusal(`the console's server gave no answer that can be read (${answer.status})`, null, answer.status);
  }
  if (!answer.ok) throw new Refusal(document_.problem ?? "refused", document_.fix, answer.status);
  return document_;
}

export const get = (path, signal) => ask("GET", path, undefined, signal);
export const post = (path, body) => ask("POST", path, body);
export const remove = (path) => ask("DELETE", path);
export const fleetPath = (fleet, ...parts) => `/api/fleets/${[fleet, ...parts].map(encodeURIComponent).join("/")}`;
export const pagePath = (fleet, ...parts) => `/fleets/${[fleet, ...parts].map(encodeURIComponent).join("/")}`;

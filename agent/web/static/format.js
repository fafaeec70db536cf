// Quantities, times and names for a person; the same digits as the command line writes.

const STEPS = {
  time: [[3600, "h"], [60, "min"], [1, "s"], [1e-3, "ms"], [1e-6, "µs"]],
  bytes: [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [1024, "KiB"], [1, "B"]],
  power: [[1, "W"], [1e-3, "mW"], [1e-6, "µW"]],
  energy: [[1, "J"], [1e-3, "mJ"], [1e-6, "µJ"]],
};
const DIMENSIONS = {
  latency_p50: "time", latency_p90: "time", latency_p95: "time", latency_p99: "time", latency_p95_sustained: "time",
  load_time: "time", first_inference: "time", memory_peak: "bytes", size: "bytes", power_mean: "power",
  energy_per_inference: "energy", accuracy_top1: "ratio", accuracy_drop: "ratio", throughput: "rate",
  temperature: "temperature",
};
export const NONE = "–";

function digits(value, count) {
  const text = value.toPrecision(count);
  return text.includes("e") ? value.toFixed(0) : String(Number(text));
}

/** Write an SI value with three significant digits; an en dash for what is not known. */
export function quantity(value, dimension, count = 3) {
  if (value === null || value === undefined) return NONE;
  if (dimension === "ratio") return `${(value * 100).toFixed(1)} %`;
  if (dimension === "temperature") return `${value.toFixed(1)} °C`;
  if (dimension === "rate") return `${digits(value, count)} /s`;
  if (dimension === "count") return value.toLocaleString("en");
  const steps = STEPS[dimension];
  if (value === 0) return `0 ${dimension === "time" ? "s" : steps.at(dimension === "bytes" ? -1 : 0)[1]}`;
  const [factor, unit] = steps.find(([least]) => Math.abs(value) >= least) ?? steps.at(-1);
  return `${digits(value / factor, count)} ${unit}`;
}

/** Write a metric's value. */
export const metric = (value, name) => quantity(value, DIMENSIONS[name] ?? "count");

/** Write a metric's name. */
export const metricName = (name) => name.replace("accuracy_top1", "top-1 accuracy").replaceAll("_", " ");

export const share = (ratio) => `${Math.round(ratio * 100)} %`;
export const many = (count, one, more = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : more}`;
export const short = (fingerprint) => (fingerprint ?? "").slice(0, 8) || NONE;
export const words = (text) => (text ?? "").replaceAll("_", " ").toLowerCase();

/** Write how long ago a time was. */
export function ago(time, now = Date.now()) {
  if (!time) return "never";
  const passed = (now - Date.parse(time)) / 1000;
  if (Number.isNaN(passed)) return "unknown";
  if (passed < 1) return "now";
  if (passed >= 2 * 86400) return `${Math.round(passed / 86400)} d ago`;
  return `${quantity(passed, "time", passed < 10 ? 1 : 2)} ago`;
}

/** Write a time in UTC, short: today's without the date. */
export function clock(time) {
  if (!time || Number.isNaN(Date.parse(time))) return NONE;
  const at = new Date(time).toISOString();
  return at.slice(0, 10) === new Date().toISOString().slice(0, 10) ? at.slice(11, 19) : `${at.slice(0, 10)} ${at.slice(11, 16)}`;
}

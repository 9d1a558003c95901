// Lines: a spark beside a value, and the last hour of one point.
import { el, number } from "/ui/dom.js";

/** `values` may hold nulls, which are holes. */
export function spark(values) {
  return el("svg", { class: "spark", viewBox: "0 0 110 22", "aria-hidden": "true" }, el("path", { d: line(values.map((v, x) => [x, v]), 110, 22, [0, 59]) }));
}

/** `answer` of /api/v1/query with one series. */
export function trend(answer) {
  const rows = answer.series[0]?.rows ?? [];
  const numbers = rows.filter((row) => typeof row[1] === "number");
  if (!numbers.length) return el("p", { class: "quiet" }, "No numbers in this hour.");
  // A pause of several steps is a gap, drawn as a gap.
  const step = answer.step_ms || median(rows.slice(1).map((row, i) => row[0] - rows[i][0]));
  const points = [];
  rows.forEach((row, i) => {
    if (i && row[0] - rows[i - 1][0] > 3 * step) points.push([rows[i - 1][0] + step, null, null, null]);
    points.push([row[0], row[5] === "bad" ? null : row[1], row[2], row[3]]);
  });
  const low = Math.min(...numbers.map((row) => row[2])), high = Math.max(...numbers.map((row) => row[3]));
  const times = [rows[0][0], rows[rows.length - 1][0]];
  const chart = el("svg", { class: "trend", viewBox: "0 0 1000 190", preserveAspectRatio: "none", role: "img",
    "aria-label": `from ${number(low)} to ${number(high)}` }, el("path", { class: "mean", d: line(points, 1000, 186, times, [low, high]) }));
  const last = numbers[numbers.length - 1];
  return el("figure", {}, chart, el("figcaption", { class: "quiet" },
    `minimum ${number(low)}, maximum ${number(high)}, last ${number(last[1])}; ${new Date(times[0]).toLocaleTimeString()} to ${new Date(times[1]).toLocaleTimeString()}, ${answer.step_ms ? `buckets of ${answer.step_ms / 1000} s` : "every reading"}`));
}

function line(points, width, height, [from, to], range) {
  const values = points.map((p) => p[1]).filter((v) => typeof v === "number");
  const [low, high] = range ?? [Math.min(...values), Math.max(...values)];
  const x = (t) => (to > from ? (t - from) / (to - from) : 0) * width;
  const y = (v) => (high > low ? height - 2 - ((v - low) / (high - low)) * (height - 4) : height / 2);
  let path = "", drawing = false;
  for (const [t, v] of points) {
    if (typeof v !== "number") { drawing = false; continue; }
    path += `${drawing ? "L" : "M"}${x(t).toFixed(1)} ${y(v).toFixed(1)}`;
    drawing = true;
  }
  return path;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 1000;
}

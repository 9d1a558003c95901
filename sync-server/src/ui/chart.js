// What all charts share: the columns of an answer, the area of a band, axes, holes.
import { el } from "/ui/dom.js";

export const WIDTH = 1000;
export const HEIGHT = 200;
// The columns of /api/v1/query.
export const [TIME, MEAN, MIN, MAX, COUNT, QUALITY, LAST] = [0, 1, 2, 3, 4, 5, 6];

export function layer(kind) {
  return { class: kind, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" };
}

/** Words at a place, given as a part of the whole. */
export function placed(edge, part, words) {
  const node = el("span", {}, words);
  node.style[edge] = `${(part * 100).toFixed(2)}%`;
  return node;
}

/** Rows with a hole wherever a gap lies between two of them. A bad reading is a hole by itself. */
export function broken(rows, gaps) {
  const points = [];
  rows.forEach((row, place) => {
    const before = rows[place - 1];
    if (before && gaps.some(([begin, end]) => begin < row[TIME] && end > before[TIME])) points.push([row[TIME], null, null, null]);
    points.push(row);
  });
  return points;
}

/** From minimum to maximum, hole by hole. */
export function area(rows, x, y) {
  const parts = [[]];
  for (const row of rows) {
    if (row[MIN] === null) parts.push([]);
    else parts.at(-1).push(row);
  }
  return parts.filter((part) => part.length > 1).map((part) => {
    const edge = (column) => part.map((row) => `${x(row[TIME]).toFixed(1)} ${y(row[column]).toFixed(1)}`);
    return `M${edge(MAX).join("L")}L${edge(MIN).reverse().join("L")}Z`;
  }).join("");
}

/** The lowest and highest level of the chart, and two to six round ones between. */
export function axis(numbers) {
  if (!numbers.length) return [0, 1, []];
  let [low, high] = [Math.min(...numbers.map((row) => row[MIN])), Math.max(...numbers.map((row) => row[MAX]))];
  if (low === high) [low, high] = [low - Math.max(1, Math.abs(low) / 10), high + Math.max(1, Math.abs(high) / 10)];
  const margin = (high - low) * 0.06;
  [low, high] = [low - margin, high + margin];
  const least = (high - low) / 5.5;
  const power = 10 ** Math.floor(Math.log10(least));
  const every = power * ([1, 2, 5].find((factor) => factor * power >= least) ?? 10);
  const levels = [];
  for (let level = Math.ceil(low / every) * every; level <= high && levels.length < 10; level += every) levels.push(Number(level.toPrecision(12)));
  return [low, high, levels];
}

/** Round moments of the local day between two. */
export function moments(from, to, most = 5) {
  const second = 1e3, minute = 60e3, hour = 60 * minute;
  const rough = (to - from) / most;
  const every = [0.1 * second, 0.2 * second, 0.5 * second, second, 2 * second, 5 * second, 10 * second, 15 * second, 30 * second, minute, 2 * minute, 5 * minute, 10 * minute, 15 * minute, 30 * minute, hour, 2 * hour, 3 * hour, 6 * hour, 12 * hour, 24 * hour, 48 * hour, 168 * hour]
    .find((step) => step >= rough) ?? 336 * hour;
  const local = new Date(from).getTimezoneOffset() * minute;
  const all = [];
  for (let moment = Math.ceil((from - local) / every) * every + local; moment <= to; moment += every) all.push(moment);
  return all;
}

// The course of one point: a chart that keeps spikes (a band from minimum to maximum behind the
// mean), shows bad readings and gaps as holes with their reason, and has a table behind it.
import { again, el, get, head, say } from "/ui/dom.js";
import { area, axis, broken, COUNT, HEIGHT, LAST, layer, MAX, MEAN, MIN, moments, placed, QUALITY, TIME, WIDTH } from "/ui/chart.js";
import { scale, course } from "/ui/spark.js";
import { status } from "/ui/status.js";
import { clock, count, number, span } from "/ui/words.js";

const REFRESH_MS = 5000;
const RANGES = [["15 min", "-15m"], ["1 h", "-1h"], ["6 h", "-6h"], ["1 day", "-1d"], ["7 days", "-7d"], ["30 days", "-30d"]];
const MOST = 600;

export function trendPanel(agent, signal) {
  let point = null;
  let range = "-1h";
  let answer = null;
  let cursor = null; // index of the row under the pointer
  const title = el("h2", { id: "trend" }, "Trend");
  const explore = el("a", { class: "beside", hidden: "" }, "Explore");
  const ranges = RANGES.map(([words, span]) => el("button", { type: "button", "aria-pressed": String(span === range), click: () => pick(span) }, words));
  const [band, line, cross] = [el("path", { class: "band" }), el("path", { class: "mean" }), el("path", { class: "cross" })];
  const [holes, grid, right, below] = [el("svg", layer("holes")), el("svg", layer("grid")), el("div", { class: "levels" }), el("div", { class: "times" })];
  const plot = el("div", { class: "plot", tabindex: "0", role: "img", "aria-labelledby": "trend reading",
    pointermove: point_at, pointerleave: () => look(null), keydown: step },
    holes, grid, el("svg", layer("lines"), band, line, cross));
  const reading = el("p", { id: "reading", class: "reading" }, " ");
  const rows = el("tbody");
  const table = el("details", { toggle: () => fillTable() }, el("summary", {}, "As a table"),
    el("div", { class: "wide tall" }, el("table", {},
      el("thead", {}, el("tr", {}, head("Time"), ...["Mean", "Minimum", "Maximum", "Last", "Readings"].map((words) => head(words, "number")), head("Quality"))), rows)));
  const node = el("section", { class: "trend", hidden: "", "aria-labelledby": "trend" },
    el("div", { class: "bar" }, title, explore, el("div", { class: "ranges", role: "group", "aria-label": "Range" }, ...ranges)),
    el("div", { class: "chart" }, plot, right, below), reading, table);

  function pick(wanted) {
    range = wanted;
    if (point) explore.href = `#/explore?points=${point.id}&from=${range}`;
    RANGES.forEach(([, span], place) => ranges[place].setAttribute("aria-pressed", String(span === range)));
    load();
  }

  async function load() {
    const asked = [point, range];
    if (!point) return;
    try {
      const found = await get(`/api/v1/query?points=${point.id}&from=${range}&max_points=${MOST}`, signal);
      const { gaps } = await get(`/api/v1/gaps?${new URLSearchParams({ agent, from: range, limit: 1000 })}`, signal);
      // Somebody may have picked another meanwhile.
      if (asked[0] !== point || asked[1] !== range) return;
      answer = { ...found, rows: found.series[0].rows, gaps: gaps.filter(concerns) };
      cursor = null;
      draw();
      fillTable();
    } catch (error) {
      status.lost(error);
    }
  }

  /** Does a gap lie in this point: in it alone, in its device, or in the whole gateway? */
  function concerns(gap) {
    return gap.point === null ? (gap.device ?? point.device) === point.device : gap.point === point.id;
  }

  function draw() {
    const [from, to] = [Date.parse(answer.from), Date.parse(answer.to)];
    const numbers = answer.rows.filter((row) => row[MIN] !== null);
    const [low, high, levels] = axis(numbers);
    const x = scale(from, to, 0, WIDTH);
    const y = scale(low, high, HEIGHT, 0);
    const gaps = answer.gaps.map((gap) => [Date.parse(gap.from), Date.parse(gap.to)]);
    const points = broken(answer.rows, gaps);
    const steps = point.kind === "state" || point.type === "boolean";
    line.setAttribute("d", course(points.map((row) => [x(row[TIME]), row[MEAN] === null ? null : y(row[MEAN])]), steps));
    band.setAttribute("d", answer.step_ms ? area(points, x, y) : "");
    holes.replaceChildren(...gaps.map(([begin, end]) => el("rect", { x: x(Math.max(begin, from)), y: 0,
      width: Math.max(2, x(Math.min(end, to)) - x(Math.max(begin, from))), height: HEIGHT })));
    grid.replaceChildren(...levels.map((level) => el("path", { d: `M0 ${y(level).toFixed(1)}H${WIDTH}` })));
    right.replaceChildren(...levels.map((level) => placed("top", y(level) / HEIGHT, number(level))));
    below.replaceChildren(...moments(from, to).map((moment) => placed("left", x(moment) / WIDTH, clock(moment, false))));
    look(cursor);
  }

  /** What stands at the pointer; else what all of it comes to. */
  function look(place) {
    cursor = place;
    const row = place === null ? null : answer?.rows[place];
    if (row) {
      const at = scale(Date.parse(answer.from), Date.parse(answer.to), 0, WIDTH)(row[TIME]).toFixed(1);
      cross.setAttribute("d", `M${at} 0V${HEIGHT}`);
      const inside = row[COUNT] > 1 ? `, ${number(row[MIN])} to ${number(row[MAX])} in ${count(row[COUNT], "reading")}` : "";
      const doubt = row[QUALITY] === "good" ? "" : `, ${row[QUALITY]}`;
      return say(reading, `${clock(row[TIME])}: ${number(row[MEAN] ?? row[LAST])} ${point.unit}${inside}${doubt}`);
    }
    cross.setAttribute("d", "");
    if (!answer) return;
    const numbers = answer.rows.filter((row) => row[MIN] !== null);
    const each = answer.step_ms ? `one step is ${span(answer.step_ms / 1000)}` : "every reading";
    const holes = answer.gaps.length ? `; ${count(answer.gaps.length, "gap")}: ${[...new Set(answer.gaps.map((gap) => gap.reason))].join(", ")}` : "";
    say(reading, numbers.length
      ? `Minimum ${number(Math.min(...numbers.map((row) => row[MIN])))}, maximum ${number(Math.max(...numbers.map((row) => row[MAX])))}${point.unit ? ` ${point.unit}` : ""}; ${each}${holes}`
      : `${answer.rows.length ? "No numbers in this range: see the table" : "No readings in this range"}${holes}`);
  }

  function point_at(event) {
    const box = plot.getBoundingClientRect();
    if (!answer?.rows.length) return;
    const time = scale(0, box.width, Date.parse(answer.from), Date.parse(answer.to))(event.clientX - box.left);
    let best = 0;
    answer.rows.forEach((row, place) => { if (Math.abs(row[TIME] - time) < Math.abs(answer.rows[best][TIME] - time)) best = place; });
    look(best);
  }

  function step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") return look(null);
    if (!by || !answer?.rows.length) return;
    event.preventDefault();
    look(Math.max(0, Math.min(answer.rows.length - 1, (cursor ?? answer.rows.length) + by)));
  }

  function fillTable() {
    if (!table.open || !answer) return;
    const cell = (row, column) => el("td", { class: "number" }, number(row[column]));
    rows.replaceChildren(...answer.rows.map((row) => el("tr", {}, el("td", { class: "steady" }, clock(row[TIME])),
      cell(row, MEAN), cell(row, MIN), cell(row, MAX), cell(row, LAST), cell(row, COUNT), el("td", {}, row[QUALITY]))).reverse());
  }

  again(async () => { if (cursor === null) await load(); }, REFRESH_MS, signal);

  return {
    node,
    show(chosen) {
      point = chosen;
      answer = null;
      explore.hidden = node.hidden = false;
      explore.href = `#/explore?points=${point.id}&from=${range}`;
      say(title, `${point.device} / ${point.name.textContent}${point.unit ? `, ${point.unit}` : ""}`);
      load();
    },
  };
}

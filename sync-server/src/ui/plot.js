// One plot of points of one unit: lines with their bands, gaps, what came late, a cross at the pointer.
// Drag to zoom, drag with Shift to pan; arrows pan, + and - zoom. It decides nothing: it says what is wanted.
import { area, axis, broken, COUNT, HEIGHT, layer, LAST, MAX, MEAN, MIN, moments, placed, QUALITY, TIME, WIDTH } from "/ui/chart.js";
import { el, head, say } from "/ui/dom.js";
import { course, scale } from "/ui/spark.js";
import { clock, number } from "/ui/words.js";

/** A drag of fewer pixels is a click. */
const LEAST_DRAG = 6;
/** Rows of the table behind a plot. */
const MOST_ROWS = 2000;

/** `wants` has `range(from, to)` in ms, `pan(parts)`, `zoom(factor)`, `cursor(time or null)`, `back()`. */
export function plot(unit, wants) {
  const id = `plot-${Math.random().toString(36).slice(2)}`;
  const [holes, grid, lines, marks] = [el("svg", layer("holes")), el("svg", layer("grid")), el("svg", layer("lines")), el("svg", layer("marks"))];
  const [right, below] = [el("div", { class: "levels", "aria-hidden": "true" }), el("div", { class: "times", "aria-hidden": "true" })];
  const cross = el("path", { class: "cross" });
  const chosen = el("rect", { class: "chosen", y: 0, height: HEIGHT, width: 0 });
  marks.append(chosen, cross);
  const surface = el("div", { class: "plot", tabindex: "0", role: "img", "aria-labelledby": id, "aria-describedby": "keys",
    pointerdown: press, pointermove: move, pointerup: lift, pointercancel: () => drop(), pointerleave: () => { if (!drag) wants.cursor(null); }, keydown: key },
    holes, grid, lines, marks);
  const caption = el("figcaption", { id }, unit || "without unit");
  const rows = el("tbody");
  const heads = el("tr");
  const told = el("p", { class: "quiet" });
  const table = el("details", { toggle: () => fillTable() }, el("summary", {}, `As a table${unit ? `, ${unit}` : ""}`),
    el("div", { class: "wide tall", "aria-label": `Readings${unit ? ` in ${unit}` : ""}` },
      el("table", {}, el("thead", {}, heads), rows)), told);
  const node = el("figure", {}, caption, el("div", { class: "chart" }, surface, right, below), table);
  let shown = null; // { from, to, series, shades }
  let drag = null; // { x, shift }

  function draw(data) {
    shown = data;
    const { from, to, series, shades } = data;
    const x = scale(from, to, 0, WIDTH);
    const numbers = series.flatMap(({ rows: all }) => all.filter((row) => row[MIN] !== null));
    const [low, high, levels] = axis(numbers);
    const y = scale(low, high, HEIGHT, 0);
    const rect = ({ from: begin, to: end, kind }) => {
      const at = x(Math.max(begin, from));
      const width = Math.max(2, x(Math.min(end, to)) - at);
      return kind === "gap" ? [el("rect", { class: kind, x: at, y: 0, width, height: HEIGHT })]
        : [el("rect", { class: kind, x: at, y: 0, width, height: HEIGHT }), el("rect", { class: `${kind} foot`, x: at, y: HEIGHT - 5, width, height: 5 })];
    };
    holes.replaceChildren(...shades.filter((shade) => shade.to > from && shade.from < to).flatMap(rect));
    grid.replaceChildren(...levels.map((level) => el("path", { d: `M0 ${y(level).toFixed(1)}H${WIDTH}` })));
    lines.replaceChildren(...series.flatMap(({ place, point, rows: all, gaps, bucketed }) => {
      const points = broken(all, gaps);
      const steps = point.kind === "state" || point.type === "boolean";
      const line = course(points.map((row) => [x(row[TIME]), row[MEAN] === null ? null : y(row[MEAN])]), steps);
      return [bucketed ? el("path", { class: `band s${place % 8}`, d: area(points, x, y) }) : null,
        el("path", { class: `mean s${place % 8} d${place % 4}`, d: line })].filter(Boolean);
    }));
    right.replaceChildren(...levels.map((level) => placed("top", y(level) / HEIGHT, number(level))));
    const narrow = surface.clientWidth < 500;
    const seconds = to - from < 600e3;
    below.replaceChildren(...moments(from, to, narrow ? 3 : 6).map((moment) => placed("left", x(moment) / WIDTH, clock(moment, seconds))));
    say(caption, `${unit || "without unit"}: ${series.map(({ point }) => `${point.device}/${point.name}`).join(", ")}`);
    fillTable();
  }

  function timeAt(event) {
    const box = surface.getBoundingClientRect();
    return scale(0, box.width, shown.from, shown.to)(Math.max(0, Math.min(box.width, event.clientX - box.left)));
  }

  function press(event) {
    if (!shown || event.button) return;
    drag = { x: event.clientX, time: timeAt(event), shift: event.shiftKey };
    surface.setPointerCapture(event.pointerId);
  }

  function move(event) {
    if (!shown) return;
    const time = timeAt(event);
    wants.cursor(time);
    if (!drag || drag.shift) return;
    const x = scale(shown.from, shown.to, 0, WIDTH);
    const [a, b] = [x(Math.min(drag.time, time)), x(Math.max(drag.time, time))];
    chosen.setAttribute("x", a);
    chosen.setAttribute("width", b - a);
  }

  function lift(event) {
    if (!drag) return;
    const { x, time, shift } = drag;
    const end = timeAt(event);
    drop();
    if (Math.abs(event.clientX - x) < LEAST_DRAG) return;
    if (shift) wants.pan((time - end) / (shown.to - shown.from));
    else wants.range(Math.min(time, end), Math.max(time, end));
  }

  function drop() {
    drag = null;
    chosen.setAttribute("width", 0);
  }

  function key(event) {
    const does = { ArrowLeft: () => wants.pan(-0.25), ArrowRight: () => wants.pan(0.25), PageUp: () => wants.pan(-1), PageDown: () => wants.pan(1),
      "+": () => wants.zoom(0.5), "=": () => wants.zoom(0.5), "-": () => wants.zoom(2), _: () => wants.zoom(2), "0": () => wants.back(), Home: () => wants.back(),
      Escape: () => { drop(); wants.cursor(null); } }[event.key];
    if (!does || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    does();
  }

  /** Every series has its columns; every moment that one of them has is a row. */
  function fillTable() {
    if (!table.open || !shown) return;
    const { series } = shown;
    heads.replaceChildren(head("Time"), ...series.flatMap(({ point, bucketed }) => [head(`${point.device}/${point.name}`, "number"),
      ...(bucketed ? [head("minimum", "number"), head("maximum", "number"), head("readings", "number")] : []), head("quality")]));
    const moments = [...new Set(series.flatMap(({ rows: all }) => all.map((row) => row[TIME])))].sort((a, b) => b - a);
    const by = series.map(({ rows: all }) => new Map(all.map((row) => [row[TIME], row])));
    const cells = ({ bucketed }, row) => [el("td", { class: "number" }, row ? number(row[MEAN] ?? row[LAST]) : ""),
      ...(bucketed ? [MIN, MAX, COUNT].map((column) => el("td", { class: "number" }, row ? number(row[column]) : "")) : []), el("td", {}, row ? row[QUALITY] : "")];
    rows.replaceChildren(...moments.slice(0, MOST_ROWS).map((moment) => el("tr", {}, el("td", { class: "steady" }, clock(moment)),
      ...series.flatMap((one, place) => cells(one, by[place].get(moment))))));
    say(told, moments.length > MOST_ROWS ? `The newest ${MOST_ROWS} of ${moments.length} rows; the file has all.` : "");
  }

  return {
    node, draw,
    width: () => surface.clientWidth,
    cross(time) {
      if (!shown) return;
      cross.setAttribute("d", time === null || time < shown.from || time > shown.to ? "" : `M${scale(shown.from, shown.to, 0, WIDTH)(time).toFixed(1)} 0V${HEIGHT}`);
    },
  };
}

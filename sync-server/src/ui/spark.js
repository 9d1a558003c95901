// Lines from readings: the path of a course with its holes, and the small one beside a value.
import { el } from "/ui/dom.js";

const WIDTH = 120;
const HEIGHT = 22;

/** A small line that can be drawn again. `points` are [time, number or null]. */
export function spark() {
  const path = el("path");
  const node = el("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" }, path);
  return {
    node,
    draw(points, from, to, steps) {
      const values = points.map(([, value]) => value).filter((value) => value !== null);
      const x = scale(from, to, 0, WIDTH);
      const y = scale(Math.min(...values), Math.max(...values), HEIGHT - 2, 2);
      path.setAttribute("d", course(points.map(([time, value]) => [x(time), value === null ? null : y(value)]), steps));
    },
  };
}

/** From one interval to another; an interval without length leads to the middle. */
export function scale(low, high, from, to) {
  return (value) => (high > low ? from + ((value - low) / (high - low)) * (to - from) : (from + to) / 2);
}

/** The path of points [x, y or null]. A null is a hole; `steps` keeps a value until the next. */
export function course(points, steps = false) {
  let path = "", last = null;
  for (const [x, y] of points) {
    if (y === null) { last = null; continue; }
    const [at, level] = [x.toFixed(1), y.toFixed(1)];
    if (last === null) path += `M${at} ${level}h0`;
    else path += steps ? `H${at}V${level}` : `L${at} ${level}`;
    last = y;
  }
  return path;
}

// The points of an agent as a table, kept up to date by the live feed. Cells change in place and
// keep their width, so that nothing jumps and the focus stays where it is.
import { again, el, fill, get, head, say } from "/ui/dom.js";
import { spark } from "/ui/spark.js";
import { status } from "/ui/status.js";
import { clock, decimals, number, quality, breakable } from "/ui/words.js";

const PAGE = 200;
const SPARK_MS = 600e3;
const SPARK_MOST = 240;
/** Ids in one query. */
const TOGETHER = 50;
/** Digits behind the point that a column of live values may grow to. */
const MOST_DECIMALS = 4;

/** `choose(point)` is called when somebody picks one, and for the first number there is. */
export function pointsTable(agent, choose, signal) {
  const points = new Map(); // id -> what is shown of it
  const headings = new Map(); // fork -> the row above its points
  let since = new Map(); // fork -> when it was found
  let next = null;
  let strangers = false;
  let chosen = null;
  let typing = null;
  const title = el("h2", { id: "points" }, "Points");
  const filter = el("input", { type: "search", placeholder: "Device, point or unit", "aria-label": "Search points",
    input: () => { clearTimeout(typing); typing = setTimeout(() => load(true), 250); } });
  const body = el("tbody");
  const more = el("button", { type: "button", hidden: "", click: () => loadPage(false) }, "Show more");
  const none = el("p", { class: "quiet", hidden: "" });
  const node = el("section", { "aria-labelledby": "points" }, el("div", { class: "bar" }, title, filter),
    el("div", { class: "wide" }, el("table", { class: "points" },
      el("thead", {}, el("tr", {}, head("Point"), head("Value", "number"), head("Unit", "unit"), head("10 minutes", "more trace"), head("Quality", "quality"), head("Time", "more time"))),
      body)), none, more);

  /** Reads the latest values of all rows again, and rows that are new. */
  async function load(anew = false) {
    if (anew) { points.clear(); headings.clear(); body.replaceChildren(); }
    const shown = points.size;
    next = null;
    do await loadPage(true); while (next && points.size < shown && !signal.aborted);
  }

  async function loadPage(quietly) {
    const query = new URLSearchParams({ agent, limit: PAGE, search: filter.value, ...(next ? { after: next } : {}) });
    try {
      const asked = filter.value;
      const page = await get(`/api/v1/points?${query}`, signal);
      if (asked !== filter.value) return;
      const added = page.points.filter((found) => !points.has(found.id)).map(add);
      for (const found of page.points) if (found.latest) show(points.get(found.id), Date.parse(found.latest.time), found.latest.value, found.latest.words);
      next = page.next;
      strangers = false;
      more.hidden = next === null;
      none.hidden = points.size > 0;
      say(none, filter.value ? `No point of this agent is called anything like “${filter.value}”.` : "No points yet: they appear with their first reading.");
      await loadSparks(added);
      if (!quietly) added[0]?.name.focus();
    } catch (error) {
      status.lost(error);
    }
  }

  /** What the last minutes were, so that a course is there before new values are. */
  async function loadSparks(added) {
    for (let first = 0; first < added.length && !signal.aborted; first += TOGETHER) {
      const ids = added.slice(first, first + TOGETHER).map((point) => point.id);
      const { series } = await get(`/api/v1/query?points=${ids}&from=-10m&max_points=100`, signal);
      for (const { id, rows } of series) {
        const point = points.get(id);
        const before = rows.map(([time, mean]) => [time, mean]);
        const last = before.at(-1)?.[0] ?? 0;
        if (point) { point.course = [...before, ...point.course.filter(([time]) => time > last)]; draw(point); }
      }
    }
  }

  function add(found) {
    const point = { ...found, at: -Infinity, decimals: 0, course: [],
      name: el("button", { type: "button", click: () => pick(point) }, ...breakable(found.name)),
      value: el("td", { class: "number" }, "–"), quality: el("td", { class: "quality" }),
      time: el("td", { class: "more time quiet" }), trace: el("td", { class: "more trace" }) };
    point.row = el("tr", {}, el("th", { scope: "row" }, el("small", {}, found.device), point.name),
      point.value, el("td", { class: "unit quiet" }, found.unit), point.trace, point.quality, point.time);
    points.set(found.id, point);
    // Pages come by id; rows stand by device and name.
    point.row.point = found;
    place(point.row);
    if (!chosen && found.type !== "text" && found.latest) pick(point);
    return point;
  }

  /** A copy of the gateway's buffer has points of its own, and they stand under its heading. */
  function place(row) {
    const { fork } = row.point;
    if (fork && !headings.has(fork)) {
      // As many columns as are shown on a narrow screen, and those that are not.
      const heading = el("tr", { class: "fork" }, el("th", { scope: "rowgroup", colspan: 4 }), el("td", { class: "more", colspan: 2 }));
      heading.point = { fork, device: "", name: "" };
      headings.set(fork, heading);
      nameForks();
      place(heading);
    }
    const after = [...body.children].find((other) => compare(other.point, row.point) > 0);
    body.insertBefore(row, after ?? null);
  }

  function nameForks() {
    for (const [fork, heading] of headings) {
      const told = since.get(fork);
      say(heading.firstChild, `Copy ${fork} of this gateway's buffer${told ? `, since ${clock(told)}` : ""}`);
    }
  }

  function pick(point) {
    for (const row of body.querySelectorAll("[aria-current]")) row.removeAttribute("aria-current");
    point.row.setAttribute("aria-current", "true");
    chosen = point.id;
    choose(point);
  }

  function show(point, at, value, words) {
    if (!point || at < point.at) return;
    const isNew = at > point.at;
    point.at = at;
    point.decimals = Math.min(MOST_DECIMALS, Math.max(point.decimals, decimals(value)));
    // What a device said with bad quality is no measurement.
    const isBad = words.startsWith("bad");
    say(point.value, number(value, point.type === "float" ? point.decimals : 0), isBad ? "number quiet" : "number");
    fill(point.quality, words, () => quality(words));
    say(point.time, clock(at));
    if (!isNew) return;
    const plain = typeof value === "boolean" ? Number(value) : value;
    point.course.push([at, typeof plain === "number" && !isBad ? plain : null]);
    draw(point);
  }

  function draw(point) {
    const begin = Date.now() - SPARK_MS;
    point.course = point.course.filter(([time]) => time >= begin).slice(-SPARK_MOST);
    if (!point.line) { point.line = spark(); point.trace.append(point.line.node); }
    point.line.draw(point.course, begin, begin + SPARK_MS, point.kind === "state" || point.type === "boolean");
  }

  // Points that appeared since: look for them, but not with every event.
  again(async () => { if (strangers && !filter.value && next === null) await load(); }, 3000, signal);

  return {
    node,
    load: () => load(),
    /** fork -> when it was found. */
    forks(told) { since = told; nameForks(); },
    readings(rows) {
      for (const [id, time, value, words] of rows) {
        const point = points.get(id);
        if (point) show(point, time, value, words); else strangers = true;
      }
    },
  };
}

function compare(a, b) {
  return a.fork - b.fork || a.device.localeCompare(b.device, undefined, { numeric: true }) || a.name.localeCompare(b.name, undefined, { numeric: true });
}

// The explorer: points of the whole fleet over any range. What is shown stands in the address, so that it can
// be sent to somebody. A range is two moments as the API reads them: "-6h" and "now", or milliseconds.
import { MEAN, LAST, TIME } from "/ui/chart.js";
import { again, el, fill, get, head, say } from "/ui/dom.js";
import { plot } from "/ui/plot.js";
import { status } from "/ui/status.js";
import { clock, count, number, NOTHING, span } from "/ui/words.js";

const RANGES = [["15 min", "-15m"], ["1 h", "-1h"], ["6 h", "-6h"], ["1 day", "-1d"], ["7 days", "-7d"], ["30 days", "-30d"], ["1 year", "-365d"]];
const MOST_POINTS = 16;
const FOUND = 20;
const SHORTEST_MS = 100;
const LONGEST_MS = 20 * 366 * 86400e3;
const REFRESH_MS = 5000;
const LIVE_MS = 2000;

export function exploreView(main, address, signal) {
  const asked = new URLSearchParams(address);
  const state = { ids: [...new Set((asked.get("points") ?? "").split(",").filter((id) => /^\d+$/.test(id)).map(Number))].slice(0, MOST_POINTS),
    from: moment(asked.get("from"), "-6h"), to: moment(asked.get("to"), "now") };
  const points = new Map(); // id -> as the API tells it
  let answer = null;
  let statistics = new Map();
  let cursor = null;
  let asking = null; // ends the questions under way when others take their place
  const plots = new Map(); // unit -> plot

  const search = el("input", { type: "search", id: "find", placeholder: "Site, gateway, device, point or unit", "aria-label": "Search points", autocomplete: "off",
    "aria-controls": "found", input: later(find, 200), keydown: (event) => { if (event.key === "Escape") { search.value = ""; find(); } } });
  const found = el("ul", { id: "found", class: "found", hidden: "" });
  const foundWords = el("p", { class: "quiet", role: "status" });
  const ranges = RANGES.map(([words, from]) => el("button", { type: "button", click: () => change({ from, to: "now" }) }, words));
  const moments = ["from", "to"].map((which) => el("input", { type: "datetime-local", step: "1", change: typed }));
  const step = (words, label, act) => el("button", { type: "button", "aria-label": label, title: label, click: act }, words);
  const steps = [step("←", "Earlier", () => pan(-0.5)), step("→", "Later", () => pan(0.5)), step("−", "Zoom out", () => zoom(2)), step("+", "Zoom in", () => zoom(0.5))];
  const keys = el("p", { id: "keys", class: "quiet help" }, "Drag in a plot to zoom, with Shift to pan. By keyboard: arrows pan, + and − zoom, Home goes back to the last hours.");
  const reading = el("p", { class: "reading", role: "status" }, " ");
  const figures = el("div", { class: "figures" });
  const shades = el("p", { class: "shades quiet" });
  const legend = el("tbody");
  const files = el("p", { class: "files" });
  const gaps = el("div");
  const nothing = el("p", { class: "quiet" }, "Search for points above and choose some: each is drawn, and the address of this page holds the choice.");
  const body = el("div", { hidden: "" }, el("div", { class: "over" }, reading, shades), figures, keys,
    el("h2", { id: "stats" }, "Statistics of the range"),
    el("div", { class: "wide", "aria-label": "Statistics" }, el("table", { class: "legend" },
      el("thead", {}, el("tr", {}, head("Point"), head("At the pointer", "number"), head("Now", "number"), ...["Readings", "Minimum", "Mean", "Maximum", "First", "Last"].map((words) => head(words, "number")), head("Unit"), el("td"))), legend)),
    files, el("div", { class: "bar" }, el("h2", {}, "Gaps"), el("a", { href: "#/gaps" }, "All gaps, with filters and CSV")), gaps);
  main.replaceChildren(el("h1", {}, "Explore"),
    el("div", { class: "bar" }, el("div", { class: "finder" }, search, found), foundWords),
    el("div", { class: "bar" }, el("div", { class: "ranges", role: "group", "aria-label": "Range" }, ...ranges),
      el("div", { class: "ranges steps", role: "group", "aria-label": "Move" }, ...steps),
      el("div", { class: "moments", role: "group", "aria-label": "Exact range" }, el("label", {}, "From ", moments[0]), el("label", {}, "To ", moments[1]))),
    nothing, body);

  // --- what is chosen ----------------------------------------------------------------------------------

  async function find() {
    const words = search.value.trim();
    if (!words) { found.hidden = true; say(foundWords, ""); return; }
    try {
      const page = await get(`/api/v1/points?${new URLSearchParams({ search: words, limit: FOUND })}`, signal);
      if (words !== search.value.trim()) return;
      found.replaceChildren(...page.points.map((point) => {
        const is = state.ids.includes(point.id);
        return el("li", {}, el("button", { type: "button", "aria-pressed": String(is), click: (event) => choose(point, event.currentTarget) },
          el("span", {}, `${is ? "✓ " : ""}${point.device}/${point.name}${point.fork ? ` (copy ${point.fork})` : ""}`), el("small", {}, `${point.agent}${point.unit ? ` · ${point.unit}` : ""}`)));
      }));
      found.hidden = !page.points.length;
      say(foundWords, page.points.length ? `${page.next ? `The first ${FOUND}: more words find fewer.` : count(page.points.length, "point") + "."}` : `No point is called anything like “${words}”.`);
    } catch (error) { status.lost(error); }
  }

  function choose(point, button) {
    points.set(point.id, point);
    if (state.ids.includes(point.id)) return drop(point.id);
    if (state.ids.length >= MOST_POINTS) return say(foundWords, `At most ${MOST_POINTS} points at a time: remove one below.`);
    change({ ids: [...state.ids, point.id] });
    button.setAttribute("aria-pressed", "true");
    button.firstChild.textContent = `✓ ${button.firstChild.textContent}`;
  }

  function drop(id) {
    change({ ids: state.ids.filter((other) => other !== id) });
    find();
  }

  document.addEventListener("pointerdown", (event) => { if (!event.target.closest(".finder")) found.hidden = true; }, { signal });
  search.addEventListener("focus", () => { if (search.value.trim()) find(); });

  // --- the range ---------------------------------------------------------------------------------------

  /** What it is in milliseconds: of what was answered, else as it would be now. */
  function bounds() {
    return [state.from, state.to].map((at) => (typeof at === "number" ? at : at === "now" ? Date.now() : Date.now() - back(at)));
  }

  function change(to, isStep = true) {
    Object.assign(state, to);
    const words = new URLSearchParams({ points: state.ids.join(","), from: state.from, to: state.to });
    const now = `#/explore?${words.toString().replaceAll("%2C", ",")}`;
    // Back goes to what was shown before; a drag in many small steps is one.
    if (now !== location.hash) history[isStep ? "pushState" : "replaceState"](null, "", now);
    show();
    load();
  }

  function pan(parts) {
    const [from, to] = bounds();
    const by = Math.round((to - from) * parts);
    change({ from: Math.round(from + by), to: Math.round(to + by) }, false);
  }

  function zoom(factor) {
    const [from, to] = bounds();
    const [middle, half] = [(from + to) / 2, ((to - from) * factor) / 2];
    // What ends now ends now after it, too.
    if (state.to === "now") return range(to - 2 * half, to);
    range(middle - half, middle + half);
  }

  function range(from, to) {
    const length = to - from;
    if (length < SHORTEST_MS || length > LONGEST_MS) return;
    change({ from: Math.round(from), to: Math.round(to) });
  }

  function typed() {
    const [from, to] = moments.map((input) => new Date(input.value).getTime());
    if (from < to) range(from, to);
    moments.forEach((input) => input.setAttribute("aria-invalid", String(!(from < to))));
  }

  // --- what is shown -----------------------------------------------------------------------------------

  function show() {
    nothing.hidden = state.ids.length > 0;
    body.hidden = !state.ids.length;
    RANGES.forEach(([, from], place) => ranges[place].setAttribute("aria-pressed", String(state.from === from && state.to === "now")));
    bounds().forEach((at, place) => { if (document.activeElement !== moments[place]) moments[place].value = local(at); });
  }

  async function load() {
    if (!state.ids.length) { answer = null; figures.replaceChildren(); plots.clear(); status.good(); return; }
    asking?.abort();
    const mine = asking = new AbortController();
    signal.addEventListener("abort", () => mine.abort());
    const range = { from: state.from, to: state.to };
    const most = Math.max(200, Math.min(1200, Math.round((figures.clientWidth || 900) / 1.5)));
    try {
      const strangers = state.ids.filter((id) => !points.has(id));
      if (strangers.length) for (const point of (await get(`/api/v1/points?ids=${strangers}`, mine.signal)).points) points.set(point.id, point);
      const ids = state.ids.filter((id) => points.has(id));
      const agents = [...new Set(ids.map((id) => points.get(id).agent))];
      const of = (path, agent) => get(`/api/v1/${path}?${new URLSearchParams({ agent, ...range, limit: 1000 })}`, mine.signal);
      const [data, stats, ...told] = await Promise.all([
        get(`/api/v1/query?${new URLSearchParams({ points: ids, ...range, max_points: most })}`, mine.signal),
        get(`/api/v1/statistics?${new URLSearchParams({ points: ids, ...range })}`, mine.signal),
        ...agents.map(async (agent) => [agent, (await of("gaps", agent)).gaps, (await of("silences", agent)).silences, (await of("time-marks", agent)).marks]),
      ]);
      answer = { ...data, told: new Map(told.map(([agent, ...rest]) => [agent, rest])) };
      statistics = new Map(stats.series.map((one) => [one.id, one]));
      draw();
      status.good();
    } catch (error) {
      if (!mine.signal.aborted) status.lost(error);
    }
  }

  function concerns(gap, point) {
    return gap.point === null ? (gap.device ?? point.device) === point.device : gap.point === point.id;
  }

  function draw() {
    const [from, to] = [Date.parse(answer.from), Date.parse(answer.to)];
    const groups = new Map(); // unit -> series
    const seen = { gap: false, late: false, open: false, moved: false };
    for (const { id, rows } of answer.series) {
      const point = points.get(id);
      const [gapsOf, silences] = answer.told.get(point.agent) ?? [[], []];
      const own = gapsOf.filter((gap) => concerns(gap, point)).map((gap) => [Date.parse(gap.from), Date.parse(gap.to)]);
      const series = { point, rows, gaps: own, place: state.ids.indexOf(id), bucketed: answer.step_ms > 0 };
      groups.set(point.unit, [...(groups.get(point.unit) ?? []), series]);
      seen.gap ||= own.length > 0;
      seen.late ||= silences.some((silence) => silence.to);
      seen.open ||= silences.some((silence) => !silence.to);
      seen.moved ||= (answer.told.get(point.agent)?.[2] ?? []).length > 0;
    }
    for (const unit of plots.keys()) if (!groups.has(unit)) { plots.get(unit).node.remove(); plots.delete(unit); }
    for (const [unit, series] of groups) {
      if (!plots.has(unit)) { plots.set(unit, plot(unit, { range, pan, zoom, back: () => change({ from: "-6h", to: "now" }), cursor: look })); figures.append(plots.get(unit).node); }
      const shade = (kind) => ({ from: begin, to: end }) => ({ kind, from: Date.parse(begin), to: end ? Date.parse(end) : to });
      const agents = [...new Set(series.map(({ point }) => point.agent))];
      const once = (all) => [...new Map(all.map((one) => [`${one.kind} ${one.from} ${one.to}`, one])).values()];
      plots.get(unit).draw({ from, to, series, shades: once([
        ...agents.flatMap((agent) => (answer.told.get(agent)?.[1] ?? []).map(shade("late"))),
        ...agents.flatMap((agent) => (answer.told.get(agent)?.[2] ?? []).map(shade("moved"))),
        ...series.flatMap(({ gaps: own }) => own.map(([begin, end]) => ({ kind: "gap", from: begin, to: end }))) ]) });
    }
    fill(shades, seen, () => [
      seen.gap ? el("span", {}, el("i", { class: "key gap" }), "gap: readings are missing") : null,
      seen.late ? el("span", {}, el("i", { class: "key late" }), "came late: the gateway was not heard meanwhile") : null,
      seen.open ? el("span", {}, el("i", { class: "key late" }), "the gateway is not heard: readings may still come") : null,
      seen.moved ? el("span", {}, el("i", { class: "key moved" }), "times were corrected later") : null,
      answer.step_ms ? el("span", {}, el("i", { class: "key band" }), "from minimum to maximum") : null].filter(Boolean));
    showLegend();
    showGaps();
    look(cursor);
  }

  function showLegend() {
    fill(legend, state.ids.filter((id) => points.has(id)), () => state.ids.filter((id) => points.has(id)).map((id) => {
      const point = points.get(id);
      const place = state.ids.indexOf(id);
      const swatch = el("svg", { class: "swatch", viewBox: "0 0 26 10", "aria-hidden": "true" }, el("path", { class: `mean s${place % 8} d${place % 4}`, d: "M0 5H26" }));
      const row = el("tr", { "data-id": id }, el("th", { scope: "row" }, swatch, `${point.device}/${point.name}`, el("small", {}, point.agent)),
        ...Array.from({ length: 8 }, () => el("td", { class: "number" }, NOTHING)), el("td", { class: "quiet" }, point.unit),
        el("td", {}, el("button", { type: "button", "aria-label": `Remove ${point.device}/${point.name}`, click: () => drop(id) }, "Remove")));
      return row;
    }));
    for (const row of legend.children) {
      const one = statistics.get(Number(row.dataset.id));
      if (!one) continue;
      [one.count, one.min, one.mean, one.max, one.first, one.last].forEach((value, place) => say(row.children[place + 3], place ? short(value) : number(value)));
    }
    const range = new URLSearchParams({ points: state.ids.filter((id) => points.has(id)), from: state.from, to: state.to }).toString().replaceAll("%2C", ",");
    fill(files, [range, answer.step_ms], () => [
      el("a", { href: `/api/v1/query.csv?${range}`, download: "forebay.csv" }, "Every reading as CSV"), " · ",
      el("a", { href: `/api/v1/query.csv?${range}&max_points=1000`, download: "forebay.csv" }, "As drawn, as CSV"), " · ",
      el("button", { type: "button", click: copy }, "Copy the address of this view"),
      el("span", { class: "quiet" }, answer.step_ms ? ` One step is ${span(answer.step_ms / 1000)}.` : " Every reading is drawn.")]);
  }

  async function copy(event) {
    const button = event.currentTarget;
    // A relative range means another one tomorrow: that is what it is for.
    await navigator.clipboard?.writeText(location.href).then(() => say(button, "Copied"), () => say(button, "Copy it from the address bar"));
  }

  function showGaps() {
    const rows = [];
    for (const [agent, [gapsOf, silences, marks]] of answer.told) {
      const mine = [...points.values()].filter((point) => state.ids.includes(point.id) && point.agent === agent);
      for (const gap of gapsOf) if (mine.some((point) => concerns(gap, point))) rows.push([gap.from, gap.to, gap.point === null ? (gap.device ?? "the whole gateway") : gap.name ?? "", agent, gap.count, gap.words]);
      for (const silence of silences) rows.push([silence.from, silence.to, "the whole gateway", agent, null, silence.to ? "not heard; what it read came later" : "not heard now; what it reads may come later"]);
      for (const mark of marks) rows.push([mark.from, mark.to, "the whole gateway", agent, mark.readings, `times ${mark.clock} later`]);
    }
    rows.sort((a, b) => Date.parse(b[0]) - Date.parse(a[0]));
    fill(gaps, rows, () => (rows.length ? el("div", { class: "wide tall", "aria-label": "Gaps" }, el("table", {},
      el("thead", {}, el("tr", {}, head("From"), head("To"), head("What"), head("Gateway"), head("Readings", "number"), head("Why"))),
      el("tbody", {}, ...rows.map(([begin, end, what, agent, n, why]) => el("tr", {}, el("td", { class: "steady" }, clock(begin)), el("td", { class: "steady" }, end ? clock(end) : "now"),
        el("td", {}, what), el("td", {}, agent), el("td", { class: "number" }, number(n)), el("td", {}, why)))))) : el("p", { class: "quiet" }, "None in this range.")));
  }

  /** What stands at a moment; else which range it is. */
  function look(time) {
    cursor = time;
    for (const one of plots.values()) one.cross(time);
    if (!answer) return;
    if (time === null) {
      for (const row of legend.children) say(row.children[1], NOTHING);
      say(reading, `${clock(answer.from)} to ${clock(answer.to)}, ${span((Date.parse(answer.to) - Date.parse(answer.from)) / 1000)}.`);
      return;
    }
    for (const row of legend.children) {
      const all = answer.series.find(({ id }) => id === Number(row.dataset.id))?.rows ?? [];
      const at = nearest(all, time);
      say(row.children[1], at ? short(at[MEAN] ?? at[LAST]) : NOTHING);
    }
    say(reading, clock(time));
  }

  show();
  load();
  // What ends now goes on; nothing moves while somebody points at it.
  let due = false;
  again(async () => { if (due && state.to === "now" && cursor === null) await load(); due = true; }, REFRESH_MS, signal);
  again(async () => {
    const ids = state.ids.filter((id) => points.has(id));
    if (!ids.length) return;
    try {
      for (const { id, latest } of (await get(`/api/v1/points?ids=${ids}`, signal)).points) {
        const row = [...legend.children].find((one) => Number(one.dataset.id) === id);
        if (row) say(row.children[2], latest ? number(latest.value) : NOTHING, latest?.quality === "bad" ? "number quiet" : "number");
      }
    } catch (error) { status.lost(error); }
  }, LIVE_MS, signal);
  addEventListener("resize", later(load, 300), { signal });
}

/** A moment as the address has it, if it makes sense. */
function moment(text, otherwise) {
  if (text === "now" || /^-\d+[smhdw]$/.test(text ?? "")) return text;
  return /^\d{1,15}$/.test(text ?? "") ? Number(text) : otherwise;
}

function back(text) {
  return Number(text.slice(1, -1)) * { s: 1e3, m: 60e3, h: 3600e3, d: 86400e3, w: 604800e3 }[text.at(-1)];
}

/** What a datetime-local input takes: local time without a zone. */
function local(at) {
  const date = new Date(at);
  return new Date(at - date.getTimezoneOffset() * 60e3).toISOString().slice(0, 19);
}

/** Six digits that mean something: a mean has as many as anybody likes. */
function short(value) {
  return number(typeof value === "number" ? Number(value.toPrecision(6)) : value);
}

function nearest(rows, time) {
  let [low, high] = [0, rows.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle][TIME] < time) low = middle + 1; else high = middle;
  }
  const [after, before] = [rows[low], rows[low - 1]];
  return before && after && time - before[TIME] < after[TIME] - time ? before : after;
}

function later(act, ms) {
  let timer = null;
  return () => { clearTimeout(timer); timer = setTimeout(act, ms); };
}

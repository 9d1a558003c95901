// The fleet: one row an agent, thousands of them. Only the rows in sight are asked for and built; the
// server sorts and filters. Agents never vanish, and "never seen" is not "silent".
import { faultMark } from "/ui/accounts.js";
import { again, el, fill, get, say } from "/ui/dom.js";
import { status } from "/ui/status.js";
import { ago, BYTES_TODAY, breakable, bytes, certificate, count, drain, lag, LAG, number, NOTHING, off, state } from "/ui/words.js";

const REFRESH_MS = 2000;
const SITES_MS = 30000;
/** More than this and readings stand at a wrong place in time. */
const CLOCK_OFF_MS = 5000;
/** Rows beyond both ends of what is in sight, so that a turn of the wheel shows rows and no gap. */
const BEYOND = 20;
const MOST_ROWS = 200;
const FIELDS = "agent,site,gateway,state,last_seen,lag_s,clock,certificate_valid_until,certificate_days,bytes_today,backlog,ledger,batches,device_counts,faults,version";
const STATES = ["online", "silent", "never seen", "revoked"];

/** [heading, class, what it is sorted by, what fills a cell, what it means]. A narrow screen leaves out "more" and "most", one of middling width "most". */
const COLUMNS = [
  ["State", "", "state", (cell, agent) => fill(cell, agent.state, () => state(agent.state))],
  ["Agent", "", "agent", (cell, agent) => fill(cell, [agent.agent, agent.faults, folded(agent)], () => named(agent))],
  ["Last seen", "more steady", "-last_seen", (cell, agent) => say(cell, ago(agent.last_seen), agent.last_seen ? "more steady" : "more steady quiet")],
  ["Lag", "more steady", "-lag_s", (cell, agent) => say(cell, lag(agent), agent.lag_s === null ? "more steady quiet" : "more steady"), LAG],
  ["Devices", "", null, (cell, agent) => fill(cell, [agent.state, agent.device_counts], () => devices(cell, agent))],
  ["Clock", "more", null, (cell, agent) => say(cell, ...clock(agent.clock)), "Against the server's"],
  ["Certificate", "more", "certificate_valid_until", (cell, agent) => { say(cell, ...certificate(agent)); cell.title = `Until ${agent.certificate_valid_until?.slice(0, 10) ?? "nobody knows when"}`; }, "How long it lasts"],
  ["Version", "most quiet", "version", (cell, agent) => say(cell, agent.version || NOTHING)],
  ["Backlog", "number more", "-backlog", (cell, agent) => fill(cell, agent.backlog, () => backlog(cell, agent.backlog)), "Readings that wait in the gateway, and how long until they are here at the pace of its reports"],
  ["Not stored", "number more", "-dropped", (cell, agent) => fill(cell, [agent.ledger.dropped, agent.batches.set_aside], () => missing(agent)), "Readings the gateway dropped since its buffer began; batches the server set aside"],
  ["Readings/s", "number most", null, (cell, agent, rate) => say(cell, rate === null ? NOTHING : number(rate)), "Stored each second while this page is open"],
  ["Bytes today", "number most", "-bytes_today", (cell, agent) => say(cell, bytes(agent.bytes_today), agent.bytes_today ? "number most" : "number most quiet"), BYTES_TODAY],
];

export function fleetView(main, signal) {
  const wanted = { search: "", site: "", state: "", sort: "agent" };
  const rows = new Map(); // agent -> { row, cells, stored, at, rate }
  let first = 0; // the place of the first row that is built
  let matching = 0;
  let asking = new AbortController();

  const summary = el("p", { class: "quiet" }, " ");
  const search = el("input", { type: "search", placeholder: "Find an agent", "aria-label": "Find an agent", input: () => narrow("search", search.value.trim()) });
  const states = select("State", ["", ...STATES, "faulty"], (word) => (word === "faulty" ? "with a fault" : word || "all states"), (word) => narrow("state", word));
  const sites = select("Site", [""], (site) => site || "all sites", (site) => narrow("site", site));
  const found = el("span", { class: "quiet", role: "status" });
  const bar = el("div", { class: "bar", hidden: "" }, el("div", { class: "filters" }, search, states, sites), found);
  const heads = COLUMNS.map(([words, kind, key, , meaning]) => heading(words, kind, key, meaning));
  const body = el("tbody");
  const table = el("table", { class: "fleet" }, el("thead", {}, el("tr", {}, ...heads)), body);
  const space = el("div", { class: "space" }, table);
  const list = el("div", { class: "list", hidden: "", tabindex: "0", role: "region", "aria-label": "Agents", scroll: scrolled }, space);
  const empty = el("div", { hidden: "" }, ...welcome());
  main.replaceChildren(el("h1", {}, "Fleet"), summary, bar, list, empty);

  /** A row is as high as the style says; it is asked for once there is one. */
  const height = () => body.firstElementChild?.getBoundingClientRect().height || 54.4;
  const inSight = () => Math.ceil((list.clientHeight || innerHeight) / height());

  function show({ agents, time, summary: all, matching: n }, offset) {
    const at = Date.parse(time);
    [first, matching] = [offset, n];
    const names = new Set(agents.map((agent) => agent.agent));
    for (const [name, kept] of rows) if (!names.has(name)) { kept.row.remove(); rows.delete(name); }
    agents.forEach((agent, place) => {
      const kept = rows.get(agent.agent) ?? add(agent.agent);
      if (body.children[place] !== kept.row) body.insertBefore(kept.row, body.children[place] ?? null);
      kept.row.setAttribute("aria-rowindex", offset + place + 2);
      const rate = kept.at && at > kept.at ? (agent.ledger.stored - kept.stored) * 1000 / (at - kept.at) : null;
      if (rate !== null) kept.rate = kept.rate === null ? rate : kept.rate + (rate - kept.rate) / 3;
      Object.assign(kept, { stored: agent.ledger.stored, at });
      COLUMNS.forEach(([, , , write], column) => write(kept.cells[column], agent, kept.rate === null ? null : Math.round(kept.rate)));
    });
    table.setAttribute("aria-rowcount", n + 1);
    list.hidden = bar.hidden = !all.agents;
    empty.hidden = all.agents > 0;
    table.style.marginTop = `${offset * height()}px`;
    space.style.height = `${table.tHead.offsetHeight + n * height()}px`;
    tell(all);
  }

  function tell(all) {
    const counts = { online: all.online, silent: all.silent, "never seen": all.never_seen, revoked: all.revoked };
    const told = STATES.filter((word) => counts[word]).map((word) => `${number(counts[word])} ${word}`);
    if (all.faulty) told.push(`${number(all.faulty)} with a fault`);
    say(summary, all.agents ? `${count(all.agents, "agent")}: ${told.join(", ")}` : " ");
    const narrowed = wanted.search || wanted.site || wanted.state;
    say(found, narrowed ? (matching ? `${count(matching, "agent")} found` : "No agent is like this.") : " ");
  }

  function add(name) {
    const cells = COLUMNS.map(([, kind]) => el("td", { class: kind || null }));
    const kept = { row: el("tr", {}, ...cells), cells, rate: null };
    rows.set(name, kept);
    return kept;
  }

  function heading(words, kind, key, meaning) {
    const cell = el("th", { scope: "col", class: kind || null, title: meaning });
    cell.append(key ? el("button", { click: () => sort(key) }, words) : words);
    cell.key = key;
    return cell;
  }

  function sort(key) {
    const other = key.startsWith("-") ? key.slice(1) : `-${key}`;
    wanted.sort = wanted.sort === key ? other : key;
    mark();
    list.scrollTop = 0;
    look();
  }

  function mark() {
    const [name, down] = [wanted.sort.replace("-", ""), wanted.sort.startsWith("-")];
    for (const cell of heads) {
      if (cell.key?.replace("-", "") === name) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  let typing = null;
  function narrow(what, value) {
    wanted[what] = value;
    clearTimeout(typing);
    typing = setTimeout(() => { list.scrollTop = 0; look(); }, what === "search" ? 150 : 0);
  }

  let moving = false;
  function scrolled() {
    if (moving) return;
    moving = true;
    requestAnimationFrame(() => {
      moving = false;
      const top = Math.floor(list.scrollTop / height());
      const last = Math.min(matching, top + inSight());
      if (top < first || last > first + rows.size) look();
    });
  }

  async function look() {
    asking.abort();
    asking = new AbortController();
    const top = Math.floor(list.scrollTop / height());
    const offset = Math.max(0, top - BEYOND);
    const limit = Math.min(MOST_ROWS, inSight() + 2 * BEYOND);
    const asked = new URLSearchParams({ fields: FIELDS, sort: wanted.sort, offset, limit });
    for (const key of ["search", "site", "state"]) if (wanted[key]) asked.set(key, wanted[key]);
    try {
      show(await get(`/api/v1/fleet?${asked}`, AbortSignal.any([signal, asking.signal])), offset);
      status.good();
    } catch (error) {
      status.lost(error);
    }
  }

  async function lookAtSites() {
    try {
      const { sites: all } = await get("/api/v1/sites", signal);
      fill(sites, all.map(({ site }) => site), () => ["", ...all.map(({ site }) => site)].map((site) => el("option", { value: site, selected: site === wanted.site }, site || "all sites")));
      sites.hidden = all.length < 2;
    } catch {
      // The fleet's own look says what is wrong.
    }
  }

  mark();
  again(look, REFRESH_MS, signal);
  again(lookAtSites, SITES_MS, signal);
  addEventListener("resize", scrolled, { signal });
}

function select(label, values, words, change) {
  const node = el("select", { "aria-label": label, change: () => change(node.value) },
    ...values.map((value) => el("option", { value }, words(value))));
  return node;
}

function link(agent) {
  return el("a", { href: `#/agent/${encodeURIComponent(agent.site)}/${encodeURIComponent(agent.gateway)}` }, ...breakable(agent.agent));
}

function named(agent) {
  const [words, kind] = folded(agent);
  return [link(agent), ...(agent.faults.length ? [faultMark(agent.faults)] : []), ...(words ? [el("small", { class: `fault folded ${kind}`, title: words }, words)] : [])];
}

/** What is wrong in columns that a narrow screen leaves out, in words, and their class. */
function folded(agent) {
  const { ledger: { dropped }, batches: { set_aside: aside } } = agent;
  const bad = [agent.certificate_days < 0 ? "certificate expired" : "", dropped ? `${number(dropped)} dropped` : "", aside ? `${number(aside)} set aside` : ""].filter(Boolean);
  const odd = [agent.backlog.trend === "grows" ? "backlog growing" : "", clock(agent.clock)[1].includes("odd") ? `clock ${off(agent.clock.offset_ms)}` : "", agent.state === "silent" && agent.lag_s ? `${lag(agent)} behind` : ""].filter(Boolean);
  const words = [...bad, ...odd].join(", ");
  return words ? [`${bad.length ? "▲" : "◆"} ${words}`, bad.length ? "bad" : "odd"] : ["", ""];
}

function devices(cell, { state, device_counts: { all, silent, first_silent: first } }) {
  cell.title = "";
  // What a device was when its gateway was last heard of is not what it is.
  if (state !== "online") return el("span", { class: "quiet" }, all ? `${all}, unknown` : NOTHING);
  if (!all) return el("span", { class: "quiet" }, NOTHING);
  if (!silent) return `${all} answering`;
  const told = `${first.device}: ${first.words || "does not answer"}`;
  cell.title = silent > 1 ? `${told}; ${silent - 1} more` : told;
  return el("span", { class: "bad" }, `▲ ${silent} of ${all} silent`, el("small", {}, cell.title));
}

function backlog(cell, backlog) {
  cell.title = bytes(backlog.bytes);
  const [words, kind] = drain(backlog);
  return [number(backlog.readings), ...(words ? [el("small", { class: kind }, words)] : [])];
}

/** Numbers that should be zero: readings, and batches. */
function missing({ ledger: { dropped }, batches: { set_aside: aside } }) {
  if (!dropped && !aside) return el("span", { class: "quiet" }, number(dropped));
  const told = [[dropped, "dropped"], [aside, "set aside"]].filter(([n]) => n).map(([n, words]) => [`▲ ${number(n)}`, words]);
  const lines = told.length > 1 ? told.map((parts) => parts.join(" ")) : told[0];
  return el("span", { class: "bad" }, lines[0], el("small", {}, lines[1]));
}

function clock({ offset_ms: offset }) {
  if (offset === null) return [NOTHING, "more quiet"];
  if (Math.abs(offset) <= CLOCK_OFF_MS) return ["right", "more"];
  return [`◆ ${off(offset)}`, "more odd steady"];
}

function welcome() {
  return [
    el("h2", {}, "No gateway has joined yet"),
    el("p", {}, "On this server, make a join string. It is good for one gateway:"),
    el("pre", {}, "forebay-server token create"),
    el("p", {}, "On the gateway, hand it over. The gateway makes its own key and gets its certificate:"),
    el("pre", {}, "forebay-agent join 'fbj1.…'"),
    el("p", { class: "quiet" }, "It then appears here. What the gateway collected before it joined is not lost: it follows."),
  ];
}

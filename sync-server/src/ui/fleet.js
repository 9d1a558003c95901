// The fleet: one row an agent. Agents never vanish, and "never seen" is not "silent".
import { faultMark } from "/ui/accounts.js";
import { again, el, fill, get, head, say } from "/ui/dom.js";
import { status } from "/ui/status.js";
import { ago, bytes, count, number, NOTHING, off, state } from "/ui/words.js";

const REFRESH_MS = 2000;
/** More than this and readings stand at a wrong place in time. */
const CLOCK_OFF_MS = 5000;
const EXPIRES_SOON_MS = 30 * 86400e3;

/** [heading, class of the column, what fills a cell]. "more" columns are left out on a narrow screen. */
const COLUMNS = [
  ["State", "", (cell, agent) => fill(cell, agent.state, () => state(agent.state))],
  ["Agent", "", (cell, agent) => fill(cell, [agent.agent, agent.faults], () => [link(agent), ...(agent.faults.length ? [faultMark(agent.faults)] : [])])],
  ["Last seen", "more steady", (cell, agent) => say(cell, ago(agent.last_seen), agent.last_seen ? "more steady" : "more steady quiet")],
  ["Devices", "", (cell, agent) => fill(cell, [agent.state, agent.devices], () => devices(agent))],
  ["Readings/s", "number more", (cell, agent, rate) => say(cell, rate === null ? NOTHING : number(rate))],
  ["Backlog", "number more", (cell, agent) => { say(cell, number(agent.backlog.readings)); cell.title = bytes(agent.backlog.bytes); }],
  ["Dropped", "number more", (cell, agent) => wrong(cell, agent.ledger.dropped, "number more")],
  ["Set aside", "number more", (cell, agent) => wrong(cell, agent.batches.set_aside, "number more")],
  ["Clock", "more", (cell, agent) => say(cell, ...clock(agent.clock))],
  ["Certificate until", "more", (cell, agent) => say(cell, ...certificate(agent.certificate_valid_until))],
  ["Version", "more quiet", (cell, agent) => say(cell, agent.version || NOTHING)],
];

export function fleetView(main, signal) {
  const rows = new Map(); // agent -> { row, cells, stored, at }
  const summary = el("p", { class: "quiet" }, " ");
  const body = el("tbody");
  const table = el("div", { class: "wide", hidden: "" }, el("table", { class: "fleet" },
    el("thead", {}, el("tr", {}, ...COLUMNS.map(([words, kind]) => head(words, kind)))), body));
  const empty = el("div", { hidden: "" }, ...welcome());
  main.replaceChildren(el("h1", {}, "Fleet"), summary, table, empty);

  function show({ agents, time }) {
    const at = Date.parse(time);
    const names = new Set(agents.map((agent) => agent.agent));
    for (const [name, kept] of rows) if (!names.has(name)) { kept.row.remove(); rows.delete(name); }
    agents.forEach((agent, place) => {
      const kept = rows.get(agent.agent) ?? add(agent.agent);
      if (body.children[place] !== kept.row) body.insertBefore(kept.row, body.children[place] ?? null);
      const rate = kept.at && at > kept.at ? (agent.ledger.stored - kept.stored) * 1000 / (at - kept.at) : null;
      if (rate !== null) kept.rate = kept.rate === null ? rate : kept.rate + (rate - kept.rate) / 3;
      Object.assign(kept, { stored: agent.ledger.stored, at });
      COLUMNS.forEach(([, , write], column) => write(kept.cells[column], agent, kept.rate === null ? null : Math.round(kept.rate)));
    });
    table.hidden = !agents.length;
    empty.hidden = agents.length > 0;
    const states = ["online", "silent", "never seen", "revoked"].map((word) => [word, agents.filter((agent) => agent.state === word).length]);
    const told = states.filter(([, n]) => n).map(([word, n]) => `${n} ${word}`);
    const faulty = agents.filter((agent) => agent.faults.length).length;
    if (faulty) told.push(`${faulty} with a fault`);
    say(summary, agents.length ? `${count(agents.length, "agent")}: ${told.join(", ")}` : " ");
  }

  function add(name) {
    const cells = COLUMNS.map(([, kind]) => el("td", { class: kind || null }));
    const kept = { row: el("tr", {}, ...cells), cells, rate: null };
    rows.set(name, kept);
    return kept;
  }

  again(async () => {
    try {
      show(await get("/api/v1/fleet", signal));
      status.good();
    } catch (error) {
      status.lost(error);
    }
  }, REFRESH_MS, signal);
}

function link(agent) {
  return el("a", { href: `#/agent/${encodeURIComponent(agent.site)}/${encodeURIComponent(agent.gateway)}` }, agent.agent);
}

function devices({ state, devices: all }) {
  // What a device was when its gateway was last heard of is not what it is.
  if (state !== "online") return el("span", { class: "quiet" }, all.length ? `${all.length}, unknown` : NOTHING);
  const silent = all.filter((device) => !device.answers);
  if (!all.length) return el("span", { class: "quiet" }, NOTHING);
  if (!silent.length) return `${all.length} answering`;
  const told = `${silent[0].device}: ${silent[0].words || "does not answer"}`;
  return el("span", { class: "bad" }, `▲ ${silent.length} of ${all.length} silent`,
    el("small", {}, silent.length > 1 ? `${told}; ${silent.length - 1} more` : told));
}

/** A number that should be zero. */
function wrong(cell, n, kind) {
  say(cell, n ? `▲ ${number(n)}` : number(n), n ? `${kind} bad` : kind);
}

function clock({ offset_ms: offset }) {
  if (offset === null) return [NOTHING, "more quiet"];
  if (Math.abs(offset) <= CLOCK_OFF_MS) return ["right", "more"];
  return [`◆ ${off(offset)}`, "more odd steady"];
}

function certificate(until) {
  if (!until) return [NOTHING, "more quiet"];
  const left = Date.parse(until) - Date.now();
  const day = until.slice(0, 10);
  if (left < 0) return [`▲ ${day}, expired`, "more steady bad"];
  return left < EXPIRES_SOON_MS ? [`◆ ${day}`, "more steady odd"] : [day, "more steady"];
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

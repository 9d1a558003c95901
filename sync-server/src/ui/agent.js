// One agent: how it is, what is wrong in plain words, its points live, the course of one of them,
// where readings are missing, and the ledger that accounts for every reading.
import { faultList, gapTable, ledgerTables } from "/ui/accounts.js";
import { again, el, fill, get, head, say } from "/ui/dom.js";
import { watch } from "/ui/feed.js";
import { pointsTable } from "/ui/points.js";
import { status } from "/ui/status.js";
import { trendPanel } from "/ui/trend.js";
import { whyPanel } from "/ui/why.js";
import { ago, bytes, certificate, clock, count, drain, lag, number, NOTHING, off, span, state } from "/ui/words.js";

const REFRESH_MS = 3000;

export function agentView(main, name, signal) {
  const standing = el("span", { class: "standing" });
  const alarms = el("div", { role: "alert" });
  const faults = el("div", { role: "alert" });
  const why = el("div");
  const facts = el("dl");
  const missing = el("div");
  const ledger = el("div");
  const devices = el("div");
  const trend = trendPanel(name, signal);
  const points = pointsTable(name, (point) => trend.show(point), signal);
  main.replaceChildren(el("h1", {}, name, " ", standing), alarms, faults, why, facts, trend.node, points.node,
    el("div", { class: "bar" }, el("h2", {}, "Missing readings, last day"), el("a", { href: `#/gaps?${new URLSearchParams({ agent: name, from: "-30d" })}` }, "Other ranges, reasons, CSV")), missing,
    el("h2", {}, "Ledger"), ledger,
    el("h2", {}, "Devices"), devices);

  // Both ways must work: values come by the feed, everything else by asking.
  let live = null;
  const tell = () => { if (live) status.good(); else if (live === false) status.lost(); };

  again(async () => {
    try {
      const agent = (await get(`/api/v1/fleet?${new URLSearchParams({ agent: name })}`, signal)).agents[0];
      if (!agent) return strange(main, name);
      const { buffers } = await get(`/api/v1/ledger?${new URLSearchParams({ agent: name })}`, signal);
      const { gaps, more } = await get(`/api/v1/gaps?${new URLSearchParams({ agent: name, sort: "-from" })}`, signal);
      fill(standing, agent.state, () => state(agent.state));
      showAlarms(alarms, agent);
      const mates = agent.state === "silent" ? await sitemates(agent.site, signal) : [];
      fill(why, whyPanel(agent, mates).map((part) => part.textContent), () => whyPanel(agent, mates));
      showFacts(facts, agent);
      points.forks(await forkTimes(name, buffers, signal));
      fill(faults, agent.faults, () => faultList(agent.faults));
      fill(missing, [gaps, more], () => gapTable(gaps, more));
      fill(ledger, buffers, () => ledgerTables(buffers));
      fill(devices, [agent.state, agent.devices], () => deviceTable(agent));
      tell();
    } catch (error) {
      status.lost(error);
    }
  }, REFRESH_MS, signal);

  watch(name, {
    readings: points.readings,
    fresh: points.load,
    live: (is) => { live = is; tell(); },
  }, signal);
}

/** How the gateways of a site are. */
async function sitemates(site, signal) {
  const asked = new URLSearchParams({ site, fields: "agent,site,state,last_seen", limit: 1000 });
  return (await get(`/api/v1/fleet?${asked}`, signal)).agents;
}

/** Fork -> when it was found. A fault names its buffer by epoch and fork, in hex. */
async function forkTimes(name, buffers, signal) {
  const forks = buffers.filter(({ fork }) => fork);
  if (!forks.length) return new Map();
  const { faults } = await get(`/api/v1/faults?${new URLSearchParams({ agent: name, limit: 1000 })}`, signal);
  const found = faults.filter(({ kind }) => kind === "fork");
  return new Map(forks.map(({ epoch, fork }) => [fork, found.findLast(({ subject }) => subject === `${epoch}/${fork.toString(16)}`)?.since]));
}

function strange(main, name) {
  main.replaceChildren(el("h1", {}, name),
    el("p", {}, "No agent of this name has joined. ", el("a", { href: "#/" }, "The fleet"), " shows all that have."));
}

function showAlarms(node, agent) {
  const words = [];
  if (agent.state === "silent") words.push(`Silent since ${clock(agent.last_seen)}: the values below are the last known. If the gateway runs, what it reads waits in its buffer and follows.`);
  if (agent.state === "never seen") words.push("Joined, and has sent nothing yet. Is the agent running? `forebay-agent status` on the gateway tells.");
  if (agent.state === "revoked") words.push("Revoked: the server takes nothing more from this agent until it joins again.");
  // What a device was when its gateway was last heard of is not what it is.
  if (agent.state === "online") for (const device of agent.devices) if (!device.answers) words.push(`${device.device} on ${device.link}: ${device.words || "does not answer"}`);
  const kind = agent.state === "never seen" || agent.state === "revoked" ? "odd" : "bad";
  fill(node, [words, kind], () => words.map((text) => el("p", { class: kind }, `▲ ${text}`)));
}

function showFacts(node, agent) {
  const { backlog, clock: own, batches } = agent;
  const limit = backlog.limit_bytes ? ` of ${bytes(backlog.limit_bytes)}` : "";
  const offset = own.offset_ms === null ? NOTHING : Math.abs(own.offset_ms) < 1000 ? "right" : off(own.offset_ms);
  const running = agent.uptime_s === null ? "" : `, running for ${span(agent.uptime_s)}`;
  const all = {
    "Last seen": ago(agent.last_seen),
    Lag: lag(agent),
    Backlog: backlog.readings === null ? NOTHING : [`${count(backlog.readings, "reading")}, ${bytes(backlog.bytes)}${limit}`, drain(backlog)[0]].filter(Boolean).join(", "),
    "Bytes today": bytes(agent.bytes_today),
    Clock: own.synchronised === false ? `${offset}, not synchronised` : offset,
    Agent: agent.version ? agent.version + running : NOTHING,
    Certificate: agent.certificate_valid_until ? `${certificate(agent)[0]}, until ${agent.certificate_valid_until.slice(0, 10)}` : NOTHING,
    "Batches set aside": number(batches.set_aside),
  };
  if (!node.children.length) node.append(...Object.keys(all).map((title) => el("div", {}, el("dt", {}, title), el("dd"))));
  Object.values(all).forEach((words, place) => say(node.children[place].lastChild, words));
}

function deviceTable({ state, devices }) {
  if (!devices.length) return el("p", { class: "quiet" }, "None reported yet.");
  const standing = (device) => (state !== "online" ? el("span", { class: "quiet" }, "○ unknown")
    : device.answers ? "● answers" : el("span", { class: "bad" }, "▲ silent"));
  const row = (device) => el("tr", {}, el("td", { class: "state" }, standing(device)),
    el("td", {}, device.device), el("td", {}, device.link), el("td", { class: "quiet" }, device.words || NOTHING));
  return el("div", { class: "wide" }, el("table", { class: "devices" },
    el("thead", {}, el("tr", {}, head("State"), head("Device"), head("Link"), head("Words"))), el("tbody", {}, ...devices.map(row))));
}

// The fleet: one row an agent. Agents never vanish, and "never seen" is not "silent".
import { ago, bytes, el, get, number, problem, state } from "/ui/dom.js";

const REFRESH_MS = 2000;

export function fleetView(main, feed) {
  let open = true;
  let readings = 0;
  const rate = el("span", { class: "quiet" });
  const stop = feed.listen((rows) => { readings += rows.length; });
  const body = el("tbody");
  const empty = el("div");
  const heads = ["Agent", "State", "Last seen", "Devices", "Backlog", "Stored", "Dropped", "Clock", "Version"];
  const numeric = new Set(["Backlog", "Stored", "Dropped"]);
  main.replaceChildren(
    el("h1", {}, "Fleet"), rate,
    el("div", { class: "wide" }, el("table", {},
      el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col", class: numeric.has(head) ? "number" : null }, head)))), body)),
    empty,
  );

  async function refresh() {
    if (!open) return;
    try {
      const { agents } = await get("/api/v1/fleet");
      if (!open) return;
      agents.sort((a, b) => a.agent.localeCompare(b.agent));
      body.replaceChildren(...agents.map(row));
      empty.replaceChildren(...(agents.length ? [] : [welcome()]));
      rate.textContent = `${agents.length} ${agents.length === 1 ? "agent" : "agents"}, ${number(Math.round(readings * 1000 / REFRESH_MS))} live values/s`;
      readings = 0;
    } catch (error) {
      if (open) problem(main, error);
    }
    setTimeout(refresh, REFRESH_MS);
  }
  refresh();
  return { close() { open = false; stop(); } };
}

function row(agent) {
  const silent = agent.devices.filter((device) => !device.answers);
  const devices = silent.length
    ? el("span", { class: "bad", title: silent.map((d) => `${d.device}: ${d.words}`).join("\n") }, `▲ ${silent.length} of ${agent.devices.length} silent`)
    : `${agent.devices.length} answering`;
  const offset = agent.clock.offset_ms;
  const clock = offset === null ? el("span", { class: "quiet" }, "unknown")
    : Math.abs(offset) > 5000 ? el("span", { class: "odd" }, `◆ ${(offset / 1000).toFixed(0)} s off`) : "right";
  const dropped = agent.ledger.dropped ? el("span", { class: "bad" }, `▲ ${number(agent.ledger.dropped)}`) : "0";
  const [site, gateway] = [agent.site, agent.gateway].map(encodeURIComponent);
  return el("tr", {},
    el("td", {}, el("a", { href: `#/agent/${site}/${gateway}` }, agent.agent)),
    el("td", {}, state(agent.state)),
    el("td", {}, ago(agent.last_seen)),
    el("td", {}, devices),
    el("td", { class: "number", title: bytes(agent.backlog.bytes) }, number(agent.backlog.readings)),
    el("td", { class: "number" }, number(agent.ledger.stored)),
    el("td", { class: "number" }, dropped),
    el("td", {}, clock),
    el("td", { class: "quiet" }, agent.version || "–"));
}

function welcome() {
  return el("div", {},
    el("h2", {}, "No gateway has joined yet"),
    el("p", {}, "On this server, make a join string:"), el("pre", {}, "forebay-server token create"),
    el("p", {}, "On the gateway, use it:"), el("pre", {}, "forebay-agent join 'fbj1.…'"));
}

// Gaps: where readings are missing, of one gateway or of all, why, and how many. What is asked for stands in the
// address, so that it can be sent to somebody.
import { again, el, fill, get, head, say } from "/ui/dom.js";
import { status } from "/ui/status.js";
import { clock, count, number, NOTHING, span } from "/ui/words.js";

const REFRESH_MS = 10_000;
const LIMIT = 200;
const RANGES = [["1 h", "-1h"], ["1 day", "-1d"], ["7 days", "-7d"], ["30 days", "-30d"], ["1 year", "-365d"]];
const REASONS = ["device silent", "agent down", "buffer full", "thinned out", "corrupt", "clock", "server lost it", "buffer wiped"];

export function gapsView(main, address, signal) {
  const asked = new URLSearchParams(address);
  const wanted = { agent: asked.get("agent") ?? "", device: asked.get("device") ?? "", reason: asked.get("reason") ?? "", from: RANGES.some(([, from]) => from === asked.get("from")) ? asked.get("from") : "-1d" };
  let limit = LIMIT;

  const agents = el("datalist", { id: "gap-agents" });
  const agent = el("input", { type: "search", list: "gap-agents", placeholder: "All gateways", "aria-label": "Gateway, as site/gateway", value: wanted.agent, change: () => change("agent", agent.value.trim()) });
  const device = el("input", { type: "search", placeholder: "All devices", "aria-label": "Device", value: wanted.device, change: () => change("device", device.value.trim()) });
  const reason = el("select", { "aria-label": "Reason", change: () => change("reason", reason.value) },
    ...["", ...REASONS].map((word) => el("option", { value: word, selected: word === wanted.reason }, word || "all reasons")));
  const ranges = RANGES.map(([words, from]) => el("button", { type: "button", click: () => change("from", from) }, words));
  const summary = el("p", { class: "quiet", role: "status" }, " ");
  const file = el("a", { download: "forebay-gaps.csv" }, "These as CSV");
  const body = el("tbody");
  const table = el("div", { class: "wide", hidden: "" }, el("table", { class: "gaps all" },
    el("thead", {}, el("tr", {}, head("From"), head("To"), head("For", "more"), head("Gateway"), head("Device or point"), head("Readings", "number"), head("Why"))), body));
  const more = el("button", { type: "button", hidden: "", click: () => { limit = Math.min(1000, limit + LIMIT); load(); } }, "Show more");
  main.replaceChildren(el("h1", {}, "Gaps"),
    el("p", { class: "quiet" }, "Every interval in which readings are missing, with its reason. What only came late is no gap."),
    el("div", { class: "bar" }, el("div", { class: "filters" }, agent, device, reason, agents), el("div", { class: "ranges", role: "group", "aria-label": "Range" }, ...ranges)),
    el("div", { class: "over" }, summary, file), table, more);

  function query(extra = {}) {
    const words = Object.entries({ ...wanted, ...extra }).filter(([, value]) => value !== "");
    return new URLSearchParams(words).toString();
  }

  function change(key, value) {
    if (wanted[key] === value) return;
    wanted[key] = value;
    limit = LIMIT;
    history.replaceState(null, "", `#/gaps?${query()}`);
    mark();
    load();
  }

  function mark() {
    RANGES.forEach(([, from], place) => ranges[place].setAttribute("aria-pressed", String(from === wanted.from)));
    file.href = `/api/v1/gaps.csv?${query({ sort: "-from" })}`;
  }

  async function load() {
    const mine = query();
    try {
      const found = await get(`/api/v1/gaps?${query({ sort: "-from", limit })}`, signal);
      if (mine !== query()) return;
      fill(body, found.gaps, () => found.gaps.map(row));
      table.hidden = !found.gaps.length;
      more.hidden = !found.more || limit >= 1000;
      const missing = found.gaps.reduce((sum, gap) => sum + (gap.count ?? 0), 0);
      const some = found.more ? `The latest ${number(found.gaps.length)} gaps` : count(found.gaps.length, "gap");
      say(summary, found.gaps.length ? `${some}${missing ? `, ${count(missing, "reading")} known to be missing` : ""}.${found.more && limit >= 1000 ? " The file has all of them." : ""}` : "● No reading is missing here.", "quiet");
      status.good();
    } catch (error) {
      // A name that nobody has is said where it was typed.
      if (error.status === 404) { body.replaceChildren(); body.madeOf = null; table.hidden = true; say(summary, `▲ No gateway is called “${wanted.agent}”.`, "bad"); status.good(); return; }
      status.lost(error);
    }
  }

  mark();
  again(load, REFRESH_MS, signal);
  get("/api/v1/fleet?fields=agent&limit=1000", signal).then((fleet) => agents.append(...fleet.agents.map((one) => el("option", { value: one.agent }))), () => {});
}

function row(gap) {
  const [site, gateway] = (gap.agent ?? "").split(/\/(.*)/);
  const what = gap.name ? el("a", { href: `#/explore?points=${gap.point}&from=${Date.parse(gap.from) - margin(gap)}&to=${Date.parse(gap.to) + margin(gap)}` }, `${gap.device}/${gap.name}`) : gap.device ?? "the whole gateway";
  return el("tr", {}, el("td", { class: "steady" }, clock(gap.from)), el("td", { class: "steady" }, clock(gap.to)),
    el("td", { class: "steady more" }, lasted(gap)),
    el("td", {}, gap.agent ? el("a", { href: `#/agent/${encodeURIComponent(site)}/${encodeURIComponent(gateway)}` }, gap.agent) : NOTHING),
    el("td", {}, what), el("td", { class: "number" }, gap.count === null ? NOTHING : number(gap.count)), el("td", {}, gap.words, el("small", {}, gap.reason)));
}

function lasted(gap) {
  const ms = Date.parse(gap.to) - Date.parse(gap.from);
  return ms > 0 && ms < 1000 ? "< 1 s" : span(ms / 1000);
}

/** A chart of a gap shows what was before and after it. */
function margin(gap) {
  return Math.max(60e3, Math.round((Date.parse(gap.to) - Date.parse(gap.from)) / 2));
}

// The page: the fleet, one agent with its live values, the explorer, gaps, alarms, adding a gateway, settings. Routes are
// hashes: #/, #/agent/SITE/GATEWAY, #/explore?points=…, #/gaps?agent=…, #/alarms, #/join, #/settings, #/login. Everything is built with
// DOM calls, so that no name from a device can become markup. A view lives until its signal is aborted, and takes its timers and its feed with it.
import { accessView, know } from "/ui/access.js";
import { agentView } from "/ui/agent.js";
import { alarmCount, alarmsView } from "/ui/alarms.js";
import { el, get } from "/ui/dom.js";
import { exploreView } from "/ui/explore.js";
import { fleetView } from "/ui/fleet.js";
import { gapsView } from "/ui/gaps.js";
import { joiningView } from "/ui/joining.js";
import { status } from "/ui/status.js";

const main = document.getElementById("main");
const where = document.getElementById("where");
const places = document.getElementById("places");
let view = new AbortController();

function route() {
  view.abort();
  view = new AbortController();
  const [path, asked = ""] = location.hash.replace(/^#\//, "").split("?");
  const [place, site, gateway] = path.split("/").map(plain);
  const [title, ...crumbs] = show(place, site, gateway, asked);
  document.title = `${title} · Forebay`;
  where.replaceChildren(...crumbs);
  for (const link of places.querySelectorAll("a")) {
    if (link.getAttribute("href") === `#/${place}` && !crumbs.length) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Shows a view; gives its title, and what stands behind the navigation. */
function show(place, site, gateway, asked) {
  const title = accessView(main, place, site, view.signal);
  if (title) return [title];
  if (place === "agent" && site && gateway) {
    const name = `${site}/${gateway}`;
    agentView(main, name, view.signal);
    return [name, el("span", { class: "quiet" }, `› ${name}`)];
  }
  if (place === "explore") { exploreView(main, asked, view.signal); return ["Explore"]; }
  if (place === "gaps") { gapsView(main, asked, view.signal); return ["Gaps"]; }
  if (place === "join") { joiningView(main, view.signal); return ["Add a gateway"]; }
  if (place === "alarms") { alarmsView(main, view.signal); return ["Alarms"]; }
  fleetView(main, view.signal);
  return ["Fleet"];
}

/** A part of the address as it was before it was escaped; as it stands, if it never was. */
function plain(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

addEventListener("hashchange", route);
route();
// Whoever has just logged in learns it too.
addEventListener("hashchange", tellStore);
function tellStore() {
  const store = document.getElementById("store");
  if (store.textContent || location.hash.startsWith("#/login") || location.hash.startsWith("#/setup")) return;
  get("/api/v1/fleet?limit=1&fields=agent").then((fleet) => { store.textContent = fleet.store ?? ""; }, (error) => status.lost(error));
}
tellStore();
if (!location.hash.startsWith("#/login")) {
  know();
  alarmCount(document.getElementById("alarms"), new AbortController().signal);
}

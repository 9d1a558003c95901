// The page: the fleet, one agent with its live values, the explorer, alarms. Routes are hashes: #/,
// #/agent/SITE/GATEWAY, #/explore?points=…, #/alarms. Everything is built with DOM calls, so that no name from a device can become
// markup. A view lives until its signal is aborted, and takes its timers and its feed with it.
import { agentView } from "/ui/agent.js";
import { alarmCount, alarmsView } from "/ui/alarms.js";
import { el, get } from "/ui/dom.js";
import { exploreView } from "/ui/explore.js";
import { fleetView } from "/ui/fleet.js";
import { status } from "/ui/status.js";

const main = document.getElementById("main");
const where = document.getElementById("where");
const places = document.getElementById("places");
const PLACES = ["explore", "alarms"];
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
    if (link.getAttribute("href") === `#/${PLACES.includes(place) ? place : ""}` && !crumbs.length) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Shows a view; gives its title, and what stands behind the navigation. */
function show(place, site, gateway, asked) {
  if (place === "agent" && site && gateway) {
    const name = `${site}/${gateway}`;
    agentView(main, name, view.signal);
    return [name, el("span", { class: "quiet" }, `› ${name}`)];
  }
  if (place === "explore") { exploreView(main, asked, view.signal); return ["Explore"]; }
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
alarmCount(document.getElementById("alarms"), new AbortController().signal);
get("/api/v1/fleet").then(
  (fleet) => { document.getElementById("store").textContent = fleet.store; },
  (error) => status.lost(error));

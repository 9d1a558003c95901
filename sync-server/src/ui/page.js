// The page: the fleet, one agent with its live values. Routes are hashes: #/ and
// #/agent/SITE/GATEWAY. Everything is built with DOM calls, so that no name from a device can become
// markup. A view lives until its signal is aborted, and takes its timers and its feed with it.
import { accessView, know } from "/ui/access.js";
import { agentView } from "/ui/agent.js";
import { el, get } from "/ui/dom.js";
import { fleetView } from "/ui/fleet.js";
import { status } from "/ui/status.js";

const main = document.getElementById("main");
const where = document.getElementById("where");
let view = new AbortController();

function route() {
  view.abort();
  view = new AbortController();
  const [place, site, gateway] = location.hash.replace(/^#\//, "").split("/").map(plain);
  const title = accessView(main, place, site, view.signal);
  if (title) {
    document.title = `${title} · Forebay`;
    where.replaceChildren();
    return;
  }
  if (place === "agent" && site && gateway) {
    const name = `${site}/${gateway}`;
    document.title = `${name} · Forebay`;
    where.replaceChildren(el("a", { href: "#/" }, "Fleet"), el("span", { class: "quiet" }, ` › ${name}`));
    agentView(main, name, view.signal);
  } else {
    document.title = "Fleet · Forebay";
    where.replaceChildren();
    fleetView(main, view.signal);
  }
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
  get("/api/v1/fleet").then((fleet) => { store.textContent = fleet.store ?? ""; }, (error) => status.lost(error));
}
tellStore();
if (!location.hash.startsWith("#/login")) know();

// The page: the fleet, one agent with its live values, or adding a gateway. Routes are hashes: #/,
// #/agent/SITE/GATEWAY and #/join. Everything is built with DOM calls, so that no name from a device can become
// markup. A view lives until its signal is aborted, and takes its timers and its feed with it.
import { agentView } from "/ui/agent.js";
import { el, get } from "/ui/dom.js";
import { fleetView } from "/ui/fleet.js";
import { joiningView } from "/ui/joining.js";
import { status } from "/ui/status.js";

const main = document.getElementById("main");
const where = document.getElementById("where");
let view = new AbortController();

function route() {
  view.abort();
  view = new AbortController();
  const [place, site, gateway] = location.hash.replace(/^#\//, "").split("/").map(plain);
  if (place === "agent" && site && gateway) {
    const name = `${site}/${gateway}`;
    document.title = `${name} · Forebay`;
    where.replaceChildren(el("a", { href: "#/" }, "Fleet"), el("span", { class: "quiet" }, ` › ${name}`));
    agentView(main, name, view.signal);
  } else if (place === "join") {
    document.title = "Add a gateway · Forebay";
    where.replaceChildren(el("a", { href: "#/" }, "Fleet"), el("span", { class: "quiet" }, " › Add a gateway"));
    joiningView(main, view.signal);
  } else {
    document.title = "Fleet · Forebay";
    where.replaceChildren(el("a", { href: "#/join" }, "Add a gateway"));
    fleetView(main, view.signal);
  }
}

/** A part of the address as it was before it was escaped; as it stands, if it never was. */
function plain(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

addEventListener("hashchange", route);
route();
get("/api/v1/fleet").then(
  (fleet) => { document.getElementById("store").textContent = fleet.store; },
  (error) => status.lost(error));

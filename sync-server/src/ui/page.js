// The page: fleet, and one agent with its live values. Routes are hashes: #/ and #/agent/SITE/GATEWAY.
// Everything is built with DOM calls, so that no name from a device can become markup.
import { Feed } from "/ui/feed.js";
import { fleetView } from "/ui/fleet.js";
import { agentView } from "/ui/agent.js";
import { el, get, problem } from "/ui/dom.js";

const main = document.getElementById("main");
const where = document.getElementById("where");
const feed = new Feed(document.getElementById("feed"));
let view = null;

function route() {
  view?.close();
  const parts = location.hash.replace(/^#\//, "").split("/").filter(Boolean).map(decodeURIComponent);
  if (parts[0] === "agent" && parts.length === 3) {
    const name = `${parts[1]}/${parts[2]}`;
    where.replaceChildren(el("a", { href: "#/" }, "Fleet"), ` › ${name}`);
    view = agentView(main, name, feed);
  } else {
    where.replaceChildren();
    view = fleetView(main, feed);
  }
}

addEventListener("hashchange", route);
route();
get("/api/v1/fleet").then((fleet) => { document.getElementById("store").textContent = fleet.store; }, (error) => problem(main, error));

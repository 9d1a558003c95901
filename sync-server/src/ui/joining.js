// Add a gateway: what to do, and who waits for an operator's word.
import { again, el, fill, get, head } from "/ui/dom.js";
import { status } from "/ui/status.js";
import { ago } from "/ui/words.js";

const REFRESH_MS = 3000;

export function joiningView(main, signal) {
  const waiting = el("div", {});
  main.replaceChildren(
    el("h1", {}, "Add a gateway"),
    el("ol", {},
      el("li", {}, "On this server, make a join string. It is good for one gateway, for a day:", el("pre", {}, "forebay-server token create")),
      el("li", {}, "On the gateway, hand it over. The key is made there and never leaves it:", el("pre", {}, "sudo -u forebay forebay-agent join 'fbj1.…'")),
      el("li", {}, "It shows a checklist, and then the gateway is in the fleet. What it collected before follows.")),
    el("p", { class: "quiet" }, "A string made with --approval lets a gateway in only when you have said so: it then waits below."),
    el("h2", {}, "Waiting for your word"), waiting);

  again(async () => {
    try {
      const told = await get("/api/v1/joining", signal);
      fill(waiting, told.waiting, () => table(told.waiting));
      status.good();
    } catch (error) {
      status.lost(error);
    }
  }, REFRESH_MS, signal);
}

function table(waiting) {
  if (!waiting.length) return el("p", { class: "quiet" }, "Nobody waits.");
  return [
    el("p", {}, "Compare the key with the one that ", el("code", {}, "forebay-agent join"), " shows on the gateway, then on this server: ",
      el("code", {}, "forebay-server agents approve NUMBER"), " or ", el("code", {}, "reject NUMBER"), "."),
    el("div", { class: "wide" }, el("table", { class: "waiting" },
      el("thead", {}, el("tr", {}, head("Number", "number"), head("Gateway"), head("Key"), head("From"), head("Last asked"), head("State"))),
      el("tbody", {}, ...waiting.map(row)))),
  ];
}

function row({ number, agent, key, from, last_asked: asked, approved, replaces, note }) {
  const state = approved ? "approved, comes when it asks again" : replaces ? "◆ takes the place of the gateway of this name" : "waits";
  return el("tr", {}, el("td", { class: "number" }, String(number)), el("td", {}, agent, note ? el("small", {}, note) : null),
    el("td", {}, el("code", {}, key)), el("td", {}, from), el("td", {}, ago(asked)), el("td", { class: replaces && !approved ? "odd" : null }, state));
}

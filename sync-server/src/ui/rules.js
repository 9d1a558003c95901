// What alarms are raised for: the rules that stand for the reader's tenant, in words. They stand in the server's
// configuration and are only read here.
import { el, get, head } from "/ui/dom.js";
import { count } from "/ui/words.js";

/** Shows them in a node, as they are now. */
export async function showRules(node, signal) {
  try {
    const { rules } = await get("/api/v1/alarms/rules", signal);
    node.replaceChildren(...shown(rules));
  } catch (error) {
    if (!signal.aborted) node.replaceChildren(el("p", { class: "bad", role: "alert" }, `▲ ${error.message}`));
  }
}

function shown(rules) {
  const own = rules.filter(({ from }) => from === "configuration").length;
  const words = `${count(rules.length, "rule")}, ${own ? `${own} of them` : "none of them"} written in the server's configuration (`;
  return [
    el("p", { class: "quiet" }, words, el("code", {}, "[alarm.NAME]"), " in ", el("code", {}, "server.toml"), "); the others stand by themselves."),
    el("div", { class: "wide" }, el("table", {},
      el("thead", {}, el("tr", {}, head("Rule"), head("An alarm is raised when"), head("Looks at", "more"), head("Priority", "more"))),
      el("tbody", {}, ...rules.map(row)))),
  ];
}

function row(rule) {
  return el("tr", {}, el("th", { scope: "row" }, rule.name, el("small", {}, rule.from === "usual" ? "stands by itself" : "configured")),
    el("td", {}, rule.words), el("td", { class: "more" }, sight(rule), ...(rule.points ? [el("small", {}, rule.points.join(", "))] : [])),
    el("td", { class: rule.priority === "high" ? "more strong" : "more quiet" }, rule.priority));
}

function sight({ agents }) {
  return agents.includes("*/*") ? "all gateways" : agents.join(", ");
}

// "Why is it offline?" in plain words, from what the server knows: last heartbeat, the last word of trouble,
// clock, certificate, and how the other gateways of the site are.
import { el } from "/ui/dom.js";
import { ago, bytes, clock, count, number, off, prose, span } from "/ui/words.js";

/** Sentences about a silent agent, the likeliest cause first. Pure: everything comes in as the API tells it. */
export function whySilent(agent, agents, now = Date.now()) {
  const seen = Date.parse(agent.last_seen);
  const words = [];
  if (agent.refused && Date.parse(agent.refused.time) >= seen) words.push(`It does reach the server, and was sent away ${ago(agent.refused.time)}: ${agent.refused.words}.`);
  const mates = agents.filter((other) => other.site === agent.site && other.agent !== agent.agent && ["online", "silent"].includes(other.state));
  const silent = mates.filter((other) => other.state === "silent");
  const together = silent.filter((other) => Math.abs(Date.parse(other.last_seen) - seen) < 300e3);
  const until = agent.certificate_valid_until ? Date.parse(agent.certificate_valid_until) : null;
  if (until !== null && until < now) words.push(`Its certificate ended ${clock(until)}. An agent renews it by itself as soon as it reaches the server; if it does not, join it again with a new join string.`);
  if (mates.length && together.length === mates.length) words.push(`${mates.length === 1 ? "The other gateway" : mates.length === 2 ? "Both other gateways" : `All ${mates.length} other gateways`} of ${agent.site} fell silent within five minutes of it: look at the uplink and the power of the site first.`);
  else if (mates.length && !silent.length) words.push(`${mates.length === 1 ? "The other gateway" : `The ${mates.length} other gateways`} of ${agent.site} ${mates.length === 1 ? "is" : "are"} online, so the site's uplink works: look at this gateway, its power and its own network.`);
  else if (mates.length) words.push(`Of ${count(mates.length, "other gateway")} of ${agent.site} ${silent.length} ${silent.length === 1 ? "is" : "are"} silent too.`);
  else words.push(`It is the only gateway of ${agent.site}: the uplink, the power or the gateway itself.`);
  const { backlog, clock: own } = agent;
  const full = backlog.limit_bytes && backlog.bytes / backlog.limit_bytes;
  if (backlog.readings) words.push(`${number(backlog.readings)} readings (${bytes(backlog.bytes)}) waited in it when it was last heard: its link was slow or broken before${full > 0.8 ? ", and its buffer is nearly full" : ""}.`);
  const stopped = agent.devices.length > 0 && agent.devices.every((device) => device.words === "the agent is stopping");
  if (stopped) words.unshift("Its last word was that the agent is stopping: somebody stopped it, or the gateway was shut down.");
  const trouble = stopped ? null : agent.devices.find((device) => !device.answers);
  if (trouble) words.push(`The last trouble it told of: ${trouble.device} on ${trouble.link}: ${trouble.words || "does not answer"}. That alone does not make it silent.`);
  if (own.offset_ms !== null && Math.abs(own.offset_ms) > 60e3) words.push(`Its clock was ${off(own.offset_ms)}. A wrong clock alone does not keep it from connecting.`);
  if (until !== null && until >= now) words.push(`Its certificate is good until ${agent.certificate_valid_until.slice(0, 10)}, so that is not the reason.`);
  if (agent.uptime_s !== null && agent.uptime_s < 600) words.push(`It had been running for ${span(agent.uptime_s)} only: it may start again and again.`);
  return words;
}

export function whyPanel(agent, agents) {
  if (agent.state !== "silent") return [];
  return [el("h2", {}, "Why is it offline?"),
    el("p", {}, `The last heartbeat came ${clock(agent.last_seen)}, ${ago(agent.last_seen)}. What the server knows:`),
    el("ul", { class: "why" }, ...whySilent(agent, agents).map((words) => el("li", {}, words))),
    el("p", { class: "quiet" }, ...prose("On the gateway, `forebay-agent doctor` tries everything it needs and names remedies."))];
}

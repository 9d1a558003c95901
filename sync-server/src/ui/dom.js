// Building elements, fetching, and writing numbers, times and states for people.

/** An element with attributes (functions become listeners) and children (strings become text). */
export function el(name, attributes = {}, ...children) {
  const svg = ["svg", "path"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** JSON of an address; a problem+json answer becomes an Error with its words. */
export async function get(address) {
  const answer = await fetch(address, { headers: { accept: "application/json" } });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.detail ? `${body.title}: ${body.detail}` : `${address} answered ${answer.status}`);
  return body;
}

export function problem(main, error) {
  main.replaceChildren(el("p", { class: "bad", role: "alert" }, `▲ ${error.message}`));
}

export function number(value) {
  if (typeof value !== "number") return value === null || value === undefined ? "–" : String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return value.toLocaleString("en", { maximumSignificantDigits: 7 });
}

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${unit ? n.toFixed(1) : n} ${units[unit]}`;
}

/** "3 s ago"; the full time stands in the title. */
export function ago(time) {
  if (!time) return el("span", { class: "quiet" }, "never");
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  const words = seconds < 2 ? "now" : seconds < 120 ? `${Math.round(seconds)} s ago`
    : seconds < 7200 ? `${Math.round(seconds / 60)} min ago` : seconds < 172800 ? `${Math.round(seconds / 3600)} h ago`
    : `${Math.round(seconds / 86400)} days ago`;
  return el("time", { datetime: time, title: new Date(time).toLocaleString() }, words);
}

/** State by shape and word; colour only where something is wrong. */
export function state(word) {
  const shapes = { online: ["●", ""], silent: ["▲", "bad"], revoked: ["■", "odd"], "never seen": ["○", "quiet"] };
  const [shape, colour] = shapes[word] ?? ["?", "odd"];
  return el("span", { class: colour }, `${shape} ${word}`);
}

export function quality(word, words) {
  if (word === "good") return el("span", { class: "quiet" }, "good");
  return el("span", { class: word === "bad" ? "bad" : "odd", title: words ?? "" }, `${word === "bad" ? "▲" : "◆"} ${words ?? word}`);
}

// Building elements, changing only what changed, fetching, and looking again and again.

const SVG = new Set(["svg", "path", "rect", "line"]);

/** What is wider than its place is scrolled, by keyboard too: then, and only then, Tab leads to it. */
const scrolling = new ResizeObserver((seen) => {
  for (const node of new Set(seen.map(({ target }) => target.closest(".wide")))) {
    if (!node || node.dataset.focus === "own") continue;
    const scrolls = node.scrollWidth > node.clientWidth + 1 || node.scrollHeight > node.clientHeight + 1;
    if (scrolls) Object.entries({ tabindex: "0", role: "region", "aria-label": node.getAttribute("aria-label") ?? "Table" }).forEach(([key, value]) => node.setAttribute(key, value));
    else ["tabindex", "role"].forEach((key) => node.removeAttribute(key));
  }
});

/** An element with attributes (functions become listeners) and children (strings become text). */
export function el(name, attributes = {}, ...children) {
  const node = SVG.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  if (/^wide\b/.test(attributes.class ?? "")) { scrolling.observe(node); for (const child of node.children) scrolling.observe(child); }
  return node;
}

/** A heading of a table column; `kind` is "number" where numbers stand below it. */
export function head(words, kind = "") {
  return el("th", { scope: "col", class: kind || null }, words);
}

/** Puts words into a node if others stand there: nothing else is painted, nothing loses the focus. */
export function say(node, words, kind) {
  if (node.textContent !== words) node.textContent = words;
  if (kind !== undefined && node.className !== kind) node.className = kind;
}

/** Puts children into a node if what they are made of has changed. */
export function fill(node, key, make) {
  const is = JSON.stringify(key);
  if (node.madeOf === is) return;
  node.madeOf = is;
  node.replaceChildren(...[make()].flat());
}

/** JSON of an address. A problem+json answer becomes an Error with its words and its status. */
export async function get(address, signal) {
  const answer = await fetch(address, { headers: { accept: "application/json" }, signal });
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const words = body.detail ? `${body.title}: ${body.detail}` : `${address} answered ${answer.status}`;
  throw Object.assign(new Error(words), { status: answer.status });
}

/** Does `look` now and every `ms` after its end, until the signal; not while nobody sees the page. */
export function again(look, ms, signal) {
  let timer = null;
  async function round() {
    clearTimeout(timer);
    if (signal.aborted) return;
    if (!document.hidden) await look();
    if (!signal.aborted) timer = setTimeout(round, ms);
  }
  signal.addEventListener("abort", () => clearTimeout(timer));
  document.addEventListener("visibilitychange", () => { if (!document.hidden) round(); }, { signal });
  round();
}

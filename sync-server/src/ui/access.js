// Who looks at the page: known at its start, told in the header, and asked for when the server does not
// know any more. Whoever fetches tells of a 401 with the event "forebay-unknown" (see dom.js).
import { el, get } from "/ui/dom.js";
import { loginView, setupView } from "/ui/login.js";
import { settingsView } from "/ui/settings.js";

const who = el("span", { id: "who" });
document.getElementById("status").after(who);
let back = "#/";

export const session = {
  /** What /api/v1/me says; null while nobody knows. */
  me: null,
  may: (right) => session.me?.rights.includes(right) ?? false,
};

/** A change. A problem+json answer becomes an Error with its words and its status. */
export async function send(method, address, body) {
  const headers = { "x-forebay": "1", accept: "application/json", ...(body === undefined ? {} : { "content-type": "application/json" }) };
  const answer = await fetch(address, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const told = await answer.json().catch(() => ({}));
  if (answer.ok) return told;
  if (answer.status === 401 && !/\/(login|setup)$/.test(address)) dispatchEvent(new Event("forebay-unknown"));
  throw Object.assign(new Error(told.detail ?? `The server answered ${answer.status}.`), { status: answer.status });
}

/** Finds out who looks, and says so. */
export async function know() {
  session.me = await get("/api/v1/me").catch(() => null);
  const { me } = session;
  if (me === null) return null;
  const settings = el("a", { href: "#/settings" }, "Settings");
  if (me.kind === "open") who.replaceChildren(settings);
  else who.replaceChildren(el("span", { class: "quiet" }, me.tenant ? `${me.name} (${me.tenant})` : me.name), settings, el("button", { type: "button", click: leave }, "Log out"));
  return me;
}

async function leave() {
  // Whatever the server says, this browser shows nothing more.
  await send("POST", "/api/v1/logout").catch(() => {});
  forget();
}

/** Nothing of what was known stays on the screen for the next one who looks. */
function forget() {
  session.me = null;
  who.replaceChildren();
  document.getElementById("store").textContent = "";
  location.hash = "#/login";
}

/** After a log-in: to where one wanted to go. */
export async function welcome() {
  await know();
  const wanted = back;
  back = "#/";
  location.replace(wanted);
}

addEventListener("forebay-unknown", () => {
  if (/^#\/(login|setup)/.test(location.hash)) return;
  back = location.hash || "#/";
  forget();
});

/** Shows what has to do with access, if that is asked for: the title of it, else null. */
export function accessView(main, place, rest, signal) {
  if (place === "login") { loginView(main, signal); return "Log in"; }
  if (place === "setup") { setupView(main, rest, signal); return "First user"; }
  if (place === "settings") { settingsView(main, signal); return "Settings"; }
  return null;
}

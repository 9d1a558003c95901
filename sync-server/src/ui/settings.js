// Settings: one's own password; for admins users, API keys, and the audit of every change; what the server is.
import { know, send, session } from "/ui/access.js";
import { el, get, head, say } from "/ui/dom.js";
import { field, form, sentence } from "/ui/login.js";
import { status } from "/ui/status.js";
import { ago, bytes, clock, NOTHING, span } from "/ui/words.js";

const ROLES = [["viewer", "Viewer: looks"], ["operator", "Operator: runs the plant"], ["admin", "Admin: says who may"]];
const RIGHTS = [["read", "Read"], ["metrics", "Metrics"], ["operate", "Operate"], ["manage", "Manage"]];
const LIVES = [["2592000", "30 days"], ["7776000", "90 days"], ["31536000", "A year"], ["157680000", "5 years"]];

export async function settingsView(main, signal) {
  main.replaceChildren(el("h1", {}, "Settings"), el("p", { class: "quiet" }, "Loading …"));
  const me = await know();
  if (signal.aborted || !me) return;
  status.good();
  const parts = [];
  if (me.kind === "open") parts.push(...openWords());
  if (me.kind === "user") parts.push(passwordPart(me));
  if (session.may("manage")) {
    const audit = auditPart(signal);
    parts.push(usersPart(me, audit.load, signal), keysPart(audit.load, signal), audit.node);
  } else if (me.kind === "user") {
    parts.push(el("p", { class: "quiet" }, "Users, API keys and the audit are for admins."));
  }
  parts.push(serverPart(signal));
  const as = me.kind === "user" ? [el("p", { class: "quiet" }, `Logged in as ${me.name}, ${me.role}.`)] : [];
  main.replaceChildren(el("h1", {}, "Settings"), ...as, ...parts);
}

function openWords() {
  return [
    el("h2", {}, "There are no users yet"),
    el("p", {}, "Until the first one is made, everybody on this machine sees this page, and nobody elsewhere. Make an admin on the server:"),
    el("pre", {}, "forebay-server user add NAME --role admin"),
    el("p", { class: "quiet" }, "Or follow the link that the server printed when it was started."),
  ];
}

function section(title, ...children) {
  const id = title.toLowerCase().replace(/\W+/g, "-");
  return el("section", { "aria-labelledby": id }, el("h2", { id }, title), ...children);
}

/** Says what was done, where it was done. */
export function notice() {
  const node = el("p", { role: "status", class: "quiet done" });
  return { node, say: (words) => say(node, words, "quiet done"), fail: (error) => say(node, `▲ ${sentence(error.message)}`, "bad done") };
}

function passwordPart(me) {
  const name = el("input", { type: "text", autocomplete: "username", value: me.name, hidden: "" });
  const old = field("Present password", { type: "password", autocomplete: "current-password", required: "" });
  const next = field("New password", { type: "password", autocomplete: "new-password", required: "" }, "10 characters at least");
  const again = field("New password once more", { type: "password", autocomplete: "new-password", required: "" });
  const told = notice();
  const node = form([old, next, again], "Change password", async () => {
    told.say("");
    if (next.input.value !== again.input.value) throw new Error("The two new passwords are not the same.");
    await send("POST", "/api/v1/password", { old: old.input.value, new: next.input.value });
    for (const { input } of [old, next, again]) input.value = "";
    told.say("Changed. Wherever else you were logged in, you are not any more.");
  });
  node.prepend(name);
  return section("Your password", el("details", {}, el("summary", {}, "Change it"), node), told.node);
}

/** A button that asks once more, in its own place, before it does something that cannot be undone. */
export function sure(words, question, act, kind = "bad") {
  const first = el("button", { type: "button", click: () => { node.replaceChildren(ask); yes.focus(); } }, words);
  const yes = el("button", { type: "button", class: kind, click: act }, question);
  const no = el("button", { type: "button", click: () => { node.replaceChildren(first); first.focus(); } }, "Keep");
  const ask = el("span", { class: "sure", keydown: (event) => { if (event.key === "Escape") no.click(); } }, yes, no);
  const node = el("span", {}, first);
  return node;
}

function usersPart(me, changed, signal) {
  const told = notice();
  const body = el("tbody");
  const load = async () => {
    try {
      const { users } = await get("/api/v1/users", signal);
      body.replaceChildren(...users.map(row));
    } catch (error) { if (!signal.aborted) told.fail(error); }
  };
  const doing = async (words, act) => {
    try { await act(); told.say(words); } catch (error) { told.fail(error); }
    await load();
    changed();
  };
  const row = (user) => {
    const own = user.name === me.name;
    const role = el("select", { "aria-label": `Role of ${user.name}`, change: () => doing(`${user.name} is ${role.value} now.`, () => send("PATCH", `/api/v1/users/${user.id}`, { role: role.value })) },
      ...ROLES.map(([value]) => el("option", { value }, value)));
    role.value = user.role;
    return el("tr", {}, el("th", { scope: "row" }, user.name, own ? el("small", {}, "you") : null), el("td", {}, own ? user.role : role),
      el("td", { class: "more steady" }, user.created.slice(0, 10)), el("td", { class: "more steady" }, user.logged_in ? ago(user.logged_in) : "never"),
      el("td", { class: "acts" }, own ? null : resetting(user, doing), own ? null
        : sure("Remove", `Remove ${user.name}`, () => doing(`${user.name} is gone.`, () => send("DELETE", `/api/v1/users/${user.id}`)))));
  };
  const name = field("Name", { type: "text", autocomplete: "off", autocapitalize: "none", spellcheck: "false", required: "" });
  const role = field("Role", { options: ROLES });
  const password = field("Password", { type: "password", autocomplete: "new-password", required: "" }, "10 characters at least");
  const add = form([name, role, password], "Add user", async () => {
    const made = await send("POST", "/api/v1/users", { name: name.input.value.trim(), role: role.input.value, password: password.input.value });
    name.input.value = password.input.value = "";
    name.input.focus();
    told.say(`${made.name} may log in, as ${made.role}.`);
    await load();
    changed();
  });
  load();
  return section("Users",
    el("div", { class: "wide" }, el("table", { class: "users" },
      el("thead", {}, el("tr", {}, head("Name"), head("Role"), head("Since", "more"), head("Logged in", "more"), el("th", { scope: "col", class: "acts" }, el("span", { class: "unseen" }, "What can be done")))), body)),
    told.node, el("details", {}, el("summary", {}, "Add a user"), add));
}

/** Another password for somebody who forgot it. */
function resetting(user, doing) {
  const input = el("input", { type: "password", autocomplete: "new-password", "aria-label": `New password for ${user.name}`, placeholder: "New password" });
  const set = () => doing(`${user.name} has another password; wherever ${user.name} was logged in, it is over.`, () => send("PATCH", `/api/v1/users/${user.id}`, { password: input.value }));
  const first = el("button", { type: "button", click: () => { node.replaceChildren(ask); input.focus(); } }, "Set password");
  const no = el("button", { type: "button", click: () => { input.value = ""; node.replaceChildren(first); first.focus(); } }, "Keep");
  const ask = el("span", { class: "sure", keydown: (event) => { if (event.key === "Enter" && event.target === input) set(); if (event.key === "Escape") no.click(); } },
    input, el("button", { type: "button", click: set }, "Set"), no);
  const node = el("span", {}, first);
  return node;
}

function keysPart(changed, signal) {
  const told = notice();
  const shown = el("div", { "aria-live": "polite" });
  const body = el("tbody");
  const none = el("p", { class: "quiet", hidden: "" }, "None yet. Programs that read the API or /metrics need one.");
  const table = el("div", { class: "wide" }, el("table", { class: "keys" },
    el("thead", {}, el("tr", {}, head("Name"), head("Begins with", "more"), head("May"), head("Until"), head("Used", "more"), head("Made by", "more"), el("th", { scope: "col", class: "acts" }, el("span", { class: "unseen" }, "What can be done")))), body));
  const load = async () => {
    try {
      const { keys } = await get("/api/v1/keys", signal);
      body.replaceChildren(...keys.map(row));
      table.hidden = !keys.length;
      none.hidden = keys.length > 0;
    } catch (error) { if (!signal.aborted) told.fail(error); }
  };
  const row = (key) => el("tr", {}, el("th", { scope: "row" }, key.name), el("td", { class: "more" }, el("code", {}, `${key.begins}…`)), el("td", {}, key.rights.join(", ")),
    el("td", { class: key.expired ? "steady odd" : "steady" }, key.expired ? `◆ ${key.expires.slice(0, 10)}, expired` : key.expires.slice(0, 10)),
    el("td", { class: "more steady" }, key.used ? ago(key.used) : "never"), el("td", { class: "more" }, key.maker),
    el("td", { class: "acts" }, sure("Remove", `Remove ${key.name}`, async () => {
      try { await send("DELETE", `/api/v1/keys/${key.id}`); told.say(`${key.name} is good for nothing from now on.`); } catch (error) { told.fail(error); }
      await load();
      changed();
    })));
  const name = field("Name", { type: "text", autocomplete: "off", required: "" }, "What uses it: grafana, prometheus, the shift report");
  const boxes = RIGHTS.filter(([right]) => session.may(right)).map(([value, words]) => [value, el("input", { type: "checkbox", value, ...(value === "read" ? { checked: "" } : {}) }), words]);
  const life = field("Good for", { options: LIVES });
  life.input.value = "31536000";
  const rights = el("fieldset", {}, el("legend", {}, "May"), ...boxes.map(([, box, words]) => el("label", {}, box, words)));
  const add = form([name, { input: rights, node: rights }, life], "Make key", async () => {
    const may = boxes.filter(([, box]) => box.checked).map(([value]) => value);
    const made = await send("POST", "/api/v1/keys", { name: name.input.value.trim(), rights: may, expires_s: Number(life.input.value) });
    name.input.value = "";
    show(made);
    await load();
    changed();
  });
  const show = ({ name: of, key }) => {
    const copied = el("span", { class: "quiet", role: "status" });
    const text = el("code", { class: "secret", tabindex: "0", "aria-label": `The key ${of}` }, key);
    const copy = el("button", { type: "button", click: async () => {
      // Without TLS a browser hands out no clipboard: then the key is selected, to be copied by hand.
      try { await navigator.clipboard.writeText(key); say(copied, "copied"); } catch { getSelection().selectAllChildren(text); say(copied, "selected: copy it by hand"); }
    } }, "Copy");
    shown.replaceChildren(el("div", { class: "made" }, el("p", {}, `The key “${of}”. It is shown this once: the server keeps no copy of it.`), el("p", { class: "line" }, text, copy, copied)));
  };
  load();
  return section("API keys", table, none, told.node, shown, el("details", {}, el("summary", {}, "Make a key"), add));
}

function auditPart(signal) {
  const body = el("tbody");
  const wrong = notice();
  let next = null;
  const page = async (anew) => {
    try {
      const { entries, next: after } = await get(`/api/v1/audit?limit=20${anew || next === null ? "" : `&before=${next}`}`, signal);
      if (anew) body.replaceChildren();
      body.append(...entries.map(row));
      next = after;
      more.hidden = next === null;
    } catch (error) { if (!signal.aborted) wrong.fail(error); }
  };
  const row = (entry) => el("tr", {}, el("td", { class: "steady" }, clock(entry.time)), el("td", {}, entry.who, entry.from ? el("small", {}, entry.from) : null),
    el("td", {}, entry.action), el("td", {}, entry.subject ?? NOTHING), el("td", { class: "more" }, turned(entry)));
  const turned = ({ was, became }) => (was && became ? `${was} → ${became}` : was ? `was ${was}` : became ?? NOTHING);
  const more = el("button", { type: "button", hidden: "", click: () => page(false) }, "Show more");
  page(true);
  const node = section("Audit", el("div", { class: "wide" }, el("table", { class: "audit" },
    el("thead", {}, el("tr", {}, head("When"), head("Who"), head("What"), head("Of"), head("Change", "more"))), body)), more, wrong.node);
  return { node, load: () => page(true) };
}

/** What the configuration file and the database say; nothing here is changed on the page. */
function serverPart(signal) {
  const facts = el("dl", { class: "roomy" });
  const kept = el("div");
  const words = el("p", { class: "quiet" });
  const node = section("This server", facts, kept, words);
  get("/api/v1/server", signal).then(({ version, store, retention }) => {
    const all = [["Version", version], ...(store ? [["Store", store.words], ["Size on the disk", bytes(store.bytes)]] : [])];
    facts.replaceChildren(...all.map(([title, value]) => el("div", {}, el("dt", {}, title), el("dd", {}, value))));
    if (!store) { say(words, "Store and retention are those of whoever runs this server."); return; }
    const column = ["readings", "minutes", "hours", "days"];
    const life = (seconds) => (seconds === null ? "for ever" : span(seconds));
    const row = (name, of) => el("tr", {}, el("th", { scope: "row" }, name, of.points ? el("small", {}, of.points.join(", ")) : null), ...column.map((key) => el("td", {}, life(of[key]))));
    kept.replaceChildren(el("h3", {}, "What is kept, and how long"), el("div", { class: "wide" }, el("table", { class: "kept" },
      el("thead", {}, el("tr", {}, head("Points"), head("Readings"), head("Rollups of a minute"), head("of an hour"), head("of a day"))),
      el("tbody", {}, ...retention.classes.map((of) => row(of.name, of)), row(retention.classes.length ? "All others" : "All", retention)))));
    say(words, `${store.gives.charAt(0).toUpperCase()}${store.gives.slice(1)}. Retention stands in the server's configuration file, under [retention].`);
  }, (error) => { if (!signal.aborted) say(words, `▲ ${sentence(error.message)}`, "bad"); });
  return node;
}

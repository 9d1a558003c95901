// Add a gateway: a join string with its picture, what to do with it, and who waits for an operator's word.
import { know, send, session } from "/ui/access.js";
import { again, el, fill, get, head } from "/ui/dom.js";
import { field, form } from "/ui/login.js";
import { notice, sure } from "/ui/settings.js";
import { status } from "/ui/status.js";
import { ago, clock, count } from "/ui/words.js";

const REFRESH_MS = 3000;
const LIVES = [["3600", "1 hour"], ["86400", "1 day"], ["604800", "7 days"], ["2592000", "30 days"]];
/** Around a code nothing may stand, four modules wide. */
const QUIET_ZONE = 4;

export async function joiningView(main, signal) {
  const first = el("div", {});
  const waiting = el("div", {});
  const told = notice();
  main.replaceChildren(el("h1", {}, "Add a gateway"), first, el("h2", {}, "Waiting for your word"), told.node, waiting);

  async function look() {
    // Nobody's question is written over.
    if (waiting.querySelector(".sure")) return;
    try {
      const now = await get("/api/v1/joining", signal);
      fill(waiting, now.waiting, () => table(now.waiting, decide));
      status.good();
    } catch (error) {
      if (error.status === 403) fill(waiting, "403", () => el("p", { class: "quiet" }, "Who waits is shown to operators and admins."));
      else status.lost(error);
    }
  }

  async function decide(one, word, reason) {
    try {
      await send("POST", `/api/v1/joining/${one.number}/${word}`, { agent: one.agent, ...(reason === undefined ? {} : { reason }) });
      told.say(word === "approve" ? `${one.agent} is approved, and comes in when it asks again, within a minute.` : `${one.agent} is turned away. Its join string is used up.`);
    } catch (error) { told.fail(error); }
    waiting.replaceChildren();
    waiting.madeOf = null;
    // The button is gone that had the focus.
    told.node.tabIndex = -1;
    told.node.focus();
    await look();
  }

  again(look, REFRESH_MS, signal);
  if (!session.me) await know();
  if (!signal.aborted) first.replaceChildren(...(session.may("manage") ? inviting() : byHand()));
}

function byHand() {
  return [el("ol", {},
    el("li", {}, "On this server, make a join string. It is good for one gateway, for a day:", el("pre", {}, "forebay-server token create")),
    el("li", {}, "On the gateway, hand it over. The key is made there and never leaves it:", el("pre", {}, "sudo -u forebay forebay-agent join 'fbj1.…'")),
    el("li", {}, "It shows a checklist, and then the gateway is in the fleet. What it collected before follows.")),
  el("p", { class: "quiet" }, "A string made with --approval lets a gateway in only when you have said so: it then waits below.")];
}

function inviting() {
  const note = field("Note", { type: "text", autocomplete: "off", maxlength: "200" }, "To know it again: boiler house, spare part 7. May be left out");
  const uses = field("Gateways", { type: "number", min: "1", max: "10000", step: "1", value: "1", required: "" }, "How many it lets in");
  const life = field("Good for", { options: LIVES });
  life.input.value = "86400";
  const approval = el("input", { type: "checkbox" });
  const approving = el("fieldset", {}, el("label", {}, approval, "Each waits for somebody's word, below"));
  const shown = el("div", { "aria-live": "polite" });
  const make = form([note, uses, life, { input: approval, node: approving }], "Make a join string", async () => {
    const made = await send("POST", "/api/v1/joining/tokens",
      { note: note.input.value.trim(), uses: Number(uses.input.value), expires_s: Number(life.input.value), approval: approval.checked });
    note.input.value = "";
    shown.replaceChildren(ticket(made));
    shown.scrollIntoView({ block: "nearest" });
  });
  return [
    el("p", {}, "Make a join string, and hand it over on the gateway. The gateway makes its own key, which never leaves it, shows a checklist, and is in the fleet. What it collected before follows."),
    el("div", { class: "beside-form" }, make, shown)];
}

function ticket({ command, expires, uses, approval, qr }) {
  const copied = el("span", { class: "quiet", role: "status" });
  const text = el("code", { class: "secret", tabindex: "0", "aria-label": "What to type on the gateway" }, command);
  const copy = el("button", { type: "button", click: async () => {
    // Without TLS a browser hands out no clipboard: then it is selected, to be copied by hand.
    try { await navigator.clipboard.writeText(command); copied.textContent = "copied"; } catch { getSelection().selectAllChildren(text); copied.textContent = "selected: copy it by hand"; }
  } }, "Copy");
  return el("div", { class: "made" },
    el("p", {}, `Type this on the gateway. It lets ${uses === 1 ? "one gateway" : count(uses, "gateway")} in until ${clock(expires, false)}${approval ? ", after your word" : ""}, and is shown this once.`),
    el("p", { class: "line" }, text, copy, copied),
    qr ? el("figure", { class: "code" }, picture(qr), el("figcaption", {}, "The same for the camera of a telephone at the gateway.")) : null);
}

function picture({ size, path }) {
  const all = size + 2 * QUIET_ZONE;
  return el("svg", { class: "qr", viewBox: `${-QUIET_ZONE} ${-QUIET_ZONE} ${all} ${all}`, role: "img", "aria-label": "QR code of the command above", "shape-rendering": "crispEdges" },
    el("rect", { x: -QUIET_ZONE, y: -QUIET_ZONE, width: all, height: all, class: "paper" }), el("path", { d: path }));
}

function table(waiting, decide) {
  if (!waiting.length) return el("p", { class: "quiet" }, "Nobody waits.");
  return [
    el("p", {}, "Compare the key with the one that ", el("code", {}, "forebay-agent join"), " shows on the gateway, and let it in only if they are the same."),
    el("div", { class: "wide" }, el("table", { class: "waiting" },
      el("thead", {}, el("tr", {}, head("Gateway"), head("Key"), head("From", "more"), head("Last asked", "more"), head("State"), el("th", { scope: "col", class: "acts" }, el("span", { class: "unseen" }, "What can be done")))),
      el("tbody", {}, ...waiting.map((one) => row(one, decide))))),
  ];
}

function row(one, decide) {
  const { agent, key, from, last_asked: asked, approved, replaces, note } = one;
  const state = approved ? "approved, comes when it asks again" : replaces ? "◆ takes the place of the gateway of this name" : "waits";
  return el("tr", {}, el("th", { scope: "row" }, agent, note ? el("small", {}, note) : null),
    el("td", {}, el("code", {}, key)), el("td", { class: "more" }, from), el("td", { class: "more" }, ago(asked)), el("td", { class: replaces && !approved ? "odd" : null }, state),
    el("td", { class: "acts" }, approved ? null : sure("Approve", `Approve ${agent}, key ${key}`, () => decide(one, "approve"), "go"), rejecting(one, decide)));
}

/** A reason is asked for where the button was; Enter sends it, Escape takes it back. */
function rejecting(one, decide) {
  const input = el("input", { type: "text", maxlength: "200", "aria-label": `Why ${one.agent} is turned away`, placeholder: "Why? The gateway is told" });
  const first = el("button", { type: "button", "aria-label": `Reject ${one.agent}`, click: () => { node.replaceChildren(ask); input.focus(); } }, "Reject");
  const yes = el("button", { type: "button", class: "bad", click: () => decide(one, "reject", input.value.trim()) }, `Turn ${one.agent} away`);
  const no = el("button", { type: "button", click: () => { input.value = ""; node.replaceChildren(first); first.focus(); } }, "Keep");
  const ask = el("span", { class: "sure", keydown: (event) => { if (event.key === "Enter" && event.target === input) yes.click(); if (event.key === "Escape") no.click(); } }, input, yes, no);
  const node = el("span", {}, first);
  return node;
}

// Alarms: what stands, who took notice, what is over. A row is written again only where it has changed, so
// that a form somebody writes in stays.
import { send } from "/ui/access.js";
import { again, el, fill, get, head, say } from "/ui/dom.js";
import { status } from "/ui/status.js";
import { clock, count, prose, span, timed } from "/ui/words.js";

const REFRESH_MS = 10_000;
const LIMIT = 100;
const VIEWS = [["Standing", "active,acknowledged"], ["Cleared", "cleared"], ["All", "active,acknowledged,cleared"]];
const STATES = { active: ["▲", "bad"], acknowledged: ["◆", "odd"], cleared: ["○", "quiet"] };

export function alarmsView(main, signal) {
  let view = VIEWS[0][1];
  let shown = new Map(); // id -> { alarm, row }
  let next = null;
  const summary = el("p", { class: "quiet", role: "status" }, " ");
  const views = VIEWS.map(([words, states]) => el("button", { type: "button", "aria-pressed": String(states === view), click: () => pick(states) }, words));
  const body = el("tbody");
  const table = el("div", { class: "wide", hidden: "" }, el("table", { class: "alarms" },
    el("thead", {}, el("tr", {}, head("State"), head("What"), head("Site", "more"), head("Priority", "more"), head("Since"), el("td"))), body));
  const none = el("p", { class: "quiet", hidden: "" });
  const more = el("button", { type: "button", hidden: "", click: () => load(true) }, "Show more");
  const ruled = el("div", {}, el("p", { class: "quiet" }, "Loading …"));
  const rules = el("details", { class: "rules", toggle: () => rules.open && import("/ui/rules.js").then(({ showRules }) => showRules(ruled, signal), status.lost) }, el("summary", {}, "What is looked after"), ruled);
  main.replaceChildren(el("h1", {}, "Alarms"), el("div", { class: "bar" }, summary, el("div", { class: "ranges", role: "group", "aria-label": "Which alarms" }, ...views)), table, none, more, rules);

  function pick(states) {
    view = states;
    VIEWS.forEach(([, of], place) => views[place].setAttribute("aria-pressed", String(of === view)));
    shown.clear();
    body.replaceChildren();
    load();
  }

  async function load(further = false) {
    const asked = view;
    try {
      const page = await get(`/api/v1/alarms?${new URLSearchParams({ state: view, limit: LIMIT, ...(further && next ? { after: next } : {}) })}`, signal);
      if (asked !== view) return;
      if (!further) for (const [id, { row, isOpen }] of shown) if (!page.alarms.some((alarm) => alarm.id === id) && !isOpen?.()) { row.remove(); shown.delete(id); }
      page.alarms.forEach((alarm) => {
        const kept = shown.get(alarm.id) ?? add(alarm.id);
        write(kept, alarm);
      });
      // The newest first, and those that nobody took notice of before all.
      const rank = ({ alarm }) => [["active", "acknowledged", "cleared"].indexOf(alarm.state), -alarm.id];
      const rows = [...shown.values()].sort((a, b) => rank(a)[0] - rank(b)[0] || rank(a)[1] - rank(b)[1]);
      rows.forEach(({ row }, place) => { if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null); });
      if (further || !next) next = page.next;
      more.hidden = next === null;
      table.hidden = !shown.size;
      none.hidden = shown.size > 0;
      say(none, view === "cleared" ? "No alarm has cleared yet." : "● No alarm stands: everything that is looked after is as it should be.");
      say(summary, page.active + page.acknowledged ? `${page.active} active, ${page.acknowledged} acknowledged` : "\u00a0");
      status.good();
    } catch (error) { status.lost(error); }
  }

  function add(id) {
    const cells = ["state", "what", "more", "more", "steady since", "act"].map((kind) => el("td", { class: kind || null }));
    const kept = { row: el("tr", { "data-alarm": id }, ...cells), cells, form: null };
    shown.set(id, kept);
    return kept;
  }

  function write(kept, alarm) {
    kept.alarm = alarm;
    const [state, what, site, priority, since, act] = kept.cells;
    const [shape, kind] = STATES[alarm.state] ?? ["?", "odd"];
    fill(state, alarm.state, () => el("span", { class: kind }, `${shape} ${alarm.state}`));
    fill(what, [alarm.words, alarm.remedy, alarm.members, alarm.acknowledged, alarm.cleared], () => [
      el("p", { class: "words" }, timed(alarm.words)), alarm.cleared ? null : el("p", { class: "quiet" }, ...prose(alarm.remedy)), members(alarm),
      alarm.acknowledged ? el("p", { class: "quiet" }, `◆ Acknowledged ${clock(alarm.acknowledged.time)}${alarm.acknowledged.by ? ` by ${alarm.acknowledged.by}` : ""}${alarm.acknowledged.note ? `: ${alarm.acknowledged.note}` : "."}`) : null].filter(Boolean));
    say(site, alarm.site);
    fill(priority, alarm.priority, () => el("span", { class: alarm.priority === "high" && !alarm.cleared ? "strong" : "quiet" }, alarm.priority));
    const lasted = (Date.parse(alarm.cleared ?? new Date()) - Date.parse(alarm.raised)) / 1000;
    fill(since, [alarm.raised, alarm.cleared, span(lasted)], () => [clock(alarm.raised, false), el("small", {}, alarm.cleared ? `for ${span(lasted)}` : `${span(lasted)} ago`)]);
    if (!kept.form) fill(act, alarm.state, () => (alarm.state === "active" ? el("button", { type: "button", "aria-label": `Acknowledge: ${alarm.words}`, click: () => ask(kept) }, "Acknowledge") : ""));
  }

  /** The note is asked for where the button was; Enter sends it, Escape takes it back. */
  function ask(kept) {
    const [, , , , , act] = kept.cells;
    const note = el("input", { type: "text", maxlength: "1000", "aria-label": "Note", placeholder: "Note (may be left out)" });
    const problem = el("small", { class: "bad", role: "alert" });
    const close = () => { kept.form = null; act.madeOf = null; write(kept, kept.alarm); (act.querySelector("button") ?? views[0]).focus(); };
    kept.form = el("form", { class: "notice", submit: async (event) => {
      event.preventDefault();
      try {
        kept.alarm = await send("POST", `/api/v1/alarms/${kept.alarm.id}/acknowledge`, { note: note.value });
        close();
        document.dispatchEvent(new Event("alarms"));
        await load();
      } catch (error) { say(problem, error.status ? `▲ ${error.message}` : "▲ The server does not answer. Try again."); }
    }, keydown: (event) => { if (event.key === "Escape") close(); } }, note, el("span", {}, el("button", { type: "submit" }, "Acknowledge"), " ", el("button", { type: "button", click: close }, "Cancel")), problem);
    act.replaceChildren(kept.form);
    note.focus();
  }

  let source = null;
  const open = () => {
    if (document.hidden || signal.aborted) { source?.close(); source = null; return; }
    source ??= new EventSource("/api/v1/live?events=alarms");
    source.addEventListener("alarms", () => load());
  };
  document.addEventListener("visibilitychange", open, { signal });
  signal.addEventListener("abort", () => source?.close());
  open();
  again(() => load(), REFRESH_MS, signal);
}

function members(alarm) {
  if (alarm.members.length < 2) return null;
  return el("details", {}, el("summary", {}, count(alarm.members.length, "of them", "of them")),
    el("ul", {}, ...alarm.members.map((member) => el("li", {}, `${timed(member.words)}, since ${clock(member.since)}`))));
}

/** Keeps the number in the navigation, whatever page is shown. */
export function alarmCount(node, signal) {
  const look = async () => {
    try {
      const { active } = await get("/api/v1/alarms?limit=1", signal);
      say(node, active ? `▲ ${active}` : "", "bad");
      node.title = active ? `${count(active, "active alarm")}` : "";
    } catch { /* The page itself says that the server does not answer. */ }
  };
  document.addEventListener("alarms", look, { signal });
  again(look, 5000, signal);
}

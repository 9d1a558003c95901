// What is wrong with an agent, in plain words and with what to do; and the ledger that accounts for
// every reading, buffer by buffer.
import { el, head } from "/ui/dom.js";
import { ago, clock, number, NOTHING, prose, span } from "/ui/words.js";

/** Of faults that stand: an error or, once the server fills up again by itself, a notice. */
const SHAPES = { "server restored": ["◆", "odd"] };
const LOUD = ["▲", "bad"];

/** A fault in one line, for a table. */
export function faultMark(faults) {
  const [shape, kind] = faults.every((fault) => SHAPES[fault.kind]) ? SHAPES[faults[0].kind] : LOUD;
  const kinds = [...new Set(faults.map((fault) => fault.kind))];
  return el("small", { class: `fault ${kind}` }, `${shape} ${kinds.join(", ")}`);
}

/** Everything that stands, with what to do. */
export function faultList(faults) {
  return faults.map((fault) => {
    const [shape, kind] = SHAPES[fault.kind] ?? LOUD;
    return el("div", { class: "fault" },
      el("p", { class: kind }, `${shape} ${capital(fault.kind)}, since ${clock(fault.since)}. ${fault.words}`),
      el("p", {}, el("span", { class: "quiet" }, "What to do: "), ...prose(fault.remedy)));
  });
}

const VERDICTS = {
  closed: ["Closed: every reading is accounted for", "quiet"],
  doubtful: ["◆ Doubtful, the next report will tell", "odd"],
  open: ["▲ Open", "bad"],
  unreported: ["○ Not reported yet", "quiet"],
};

/** Buffers in use first; those that were replaced are history, and count as much. */
export function ledgerTables(buffers) {
  if (!buffers.length) return el("p", { class: "quiet" }, "Not reported yet.");
  const named = buffers.length > 1;
  return [...buffers].sort((a, b) => b.current - a.current).flatMap((buffer) => [
    named ? el("h3", {}, bufferName(buffer)) : null,
    verdict(buffer),
    buffer.produced === null ? null : equations(buffer),
  ]).filter(Boolean);
}

function bufferName({ epoch, fork, current, last_seen: seen }) {
  const what = fork ? `Copy ${fork} of buffer ${epoch.slice(0, 8)}` : `Buffer ${epoch.slice(0, 8)}`;
  return current ? `${what}, in use` : `${what}, last heard of ${ago(seen)}`;
}

function verdict({ verdict: word, words, reported }) {
  const [told, kind] = VERDICTS[word] ?? [word, "odd"];
  const when = reported ? ` As of ${clock(reported)}.` : "";
  return el("p", { class: kind }, told, words ? `: ${words}` : "", /\.$/.test(words || told) ? "" : ".", el("span", { class: "quiet" }, when));
}

/** What is left over in an equation was lost or doubled. */
function equations(buffer) {
  const equation = (sum, parts) => {
    const open = sum[1] - parts.reduce((total, [, n]) => total + n, 0);
    const cell = ([title, n]) => el("td", { class: "number" }, el("small", {}, title), number(n));
    const end = open === 0 ? el("td", { class: "quiet" }, "closes") : el("td", { class: "bad" }, `▲ open by ${number(Math.abs(open))}`);
    const signs = parts.flatMap((part, place) => [el("td", { class: "sign" }, place ? "+" : "="), cell(part)]);
    return el("tr", {}, cell(sum), ...signs, end);
  };
  const reasons = Object.entries(buffer.dropped_by).filter(([, n]) => n).map(([reason, n]) => `${number(n)} ${REASONS[reason]}`);
  const kept = `Stored here: ${number(buffer.stored)}${buffer.set_aside ? `, and ${number(buffer.set_aside)} set aside` : ""}.`;
  return el("div", {},
    el("div", { class: "wide" }, el("table", { class: "ledger" }, el("tbody", {},
      equation(["produced", buffer.produced], [["filtered", buffer.filtered], ["in hand", buffer.in_hand], ["appended", buffer.appended]]),
      equation(["appended", buffer.appended], [["dropped", buffer.dropped], ["acknowledged", buffer.acknowledged], ["backlog", buffer.backlog]])))),
    el("p", { class: "quiet" }, `Readings since the buffer began. ${kept}`, reasons.length ? ` Dropped: ${reasons.join(", ")}.` : ""));
}

const REASONS = { full: "for want of room", corrupt: "damaged", thinned: "thinned out", other: "for other reasons" };

/** Where readings are missing. */
export function gapTable(gaps, more) {
  if (!gaps.length) return el("p", { class: "quiet" }, "None.");
  const what = (gap) => (gap.name ? `${gap.device}/${gap.name}` : gap.device ?? "the whole gateway");
  const row = (gap) => el("tr", {},
    el("td", { class: "steady" }, clock(gap.from)), el("td", { class: "steady" }, clock(gap.to)),
    el("td", { class: "steady more" }, span((Date.parse(gap.to) - Date.parse(gap.from)) / 1000)),
    el("td", {}, what(gap)), el("td", { class: "number" }, gap.count === null ? NOTHING : number(gap.count)),
    el("td", {}, gap.words));
  // Latest first: that is what the reader came for.
  return [
    el("div", { class: "wide" }, el("table", { class: "gaps" },
      el("thead", {}, el("tr", {}, head("From"), head("To"), head("For", "more"), head("What"), head("Readings", "number"), head("Why"))),
      el("tbody", {}, ...gaps.map(row)))),
    more ? el("p", { class: "quiet" }, "There are more: the link above shows them all.") : null,
  ].filter(Boolean);
}

function capital(words) {
  return words.charAt(0).toUpperCase() + words.slice(1);
}

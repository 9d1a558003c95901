// Numbers, times, states and qualities as people read them. Colour only where something is wrong,
// and never colour alone: every state has its shape and its word.
import { el } from "/ui/dom.js";

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const MINUTE = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

export const NOTHING = "–";

/** 1234.5 as "1,234.5"; texts and booleans as they are; a dash for what is not known. */
export function number(value, decimals = 0) {
  if (value === null || value === undefined) return NOTHING;
  if (typeof value !== "number") return String(value);
  if (value !== 0 && (Math.abs(value) >= 1e15 || Math.abs(value) < 1e-6)) return value.toPrecision(6);
  const most = Math.max(decimals, Math.min(6, 7 - Math.ceil(Math.log10(Math.abs(value) + 1))), 0);
  return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: most });
}

/** Digits behind the point that a number is written with: what stands below it is written alike. */
export function decimals(value) {
  if (typeof value !== "number") return 0;
  return (number(value).split(".")[1] ?? "").length;
}

export function bytes(count) {
  if (count === null || count === undefined) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; count >= 1024 && unit < units.length - 1; unit += 1) count /= 1024;
  return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
}

/** Seconds as "4 min". */
export function span(seconds) {
  if (seconds < 120) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

/** A clock's difference in milliseconds as "4 min slow". */
export function off(ms) {
  return `${span(Math.abs(ms) / 1000)} ${ms < 0 ? "slow" : "fast"}`;
}

export function ago(time) {
  if (!time) return "never";
  const seconds = (Date.now() - Date.parse(time)) / 1000;
  return seconds < 5 ? "just now" : `${span(seconds)} ago`;
}

/** The time of day; the day too, if it is another one. */
export function clock(time, withSeconds = true) {
  const date = new Date(time);
  const day = date.toDateString() === new Date().toDateString() ? "" : `${DAY.format(date)} `;
  return day + (withSeconds ? TIME : MINUTE).format(date);
}

/** Words of the server, in which times are of UTC, with times as everywhere on the page. */
export function timed(words) {
  return words.replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, (time) => clock(time));
}

/** A name that may go on in the next line behind its `/`, `_`, `.` and `-`, where there is little room. */
export function breakable(name) {
  return name.split(/(?<=[/_.-])/).flatMap((part, place) => (place ? [el("wbr"), part] : [part]));
}

/** Words in which `code` stands between backquotes. */
export function prose(text) {
  return text.split("`").map((part, place) => (place % 2 ? el("code", {}, part) : part));
}

export function count(n, one, many = `${one}s`) {
  return `${number(n)} ${n === 1 ? one : many}`;
}

/** What the words "lag" and "today" mean here. */
export const LAG = "Age of the newest stored reading by its own time: how far what is stored is behind";
export const BYTES_TODAY = "Bodies of its requests since midnight UTC, as they came";

/** How far what is stored of an agent is behind. */
export function lag({ lag_s: seconds }) {
  return seconds === null ? NOTHING : span(seconds);
}

/** What becomes of a backlog, and the class of the words. */
export function drain({ trend, drain_s: seconds }) {
  if (trend === "grows") return ["◆ growing", "odd"];
  return trend === "shrinks" ? [`${span(seconds)} to go`, ""] : ["", ""];
}

const EXPIRES_SOON_DAYS = 30;

/** How long a certificate lasts, and the classes of the words. */
export function certificate({ certificate_days: days }) {
  if (days === null) return [NOTHING, "more quiet"];
  if (days < 0) return ["▲ expired", "more steady bad"];
  const words = days ? count(days, "day") : "today";
  return days < EXPIRES_SOON_DAYS ? [`◆ ${words}`, "more steady odd"] : [words, "more steady"];
}

const STATES = { online: ["●", ""], silent: ["▲", "bad"], revoked: ["■", "odd"], "never seen": ["○", "quiet"] };

export function state(word) {
  const [shape, kind] = STATES[word] ?? ["?", "odd"];
  return el("span", { class: `state ${kind}` }, `${shape} ${word}`);
}

/** `words` as the API says them: the class, and after a colon the reason. */
export function quality(words) {
  const [kind, reason] = words.split(/: (.*)/);
  if (kind === "good") return el("span", { class: "quiet" }, "good");
  const [shape, colour] = kind === "bad" ? ["▲", "bad"] : ["◆", "odd"];
  return el("span", { class: colour }, `${shape} ${kind}`, reason ? el("small", {}, reason) : null);
}

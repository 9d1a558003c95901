// The word at the top right: is what stands here up to date? Changes only when that changes, so that
// a screen reader tells it once.
import { say } from "/ui/dom.js";
import { clock } from "/ui/words.js";

const node = document.getElementById("status");
let since = null;

export const status = {
  /** Nothing here comes and goes with the server. */
  none() {
    since = null;
    say(node, "", "quiet");
  },
  good() {
    since = null;
    say(node, "● up to date", "quiet");
  },
  /** The server gave no answer, or a bad one: what is shown is from before. */
  lost(error) {
    if (error?.name === "AbortError") return;
    since ??= new Date();
    const why = error?.status ? error.message : "The server does not answer.";
    say(node, `▲ Not up to date since ${clock(since)}. ${why} Trying again …`, "bad");
  },
};

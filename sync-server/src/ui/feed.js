// The live feed of one agent. It rests while nobody sees the page: a browser has only a few
// connections to one server, and pages left open in tabs would use them up.

const AGAIN_MS = 5000;

/**
 * Calls `readings(rows)` with rows [id, time_ms, value, quality in words], `fresh()` whenever values
 * may have been missed, and `live(true or false)` when the connection comes or goes.
 */
export function watch(agent, { readings, fresh, live }, signal) {
  let source = null;
  let timer = null;

  function open() {
    clearTimeout(timer);
    if (source || document.hidden || signal.aborted) return;
    source = new EventSource(`/api/v1/live?agent=${encodeURIComponent(agent)}`);
    source.onopen = () => { live(true); fresh(); };
    source.onerror = () => {
      live(false);
      // The browser itself tries again after a cut, and gives up after a refusal.
      if (source?.readyState !== EventSource.CLOSED) return;
      close();
      timer = setTimeout(open, AGAIN_MS);
    };
    source.addEventListener("readings", (event) => readings(JSON.parse(event.data)));
    source.addEventListener("missed", fresh);
  }

  function close() {
    clearTimeout(timer);
    source?.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()), { signal });
  signal.addEventListener("abort", close);
  open();
}

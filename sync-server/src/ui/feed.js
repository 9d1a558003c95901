// The live feed: one connection for the whole page, the browser's own reconnect, and a word on how it is.

export class Feed {
  #source;
  #listeners = new Set();

  constructor(status) {
    this.#source = new EventSource("/api/v1/live");
    this.#source.onopen = () => { status.textContent = "● live"; status.className = ""; };
    this.#source.onerror = () => { status.textContent = "▲ live feed lost, reconnecting …"; status.className = "bad"; };
    this.#source.addEventListener("readings", (event) => {
      const rows = JSON.parse(event.data);
      for (const listener of this.#listeners) listener(rows);
    });
  }

  /** Calls `listener` with rows [id, time_ms, value, quality]; returns the way to stop. */
  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

// One agent: how it is, its devices in plain words, its points live, and the last hour of one of them.
import { ago, bytes, el, get, number, problem, quality, state } from "/ui/dom.js";
import { spark, trend } from "/ui/trend.js";

const REFRESH_MS = 3000;

export function agentView(main, name, feed) {
  let open = true;
  const points = new Map(); // id -> { cells, history }
  const facts = el("dl");
  const devices = el("div");
  const chart = el("div");
  const body = el("tbody");
  const filter = el("input", { type: "search", placeholder: "Filter points", "aria-label": "Filter points", input: applyFilter });
  main.replaceChildren(el("h1", {}, name), facts, devices, chart, el("h2", {}, "Points "), filter,
    el("div", { class: "wide" }, el("table", {},
      el("thead", {}, el("tr", {}, ...["Device", "Point"].map((head) => el("th", { scope: "col" }, head)),
        el("th", { scope: "col", class: "number" }, "Value"), ...["Unit", "Trend", "Quality", "Time"].map((head) => el("th", { scope: "col" }, head)))), body)));

  const stop = feed.listen((rows) => {
    for (const [id, time, value, word] of rows) {
      const point = points.get(id);
      if (point) show(point, { time: new Date(time).toISOString(), value, quality: word });
    }
  });

  function show(point, latest) {
    point.value.textContent = number(latest.value);
    point.quality.replaceChildren(quality(latest.quality, latest.words));
    point.time.replaceChildren(el("time", { datetime: latest.time }, new Date(latest.time).toLocaleTimeString()));
    const plain = typeof latest.value === "boolean" ? Number(latest.value) : latest.value;
    point.history.push(typeof plain === "number" ? plain : null);
    if (point.history.length > 60) point.history.shift();
    point.trend.replaceChildren(spark(point.history));
  }

  function applyFilter() {
    const wanted = filter.value.toLowerCase();
    for (const point of points.values()) point.row.hidden = !point.text.includes(wanted);
  }

  async function loadPoints() {
    let after = null;
    do {
      const query = new URLSearchParams({ agent: name, limit: 1000, ...(after ? { after } : {}) });
      const page = await get(`/api/v1/points?${query}`);
      page.points.filter((found) => !points.has(found.id)).forEach(add);
      after = page.next;
    } while (after && open);
    applyFilter();
  }

  function add(found) {
    const point = { history: [], text: `${found.device} ${found.name} ${found.unit}`.toLowerCase(),
      value: el("td", { class: "number" }, "–"), quality: el("td"), time: el("td", { class: "quiet" }), trend: el("td") };
    point.row = el("tr", {}, el("td", {}, found.device),
      el("td", {}, el("button", { type: "button", click: () => showTrend(found) }, found.name)),
      point.value, el("td", { class: "quiet" }, found.unit), point.trend, point.quality, point.time);
    points.set(found.id, point);
    body.append(point.row);
    if (found.latest) show(point, found.latest);
  }

  async function showTrend(found) {
    try {
      const answer = await get(`/api/v1/query?points=${found.id}&from=-1h&max_points=600`);
      chart.replaceChildren(el("h2", {}, `${found.device} / ${found.name}, last hour${found.unit ? `, ${found.unit}` : ""}`), trend(answer));
      chart.scrollIntoView({ block: "nearest" });
    } catch (error) {
      chart.replaceChildren(el("p", { class: "bad" }, error.message));
    }
  }

  async function refresh() {
    if (!open) return;
    try {
      const { agents } = await get("/api/v1/fleet");
      const agent = agents.find((one) => one.agent === name);
      if (!open) return;
      if (!agent) throw new Error(`There is no agent named ${name}.`);
      const fact = (title, value) => el("div", {}, el("dt", {}, title), el("dd", {}, value));
      facts.replaceChildren(
        fact("State", state(agent.state)), fact("Last seen", ago(agent.last_seen)),
        fact("Backlog", `${number(agent.backlog.readings)} readings, ${bytes(agent.backlog.bytes)}`),
        fact("Produced", number(agent.ledger.produced)), fact("Stored", number(agent.ledger.stored)), fact("Dropped", number(agent.ledger.dropped)),
        fact("Batches set aside", number(agent.batches.set_aside)), fact("Certificate until", agent.certificate_valid_until?.slice(0, 10) ?? "–"));
      const silent = agent.devices.filter((device) => !device.answers);
      devices.replaceChildren(...silent.map((d) => el("p", { class: "bad" }, `▲ ${d.device} on ${d.link}: ${d.words}`)));
      await loadPoints();
    } catch (error) {
      if (open) problem(main, error);
      return;
    }
    setTimeout(refresh, REFRESH_MS);
  }
  refresh();
  return { close() { open = false; stop(); } };
}

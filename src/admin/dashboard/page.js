// Draws each event of /events, and shows when no event comes.

// An event comes each second. After this long without one, the connection counts as lost.
const SILENCE_MS = 5000;
const AGAIN_MS = 2000;

// The state and the conditions. A screen reader says a condition when it begins. Why, since when and what now stand in a box, whose
// figures change each second without a word.

let away;
let noticed = "";

const CAPITAL = (text) => text[0].toUpperCase() + text.slice(1);

// Each condition: kind, title, since when, and its sentences.
function conditionsOf(stats) {
  if (!away) return (stats && stats.conditions) || [];
  return [{
    kind: "disconnected", title: "disconnected", since_s: away / 1000, for_s: (Date.now() - away) / 1000, why: "The server does not answer this page.",
    now: "These are the last figures that came. The page keeps trying to connect.", advice: "Look whether the server runs and can be reached from here.",
  }];
}

function showState(stats) {
  const [word, kind] = (stats && STATES[stats.state]) || [stats ? stats.state : "", ""];
  if (stats) mark(id("state"), "class", `badge ${kind}`);
  const title = `${away ? "disconnected" : word} · wharf ${location.host}`;
  if (document.title !== title) document.title = title;
  const conditions = conditionsOf(stats);
  const kinds = conditions.map((condition) => condition.kind).join();
  if (kinds !== noticed) {
    noticed = kinds;
    id("notices").replaceChildren(...conditions.map((condition) =>
      make("p", {}, `${CAPITAL(condition.title)}. ${(CONDITIONS[condition.kind] || [])[2] || ""}`)));
    id("conditions").replaceChildren(...conditions.map(conditionBox));
  }
  conditions.forEach((condition, index) => fill(id("conditions").children[index], condition));
}

function conditionBox({ kind, title }) {
  const [tone, sign] = CONDITIONS[kind] || ["warning", "⚠"];
  const fact = (name, what) => make("div", {}, make("dt", {}, name), make("dd", { "data-what": what }));
  return make("section", { class: `notice ${tone}`, "data-condition": kind, "aria-label": CAPITAL(title) },
    make("span", { class: "sign", "aria-hidden": "true" }, sign),
    make("div", {}, make("p", {}, make("strong", {}, CAPITAL(title)), " ", make("span", { class: "muted", "data-what": "times" })),
      make("dl", { class: "because" }, fact("Why", "why"), fact("What now", "now"), fact("What you can do", "advice"))));
}

function fill(box, condition) {
  const until = condition.until_s == null ? "" : `, until ${timeOfDay(condition.until_s)} at the latest`;
  const texts = { ...condition, times: `since ${timeOfDay(condition.since_s)}, for ${clock(condition.for_s)}${until}` };
  for (const element of box.querySelectorAll("[data-what]")) say(element, texts[element.dataset.what]);
}

function showLink(state, text) {
  mark(id("link"), "data-link", state);
  say(id("link"), text);
}

// Runs once a second.

let shown;
let latest;
let paused = false;

function show(stats) {
  const before = shown && shown.uptime_s < stats.uptime_s ? shown : undefined;
  stats.now = lastSecond(stats);
  showFigures(stats);
  showState(stats);
  showWorkers(stats);
  showPool(stats.pool);
  showQueue(stats.queue);
  showConnections(stats.connections.states);
  showTables(stats, before);
  shown = stats;
  for (const chart of CHARTS) showChart(chart, stats);
  // Tells a test which figures are shown.
  const last = stats.seconds[stats.seconds.length - 1];
  Object.assign(document.documentElement.dataset, { uptime: stats.uptime_s, second: last ? last.at_s : "" });
}

id("pause").addEventListener("click", () => {
  paused = !paused;
  mark(id("pause"), "aria-pressed", String(paused));
  say(id("pause"), paused ? "Go on" : "Pause");
  if (!away) showLink(paused ? "paused" : "live", paused ? "paused" : "live");
  if (!paused && latest) show(latest);
});
for (const details of document.querySelectorAll("details")) {
  details.addEventListener("toggle", () => shown && show(shown));
}
new ResizeObserver(() => {
  if (shown) for (const chart of CHARTS) showChart(chart, shown);
}).observe(document.body);

// The connection.

let events;
let heard = 0;

function connect() {
  if (events) events.close();
  heard = performance.now();
  events = new EventSource("events");
  events.onmessage = (event) => {
    heard = performance.now();
    away = undefined;
    latest = JSON.parse(event.data);
    showLink(paused ? "paused" : "live", paused ? "paused" : "live");
    if (paused) showState(shown); else show(latest);
  };
  events.onerror = () => lose();
}

function lose() {
  away = away || Date.now();
  showLink("away", "disconnected");
  showState(shown);
  // A browser stops trying when the answer is an error, as it may be while the server starts.
  if (events.readyState === EventSource.CLOSED) {
    events.close();
    setTimeout(connect, AGAIN_MS);
    heard = Infinity;
  }
}

setInterval(() => {
  if (performance.now() - heard > SILENCE_MS) {
    lose();
    connect();
  }
  if (!away) return;
  showLink("away", `disconnected for ${clock((Date.now() - away) / 1000)}`);
  showState(shown);
}, 1000);

say(id("host"), location.host);
// wharf top asks the admin listener itself. Behind a proxy's path this page does not know where that is.
say(id("url"), location.pathname === "/" ? location.origin : "URL");
connect();

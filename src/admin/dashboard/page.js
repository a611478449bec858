// Draws each event of /events, and shows when no event comes.

// An event comes each second. After this long without one, the connection counts as lost.
const SILENCE_MS = 5000;
const AGAIN_MS = 2000;

// The state and the notices, which a screen reader says when they change.

let away;
let noticed = "";

function showState(stats) {
  const [word, kind, sign, text] = (stats && STATES[stats.state]) || [stats ? stats.state : "", ""];
  if (stats) mark(id("state"), "class", `badge ${kind}`);
  const title = `${away ? "disconnected" : word} · wharf ${location.host}`;
  if (document.title !== title) document.title = title;
  const notices = [];
  if (away) notices.push(["bad", "✗", "Disconnected.", "These are the last figures that came. The page keeps trying to connect."]);
  if (!away && text) notices.push([kind, sign, `${word[0].toUpperCase()}${word.slice(1)}.`, text]);
  if (JSON.stringify(notices) === noticed) return;
  noticed = JSON.stringify(notices);
  id("notices").replaceChildren(...notices.map(([kind, sign, head, text]) =>
    make("div", { class: `notice ${kind}` }, make("span", { class: "sign", "aria-hidden": "true" }, sign),
      make("p", {}, make("strong", {}, head), ` ${text}`))));
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
  for (const chart of CHARTS) showChart(chart, stats.seconds);
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
  if (shown) for (const chart of CHARTS) showChart(chart, shown.seconds);
}).observe(document.body);

// The connection.

let events;
let heard = 0;

function connect() {
  if (events) events.close();
  heard = performance.now();
  events = new EventSource("/events");
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
  if (away) showLink("away", `disconnected for ${clock((Date.now() - away) / 1000)}`);
}, 1000);

say(id("host"), location.host);
say(id("url"), location.origin);
connect();

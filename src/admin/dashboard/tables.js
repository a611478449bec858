// Tables, and rows of cells.

const WORKERS = [
  ["database", "D", "waits for the database"], ["pool", "P", "waits for a session"], ["handler", "H", "runs its handler"],
  ["write", "W", "writes an answer"], ["stuck", "!", "past its deadline"], ["idle", "·", "idle"],
];
const POOL = [["active", "A", "lent"], ["free", "I", "idle"], ["closed", "–", "not open"]];
// The order in which a connection goes through these states.
const CONNECTIONS = {
  idle: "grey", beginning: "green", reading: "purple", queued: "gold", running: "blue", writing: "orange", closing: "dark",
};
const REFUSALS = {
  malformed: "not HTTP, or a form that is not supported", head_bytes: "head too large", header_count: "too many headers",
  target_bytes: "target too long", body_bytes: "body too large", head_timeout: "head came too slowly",
  body_timeout: "body came too slowly", body_rate: "body trickled", connection_limit: "too many connections",
  address_limit: "too many connections of one address", accept_rate: "too many new connections", descriptors: "no file descriptor left",
  queue_full: "the queue was full", queue_wait: "waited too long in the queue", shed: "would have waited too long",
  deadline: "took longer than its deadline", cross_origin: "from another site's page",
  memory: "requests and answers used too much memory",
};

// A table that scrolls separately from the page, also by keyboard. A cell is text or a node.
function table(parent, caption, columns, nothing) {
  const body = make("tbody");
  const heads = columns.map(([name, kind]) => make("th", { scope: "col", class: kind || "" }, name));
  const whole = make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, ...heads)), body);
  const scroll = make("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" }, whole);
  const none = make("p", { class: "muted" }, nothing || "");
  parent.append(scroll, none);
  let before;
  return {
    details: parent,
    show(rows, key) {
      const now = key || JSON.stringify(rows);
      if (now === before) return;
      before = now;
      scroll.hidden = nothing !== undefined && !rows.length;
      none.hidden = !scroll.hidden;
      body.replaceChildren(...rows.map((row) => {
        const cells = row.map((cell, index) => {
          const kind = columns[index][1] || "";
          return index ? make("td", { class: kind }, cell) : make("th", { scope: "row", class: kind }, cell);
        });
        return make("tr", {}, ...cells);
      }));
    },
  };
}

function value(figure, of, text) {
  return make("data", { value: String(of), "data-of": figure }, text);
}

const name = (of) => (of.method ? `${of.method} ${of.route}` : of.route === "unmatched" ? "no endpoint" : of.route || "–");

const tables = {
  workers: table(id("workers-numbers"), "What each worker does", [["worker"], ["does"], ["for", "number"], ["endpoint", "route"], ["request, for", "number"]]),
  endpoints: table(id("endpoints"), "The last half to whole minute, by p99",
    [["endpoint", "route"], ["served", "number"], ["client errors", "number"], ["errors", "number"], ["refused", "number"],
      ["p50", "number"], ["p99", "number"], ["mean", "number"], ["where the time goes"]],
    "No worker has served a request within the last half minute."),
  errors: table(id("errors"), "Answers with a status from 500, refusals included, by endpoint and status; the latest first",
    [["when", "when"], ["endpoint", "route"], ["status", "number"], ["how many", "number"], ["request"]], "None since the start."),
  refused: table(id("refused"), "Requests refused since the start", [["reason"], ["refused", "number"], ["a second now", "number"], ["share", "bars"]], "None since the start."),
};

id("phases-key").append(...PHASES.map(([phase, tone]) =>
  make("li", {}, make("span", { class: `swatch ${tone}`, "aria-hidden": "true" }), phase)));

function share(part, most, tone) {
  if (!part) return "";
  const bar = make("span", { class: `share ${tone}` });
  bar.style.width = `${most ? (part / most) * 100 : 0}%`;
  return bar;
}

function mix(phases) {
  const bar = make("div", { class: "mix", "aria-hidden": "true" });
  for (const [phase, tone] of PHASES.filter(([phase]) => phases[phase] > 0)) {
    const part = make("span", { class: tone });
    part.style.flexGrow = String(phases[phase]);
    bar.append(part);
  }
  const text = PHASES.map(([phase]) => `${phase} ${milliseconds(phases[phase])}`).join(", ");
  const both = make("div", { title: text }, bar, make("span", { class: "hidden" }, text));
  return both;
}

function ago(seconds) {
  return seconds < 1.5 ? "now" : `${clock(seconds)} ago`;
}

function showTables(stats, before) {
  const rate = (of, figure) => value(figure, of[figure], `${number(of[figure])}/s`);
  const time = (of, figure) => (of[figure] == null ? "–" : value(figure, of[figure], milliseconds(of[figure])));
  tables.endpoints.show(stats.endpoints.map((of) => [
    name(of), ...["per_s", "client_errors_per_s", "errors_per_s", "refused_per_s"].map((figure) => rate(of, figure)),
    ...["p50_ms", "p99_ms", "mean_ms"].map((figure) => time(of, figure)), mix(of.phases_ms),
  ]), JSON.stringify(stats.endpoints));
  const now = stats.started_at_s + stats.uptime_s;
  tables.errors.show((stats.errors || []).map((of) => {
    const when = make("time", { datetime: new Date(of.at_s * 1000).toISOString() }, ago(now - of.at_s));
    return [when, name(of), value("status", of.status, String(of.status)), value("count", of.count, grouped(of.count, 0)),
      of.request_id ? make("code", { class: "id" }, of.request_id) : "–"];
  }), `${Math.floor(now)} ${JSON.stringify(stats.errors)}`);
  const refused = Object.entries(stats.totals.refused).sort((one, other) => other[1] - one[1]);
  const most = Math.max(...refused.map(([, count]) => count), 1);
  tables.refused.show(refused.map(([reason, count]) => {
    const earlier = before && before.started_at_s === stats.started_at_s ? before.totals.refused[reason] || 0 : undefined;
    const passed = before ? stats.uptime_s - before.uptime_s : 0;
    const rate = earlier === undefined || passed <= 0 ? "–" : `${number((count - earlier) / passed)}/s`;
    const what = make("span", {}, reason, make("br"), make("small", { class: "muted" }, REFUSALS[reason] || ""));
    return [what, value(`refused.${reason}`, count, grouped(count, 0)), rate, share(count, most, "gold")];
  }), JSON.stringify([refused, before && before.totals.refused]));
}

// Shows one cell for each item, and keeps the cells from second to second. A letter and a shape repeat what the colour
// says.
function showCells(list, cells) {
  while (list.children.length > cells.length) list.lastChild.remove();
  while (list.children.length < cells.length) {
    list.append(make("li", {}, make("span", { "aria-hidden": "true" }), make("span", { class: "hidden" })));
  }
  list.classList.toggle("many", cells.length > 40);
  cells.forEach(([kind, letter, text], index) => {
    const cell = list.children[index];
    mark(cell, "class", `cell ${kind}`);
    mark(cell, "title", text);
    say(cell.firstChild, letter);
    say(cell.lastChild, text);
  });
}

function showKinds(list, kinds, counts) {
  if (!list.children.length) {
    list.append(...kinds.map(([kind, letter, meaning]) =>
      make("li", {}, make("span", { class: `cell ${kind}`, "aria-hidden": "true" }, letter), `${meaning} `, make("data", {}, "0"))));
  }
  kinds.forEach(([kind], index) => {
    const element = list.children[index].lastChild, count = counts[kind] || 0;
    say(element, grouped(count, 0));
    mark(element, "value", String(count));
    mark(element, "data-kind", kind);
  });
}

function showWorkers(stats) {
  const letters = Object.fromEntries(WORKERS.map(([kind, letter]) => [kind, letter]));
  const kind = (thread) => (thread.stuck ? "stuck" : thread.state);
  const counts = {};
  const cells = stats.threads.map((thread) => {
    counts[kind(thread)] = (counts[kind(thread)] || 0) + 1;
    const request = thread.route ? `; ${name(thread)}, for ${milliseconds(thread.request_ms || 0)}` : "";
    const text = `${thread.name}: ${thread.state} for ${milliseconds(thread.for_ms)}${request}${thread.stuck ? "; past its deadline" : ""}`;
    return [kind(thread), letters[kind(thread)] || "?", text];
  });
  showCells(id("workers"), cells);
  showKinds(id("workers-legend"), WORKERS, counts);
  id("stuck").hidden = !stats.workers.stuck;
  id("paced").hidden = stats.workers.busy_max >= stats.workers.max;
  if (tables.workers.details.open) {
    tables.workers.show(stats.threads.map((thread) => [
      thread.name, thread.state + (thread.stuck ? ", past its deadline" : ""), milliseconds(thread.for_ms),
      thread.route ? name(thread) : "–", thread.request_ms == null ? "–" : milliseconds(thread.request_ms),
    ]));
  }
}

function showPool(pool) {
  id("pool-there").hidden = !pool;
  id("pool-none").hidden = Boolean(pool);
  if (!pool) return;
  const counts = { active: pool.active, free: pool.idle, closed: Math.max(0, pool.max - pool.active - pool.idle) };
  const cells = POOL.flatMap(([kind, letter, meaning]) => Array(counts[kind]).fill([kind, letter, meaning]));
  showCells(id("pool"), cells.map(([kind, letter, meaning], index) => [kind, letter, `session ${index + 1}: ${meaning}`]));
  showKinds(id("pool-legend"), POOL, counts);
  const facts = [
    ...Object.entries(pool.acquire_failures).map(([how, count]) => [`not lent: ${how.replace("_", " ")}`, count]),
    ["not opened", pool.creation_failures], ["closed", pool.closed], ["lent too long", pool.leaks],
    ["statements cancelled", pool.cancelled], ["run again", pool.retries],
    ["asked together", pool.pipelined_requests],
  ];
  const text = JSON.stringify(facts);
  if (id("pool-facts").dataset.text === text) return;
  id("pool-facts").dataset.text = text;
  id("pool-facts").replaceChildren(...facts.map(([term, count]) => make("div", {}, make("dt", {}, term), make("dd", {}, grouped(count, 0)))));
}

function showQueue(queue) {
  const bar = id("queue");
  mark(bar, "aria-valuemax", String(queue.max_length));
  mark(bar, "aria-valuenow", String(queue.length));
  mark(bar, "aria-valuetext", `${queue.length} of at most ${queue.max_length}`);
  bar.classList.toggle("full", queue.length >= queue.max_length);
  id("queue-fill").style.width = `${Math.min(1, queue.length / Math.max(1, queue.max_length)) * 100}%`;
  id("oldest").hidden = queue.length === 0;
}

function showConnections(states) {
  const [bar, legend] = [id("states"), id("states-legend")];
  const names = [...new Set([...Object.keys(CONNECTIONS), ...Object.keys(states)])].filter((name) => name in states);
  if (bar.children.length !== names.length) {
    const tone = (name) => CONNECTIONS[name] || "grey";
    bar.replaceChildren(...names.map((name) => make("span", { class: tone(name) })));
    legend.replaceChildren(...names.map((name) =>
      make("li", {}, make("span", { class: `swatch ${tone(name)}`, "aria-hidden": "true" }), `${name} `, make("data", { "data-of": `states.${name}` }))));
  }
  names.forEach((name, index) => {
    bar.children[index].style.flexGrow = String(states[name]);
    bar.children[index].classList.toggle("empty", states[name] === 0);
    const element = legend.children[index].lastChild;
    say(element, grouped(states[name], 0));
    mark(element, "value", String(states[name]));
  });
}

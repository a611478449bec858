// The dashboard: draws each event of /events. One script, no library; all that it shows is text, never markup.
"use strict";
(() => {
  const SECONDS = 60;
  // An event comes each second; after so many without one the connection is taken for lost.
  const SILENCE_MS = 5000;
  const AGAIN_MS = 2000;
  const PHASES = [["queue", "gold"], ["pool", "purple"], ["database", "blue"], ["render", "green"], ["write", "grey"]];
  const WORKERS = [
    ["database", "D", "waits for the database"], ["pool", "P", "waits for a connection"], ["handler", "H", "runs its handler"],
    ["write", "W", "writes an answer"], ["stuck", "!", "past its deadline"], ["idle", "·", "idle"],
  ];
  const POOL = [["active", "A", "lent"], ["free", "I", "idle"], ["closed", "–", "not open"]];
  const CONNECTIONS = {
    idle: "grey", beginning: "green", reading: "purple", queued: "gold", running: "blue", writing: "orange", closing: "grey",
  };
  const STATES = {
    ready: ["ready", "good"],
    saturated: ["saturated", "warning", "⚠", "More comes than can be answered; the rest is refused at once."],
    database_down: ["database down", "bad", "✗", "No connection to the database works, and none can be opened."],
    draining: ["draining", "warning", "⚠", "The server stops: it answers what it has and takes nothing new."],
  };
  const REFUSALS = {
    malformed: "no HTTP, or none that is spoken here", head_bytes: "head too large", header_count: "too many headers",
    target_bytes: "target too long", body_bytes: "body too large", head_timeout: "head came too slowly",
    body_timeout: "body came too slowly", body_rate: "body trickled", connection_limit: "too many connections",
    address_limit: "too many of one address", accept_rate: "too many new connections", descriptors: "no file descriptor left",
    queue_full: "the queue was full", queue_wait: "waited too long in the queue", shed: "would have waited too long",
    deadline: "took longer than its deadline",
  };

  // ---- Words and numbers ----

  const id = (name) => document.getElementById(name);

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function draw(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // Only what has changed is written, so that a selection stays and nothing is spoken twice.
  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function mark(element, name, value) {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  }

  const grouped = (value, decimals) =>
    value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });

  // About three digits.
  function number(value) {
    const size = Math.abs(value);
    return grouped(value, Number.isInteger(value) || size >= 100 ? 0 : size >= 10 ? 1 : 2);
  }

  function milliseconds(ms) {
    if (ms === 0) return "0 ms";
    if (ms < 0.9995) return `${number(Math.round(ms * 1000))} µs`;
    if (ms < 999.5) return `${number(ms)} ms`;
    return ms < 59950 ? `${number(ms / 1000)} s` : clock(ms / 1000);
  }

  function clock(seconds) {
    const whole = Math.floor(seconds);
    const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
    if (days) return `${days} d ${hours} h`;
    if (hours) return `${hours} h ${minutes} min`;
    return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
  }

  function bytes(count) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    const at = Math.min(units.length - 1, count < 1 ? 0 : Math.floor(Math.log2(count) / 10));
    return `${number(count / 1024 ** at)} ${units[at]}`;
  }

  const UNITS = {
    count: (value) => grouped(value, 0),
    rate: (value) => `${number(value)}/s`,
    ms: milliseconds,
    clock,
    bytes,
    text: String,
    state: (value) => (STATES[value] || [value])[0],
  };

  // ---- Figures: every element with data-figure shows the value of that path ----

  const figures = [...document.querySelectorAll("[data-figure]")];
  const plurals = [...document.querySelectorAll("[data-plural]")];

  const look = (stats, path) => path.split(".").reduce((value, name) => (value == null ? value : value[name]), stats);

  function showFigures(stats) {
    for (const element of figures) {
      const value = look(stats, element.dataset.figure);
      const unit = element.dataset.unit || (typeof value === "string" ? "text" : "count");
      say(element, value == null ? "–" : UNITS[unit](value));
      mark(element, "data-value", value == null ? "" : String(value));
      if (element.dataset.alarm) element.classList.toggle(`alarm-${element.dataset.alarm}`, value > 0);
    }
    for (const element of plurals) {
      say(element, look(stats, element.dataset.plural) === 1 ? element.dataset.one : element.dataset.many);
    }
  }

  // The last second, as rates.
  function lastSecond(stats) {
    const last = stats.seconds[stats.seconds.length - 1];
    if (!last) return {};
    const rate = (count) => count / (last.length_s || 1);
    const answered = last.p99_ms > 0;
    return {
      good_per_s: rate(last.good), errors_per_s: rate(last.errors), refused_per_s: rate(last.refused),
      p50_ms: answered ? last.p50_ms : null, p90_ms: answered ? last.p90_ms : null, p99_ms: answered ? last.p99_ms : null,
    };
  }

  // ---- Charts ----

  // Each series: name, colour, how it is drawn, what a second's value is. Columns lie on each other in this order.
  const rate = (name) => (second) => second[name] / (second.length_s || 1);
  const answeredOnly = (name) => (second) => (second.p99_ms > 0 ? second[name] : null);
  const CHARTS = [
    {
      name: "throughput", title: "Throughput", unit: "rate", series: [
        ["good", "blue", "column", rate("good")],
        ["refused", "gold", "hatched", rate("refused")],
        ["errors", "orange", "column", rate("errors")],
      ],
    },
    {
      name: "latency", title: "Latency", unit: "ms", series: [
        ["p99", "orange", "p99", answeredOnly("p99_ms")],
        ["p90", "purple", "p90", answeredOnly("p90_ms")],
        ["p50", "blue", "p50", answeredOnly("p50_ms")],
      ],
    },
    {
      name: "phases", title: "Where the time goes", unit: "ms",
      series: PHASES.map(([name, tone]) => [name, tone, "column", (second) => second.phases_ms[name]]),
    },
    {
      name: "use", title: "What is in use", unit: "count", series: [
        ["busy workers", "blue", "p99", (second) => second.busy],
        ["connections lent", "purple", "p90", (second) => second.active],
        ["requests that wait", "gold", "p50", (second) => second.queued],
      ],
    },
  ];

  const MARGIN = { left: 46, right: 4, top: 8, bottom: 22 };

  const stacks = (style) => style === "column" || style === "hatched";

  function sample(tone, style) {
    const svg = draw("svg", { class: tone, viewBox: "0 0 22 12", "aria-hidden": "true" });
    svg.append(
      stacks(style)
        ? draw("rect", { class: style, x: 4, y: 0, width: 14, height: 12 })
        : draw("path", { class: `line ${style}`, d: "M1 6H21" }),
    );
    return svg;
  }

  for (const chart of CHARTS) {
    chart.svg = id(chart.name);
    chart.values = chart.series.map(([name, tone, style]) => {
      const value = make("data", {}, "–");
      id(`${chart.name}-legend`).append(make("li", {}, sample(tone, style), `${name} `, value));
      return value;
    });
    chart.age = make("li", { class: "age" });
    id(`${chart.name}-legend`).append(chart.age);
    chart.numbers = table(id(`${chart.name}-numbers`), `${chart.title}, second by second, the latest first`,
      [["seconds ago", "number"], ...chart.series.map(([name]) => [name, "number"])]);
    // Which second the legend speaks of: the one under the pointer, else the latest.
    chart.svg.addEventListener("pointermove", (event) => {
      const box = chart.svg.getBoundingClientRect();
      const part = (event.clientX - box.left - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right);
      chart.pointed = (1 - Math.min(1, Math.max(0, part))) * SECONDS;
      if (shown) showChart(chart, shown.seconds);
    });
    chart.svg.addEventListener("pointerleave", () => {
      chart.pointed = undefined;
      if (shown) showChart(chart, shown.seconds);
    });
  }

  // The next of 1, 2 and 5 times a power of ten.
  function step(atLeast) {
    const power = 10 ** Math.floor(Math.log10(atLeast));
    return [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= atLeast * 0.999999);
  }

  function tick(value, unit, all) {
    if (unit === "ms") return all >= 1000 ? `${+(value / 1000).toFixed(2)} s` : `${+value.toFixed(3)} ms`;
    return value >= 10000 ? `${+(value / 1000).toFixed(1)}k` : (+value.toFixed(3)).toLocaleString("en-US");
  }

  function showChart(chart, seconds) {
    const { svg, series, unit } = chart;
    const width = Math.max(220, svg.clientWidth), height = Math.max(120, svg.clientHeight);
    const last = seconds.length ? seconds[seconds.length - 1].at_s : 0;
    const values = seconds.map((second) => series.map(([, , , value]) => value(second)));
    const stacked = stacks(series[0][2]);
    const tops = values.map((row) => (stacked ? row.reduce((sum, value) => sum + value, 0) : Math.max(...row.map((value) => value || 0))));
    const highest = Math.max(...tops, unit === "ms" ? 0.1 : 1);
    const every = step(highest / 3), top = Math.ceil(highest / every - 1e-9) * every;
    const x = (ago) => MARGIN.left + (1 - ago / SECONDS) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => height - MARGIN.bottom - (value / top) * (height - MARGIN.top - MARGIN.bottom);
    const at = (place) => Math.round(place * 10) / 10;
    const parts = [];
    for (let value = 0; value <= top * 1.001; value += every) {
      parts.push(draw("path", { class: value ? "grid" : "axis", d: `M${MARGIN.left} ${at(y(value))}H${width - MARGIN.right}` }));
      parts.push(draw("text", { class: "end", x: MARGIN.left - 6, y: at(y(value)) + 4 }, tick(value, unit, top)));
    }
    for (const ago of [60, 45, 30, 15, 0]) {
      const place = ago === 60 ? "" : ago ? "middle" : "end";
      parts.push(draw("text", { class: place, x: at(x(ago)), y: height - 5 }, ago ? `−${ago} s` : "now"));
    }
    series.forEach(([, tone, style], index) => {
      let d = "", pen = "M";
      seconds.forEach((second, number) => {
        const value = values[number][index], to = last - second.at_s, from = to + second.length_s;
        if (to > SECONDS) return;
        if (stacked) {
          const below = values[number].slice(0, index).reduce((sum, one) => sum + one, 0);
          const left = at(x(Math.min(from, SECONDS))), right = at(Math.max(x(to) - 1, left + 1));
          if (value > 0) d += `M${left} ${at(y(below))}H${right}V${at(y(below + value))}H${left}Z`;
        } else if (value == null) {
          pen = "M";
        } else {
          // A second by itself between others without a value is a dot.
          const point = `${at(x(to))} ${at(y(value))}`;
          d += pen === "M" ? `M${point}L${point}` : `L${point}`;
          pen = "L";
        }
      });
      parts.push(draw("g", { class: tone }, draw("path", { class: stacked ? style : `line ${style}`, d })));
    });
    let of = seconds.length - 1;
    if (chart.pointed !== undefined && of >= 0) {
      const distance = (second) => Math.abs(last - second.at_s + second.length_s / 2 - chart.pointed);
      of = seconds.reduce((best, second, number) => (distance(second) < distance(seconds[best]) ? number : best), of);
      const middle = at(x(Math.min(SECONDS, last - seconds[of].at_s + (stacked ? seconds[of].length_s / 2 : 0))));
      parts.push(draw("path", { class: "cursor", d: `M${middle} ${MARGIN.top}V${height - MARGIN.bottom}` }));
    }
    mark(svg, "viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren(...parts);
    const shownValue = (value) => (value == null ? "–" : UNITS[unit](value));
    chart.values.forEach((element, index) => {
      const value = of < 0 ? null : values[of][index];
      say(element, shownValue(value));
      mark(element, "value", value == null ? "" : String(value));
    });
    say(chart.age, chart.pointed === undefined || of < 0 ? "" : `${Math.round(last - seconds[of].at_s)} s ago`);
    describe(chart, values, shownValue);
    if (chart.numbers.details.open) {
      const rows = seconds.map((second, number) => [String(Math.round(last - second.at_s)), ...values[number].map(shownValue)]);
      chart.numbers.show(rows.reverse());
    }
  }

  // What the drawing shows, for those who cannot see it. It is read when it is asked for, never spoken by itself.
  function describe(chart, values, shownValue) {
    const parts = chart.series.map(([name], index) => {
      const all = values.map((row) => row[index]).filter((value) => value != null);
      if (!all.length) return `${name}: none`;
      return `${name}: now ${shownValue(values[values.length - 1][index])}, from ${shownValue(Math.min(...all))} to ${shownValue(Math.max(...all))}`;
    });
    mark(chart.svg, "aria-label", `${chart.title}, the last ${values.length} seconds. ${parts.join("; ")}.`);
  }

  // ---- Tables ----

  // A table that scrolls by itself, also with the keyboard. A cell is text, or a node.
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
      [["endpoint", "route"], ["answers", "number"], ["p50", "number"], ["p99", "number"], ["mean", "number"], ["where the time goes"]],
      "No request thread has answered within the last half minute."),
    errors: table(id("errors"), "Answers with a status from 500, by endpoint and status, the latest first",
      [["when", "when"], ["endpoint", "route"], ["status", "number"], ["how many", "number"], ["request"]], "None since the start."),
    refused: table(id("refused"), "Requests refused since the start", [["reason"], ["refused", "number"], ["a second now", "number"], ["share", "bars"]], "None since the start."),
  };

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
    tables.endpoints.show(stats.endpoints.map((of) => [
      name(of), value("per_s", of.per_s, `${number(of.per_s)}/s`), value("p50_ms", of.p50_ms, milliseconds(of.p50_ms)),
      value("p99_ms", of.p99_ms, milliseconds(of.p99_ms)), value("mean_ms", of.mean_ms, milliseconds(of.mean_ms)), mix(of.phases_ms),
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

  // ---- Cells ----

  // One cell for each, kept from second to second; a letter and a shape say what the colour says.
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
    showCells(id("pool"), cells.map(([kind, letter, meaning], index) => [kind, letter, `connection ${index + 1}: ${meaning}`]));
    showKinds(id("pool-legend"), POOL, counts);
    const facts = [
      ...Object.entries(pool.acquire_failures).map(([how, count]) => [`not lent: ${how.replace("_", " ")}`, count]),
      ["not opened", pool.creation_failures], ["closed", pool.closed], ["lent too long", pool.leaks],
      ["statements cancelled", pool.cancelled], ["run again", pool.retries],
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
    if (bar.children.length !== Object.keys(states).length) {
      const tone = (state) => CONNECTIONS[state] || "grey";
      bar.replaceChildren(...Object.keys(states).map((state) => make("span", { class: tone(state) })));
      legend.replaceChildren(...Object.keys(states).map((state) =>
        make("li", {}, make("span", { class: `swatch ${tone(state)}`, "aria-hidden": "true" }), `${state} `, make("data", { "data-of": `states.${state}` }))));
    }
    Object.values(states).forEach((count, index) => {
      bar.children[index].style.flexGrow = String(count);
      bar.children[index].classList.toggle("empty", count === 0);
      const element = legend.children[index].lastChild;
      say(element, grouped(count, 0));
      mark(element, "value", String(count));
    });
  }

  // ---- State: spoken when it changes ----

  let away;
  let noticed = "";

  function showState(stats) {
    const [word, kind, sign, text] = (stats && STATES[stats.state]) || [stats ? stats.state : "", ""];
    if (stats) {
      mark(id("state"), "class", `badge ${kind}`);
      const title = `${word} · wharf ${location.host}`;
      if (document.title !== title) document.title = title;
    }
    const notices = [];
    if (away) notices.push(["bad", "✗", "Disconnected.", "The figures are the last that came; this page goes on trying."]);
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

  // ---- Everything, once a second ----

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
    // By which a test knows which figures are there.
    document.documentElement.dataset.uptime = String(stats.uptime_s);
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

  // ---- The connection ----

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
    // A browser gives up by itself where the answer is an error, as it is while the server starts.
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
})();

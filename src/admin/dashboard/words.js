// Words, numbers and elements. Everything is shown as text, never as markup.

const STATES = {
  ready: ["ready", "good"], saturated: ["saturated", "warning"], database_down: ["database down", "bad"], draining: ["draining", "warning"],
};

// What a screen reader says once when the condition begins. Its figures, which change each second, stand beside it.
const CONDITIONS = {
  disconnected: ["bad", "✗", "The page shows the last figures and keeps trying to connect."],
  draining: ["warning", "⚠", "The server stops. It answers its running requests and takes no new ones."],
  database_down: ["bad", "✗", "No database session works, and none can be opened."],
  saturated: ["warning", "⚠", "More requests come than the server can answer. It refuses the rest at once."],
  leak: ["warning", "⚠", "A database session has been lent for too long."],
  reload_refused: ["warning", "⚠", "The new configuration was refused. The one from before goes on."],
};

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

// Writes only changed text, so that a selection stays and a screen reader says nothing twice.
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

// The time of day in the reader's time zone, with the date if that is another day.
function timeOfDay(seconds) {
  const date = new Date(seconds * 1000), time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString("en-GB")} ${time}`;
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

// Every element with data-figure shows the figure at that path.

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
  return {
    good_per_s: rate(last.good), client_errors_per_s: rate(last.client_errors), errors_per_s: rate(last.errors),
    refused_per_s: rate(last.refused), left_per_s: rate(last.left), p50_ms: last.p50_ms, p90_ms: last.p90_ms, p99_ms: last.p99_ms,
  };
}

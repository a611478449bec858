// Charts of the last minute.

const SECONDS = 60;
const PHASES = [["queue", "gold"], ["pool", "purple"], ["database", "blue"], ["render", "green"], ["write", "grey"]];

// Each series: name, colour, style, and the function that takes its value from a second. Columns are stacked in this
// order.
const rate = (name) => (second) => second[name] / (second.length_s || 1);
const CHARTS = [
  {
    name: "throughput", title: "Throughput", unit: "rate", axis: "rate", series: [
      ["good", "blue", "column", rate("good")],
      ["client errors", "purple", "column", rate("client_errors")],
      ["refused", "gold", "hatched", rate("refused")],
      ["errors", "orange", "column", rate("errors")],
    ],
  },
  {
    name: "latency", title: "Latency", unit: "ms", axis: "ms", spread: id("latency-scale"), series: [
      ["p99", "orange", "p99", (second) => second.p99_ms],
      ["p90", "purple", "p90", (second) => second.p90_ms],
      ["p50", "blue", "p50", (second) => second.p50_ms],
    ],
  },
  {
    name: "phases", title: "Where the time goes", unit: "ms", axis: "ms",
    series: PHASES.map(([name, tone]) => [name, tone, "column", (second) => second.phases_ms[name]]),
  },
  // Each of the three has its own limit, so each is drawn as a part of that. One line is the limit of all.
  {
    name: "use", title: "What is in use", unit: "count", axis: "percent", series: [
      ["busy workers", "blue", "p99", (second) => second.busy, (stats) => stats.workers.count],
      ["sessions lent", "purple", "p90", (second, stats) => (stats.pool ? second.active : null), (stats) => stats.pool && stats.pool.max],
      ["requests that wait", "gold", "p50", (second) => second.queued, (stats) => stats.queue.max_length],
    ],
  },
];

// The latency has a logarithmic scale where the highest is more than this many times the lowest. A linear one would hide p50 behind p99.
const SPREAD_MAX = 10;

const MARGIN = { left: 56, right: 4, top: 8, bottom: 22 };

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
  if (chart.axis === "percent") id(`${chart.name}-legend`).append(make("li", {}, sample("grey", "limit"), "limit"));
  chart.age = make("li", { class: "age" });
  id(`${chart.name}-legend`).append(chart.age);
  chart.numbers = table(id(`${chart.name}-numbers`), `${chart.title}, second by second, the latest first`,
    [["seconds ago", "number"], ...chart.series.map(([name]) => [name, "number"])]);
  chart.svg.addEventListener("pointermove", (event) => {
    const box = chart.svg.getBoundingClientRect();
    const part = (event.clientX - box.left - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right);
    chart.pointed = (1 - Math.min(1, Math.max(0, part))) * SECONDS;
    if (shown) showChart(chart, shown);
  });
  chart.svg.addEventListener("pointerleave", () => {
    chart.pointed = undefined;
    if (shown) showChart(chart, shown);
  });
}

// The next larger one of 1, 2 and 5 times a power of ten.
function step(atLeast) {
  const power = 10 ** Math.floor(Math.log10(atLeast));
  return [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= atLeast * 0.999999);
}

function tick(value, axis, all) {
  if (axis === "ms" && all >= 1000) return value >= 1 || !value ? `${+(value / 1000).toFixed(3)} s` : `${+(value * 1000).toFixed(0)} µs`;
  if (axis === "ms") return value >= 1 || !value ? `${+value.toFixed(2)} ms` : `${+(value * 1000).toFixed(1)} µs`;
  if (axis === "percent") return `${+value.toFixed(1)} %`;
  return `${value >= 10000 ? `${+(value / 1000).toFixed(1)}k` : (+value.toFixed(3)).toLocaleString("en-US")}/s`;
}

function showChart(chart, stats) {
  const { svg, series } = chart, { seconds } = stats;
  const limits = series.map(([, , , , limit]) => (limit ? limit(stats) : null));
  const values = seconds.map((second) => series.map(([, , , value]) => value(second, stats)));
  // What is drawn: the value, or its percentage of the limit.
  const drawn = chart.axis !== "percent" ? values
    : values.map((row) => row.map((value, index) => (value == null || !limits[index] ? null : (value / limits[index]) * 100)));
  const frame = frameOf(chart, seconds, drawn);
  const of = chosen(chart, seconds, frame.last);
  const parts = [...axes(frame), ...series.map((one, index) => marks(one, index, seconds, drawn, frame))];
  if (chart.axis === "percent") parts.push(limitLine(frame));
  if (chart.pointed !== undefined && of >= 0) parts.push(cursor(seconds[of], frame));
  mark(svg, "viewBox", `0 0 ${frame.width} ${frame.height}`);
  svg.replaceChildren(...parts);
  if (chart.spread) say(chart.spread, frame.log ? "The scale is logarithmic." : "");
  const text = (value, index) => {
    if (value == null) return "–";
    return limits[index] == null ? UNITS[chart.unit](value) : `${UNITS.count(value)} of ${UNITS.count(limits[index])}`;
  };
  chart.values.forEach((element, index) => {
    const value = of < 0 ? null : values[of][index];
    say(element, text(value, index));
    mark(element, "value", value == null ? "" : String(value));
  });
  say(chart.age, chart.pointed === undefined || of < 0 ? "" : `${Math.round(frame.last - seconds[of].at_s)} s ago`);
  describe(chart, values, text);
  if (chart.numbers.details.open) {
    const rows = seconds.map((second, number) => [String(Math.round(frame.last - second.at_s)), ...values[number].map(text)]);
    chart.numbers.show(rows.reverse());
  }
}

// The positions of a chart's parts. The chart is drawn in the size in which it is shown, so that text keeps its size.
function frameOf({ svg, series, axis, spread }, seconds, values) {
  const width = Math.max(220, svg.clientWidth), height = Math.max(120, svg.clientHeight);
  const stacked = stacks(series[0][2]);
  // Rounds to a tenth of a pixel.
  const at = (place) => Math.round(place * 10) / 10;
  const frame = {
    width, height, stacked, axis,
    last: seconds.length ? seconds[seconds.length - 1].at_s : 0,
    x: (ago) => at(MARGIN.left + (1 - Math.min(ago, SECONDS) / SECONDS) * (width - MARGIN.left - MARGIN.right)),
  };
  const y = (part) => at(height - MARGIN.bottom - part * (height - MARGIN.top - MARGIN.bottom));
  const positive = values.flat().filter((value) => value > 0);
  const [lowest, top] = [Math.min(...positive), Math.max(...positive)];
  if (spread && positive.length && top > lowest * SPREAD_MAX) {
    const [from, to] = [Math.floor(Math.log10(lowest) + 1e-9), Math.ceil(Math.log10(top) - 1e-9)];
    const factors = to - from > 2 ? [1] : [1, 2, 5];
    const ticks = Array.from({ length: to - from }, (_, decade) => factors.map((factor) => factor * 10 ** (from + decade))).flat();
    const part = (value) => (Math.log10(Math.max(value, 10 ** from)) - from) / (to - from);
    return { ...frame, log: true, ceiling: 0, ticks: [...ticks, 10 ** to], y: (value) => y(part(value)) };
  }
  const sum = (row) => (stacked ? row.reduce((all, value) => all + value, 0) : Math.max(...row.map((value) => value || 0)));
  const highest = Math.max(...values.map(sum), { ms: 0.1, percent: 100, rate: 1 }[axis]);
  const every = axis === "percent" && highest <= 100 ? 25 : step(highest / 3), ceiling = Math.ceil(highest / every - 1e-9) * every;
  const ticks = Array.from({ length: Math.round(ceiling / every) + 1 }, (_, number) => number * every);
  return { ...frame, ceiling, ticks, y: (value) => y(value / ceiling) };
}

function axes({ width, height, axis, ticks, ceiling, x, y }) {
  const parts = [];
  ticks.forEach((value, index) => {
    parts.push(draw("path", { class: index ? "grid" : "axis", d: `M${MARGIN.left} ${y(value)}H${width - MARGIN.right}` }));
    parts.push(draw("text", { class: "end", x: MARGIN.left - 6, y: y(value) + 4 }, tick(value, axis, ceiling || value)));
  });
  for (const ago of [60, 45, 30, 15, 0]) {
    const place = ago === SECONDS ? "" : ago ? "middle" : "end";
    parts.push(draw("text", { class: place, x: x(ago), y: height - 5 }, ago ? `−${ago} s` : "now"));
  }
  return parts;
}

// Columns on top of the earlier series' columns, or a line with gaps where there is no value.
function marks([, tone, style], index, seconds, values, { last, stacked, x, y }) {
  let d = "", pen = "M";
  seconds.forEach((second, number) => {
    const value = values[number][index], ago = last - second.at_s;
    if (ago > SECONDS) return;
    if (stacked) {
      const below = values[number].slice(0, index).reduce((sum, one) => sum + one, 0);
      const left = x(ago + second.length_s), right = Math.max(x(ago) - 1, left + 1);
      if (value > 0) d += `M${left} ${y(below)}H${right}V${y(below + value)}H${left}Z`;
    } else if (value == null) {
      pen = "M";
    } else {
      // A single value between gaps becomes a dot.
      const point = `${x(ago)} ${y(value)}`;
      d += pen === "M" ? `M${point}L${point}` : `L${point}`;
      pen = "L";
    }
  });
  return draw("g", { class: tone }, draw("path", { class: stacked ? style : `line ${style}`, d }));
}

// The second whose values the legend shows: the one under the pointer, else the latest; -1 if there is none.
function chosen({ pointed }, seconds, last) {
  if (pointed === undefined || !seconds.length) return seconds.length - 1;
  const distance = (second) => Math.abs(last - second.at_s + second.length_s / 2 - pointed);
  return seconds.reduce((best, second, number) => (distance(second) < distance(seconds[best]) ? number : best), 0);
}

function limitLine({ width, y }) {
  return draw("g", { class: "grey" }, draw("path", { class: "line limit", d: `M${MARGIN.left} ${y(100)}H${width - MARGIN.right}` }));
}

function cursor(second, { last, stacked, height, x }) {
  const middle = x(last - second.at_s + (stacked ? second.length_s / 2 : 0));
  return draw("path", { class: "cursor", d: `M${middle} ${MARGIN.top}V${height - MARGIN.bottom}` });
}

// Describes the chart in words for people who cannot see it. A screen reader reads it on request, and not at each
// change.
function describe(chart, values, shownValue) {
  const parts = chart.series.map(([name], index) => {
    const all = values.map((row) => row[index]).filter((value) => value != null);
    if (!all.length) return `${name}: none`;
    return `${name}: now ${shownValue(values[values.length - 1][index], index)}, from ${shownValue(Math.min(...all), index)} to ${shownValue(Math.max(...all), index)}`;
  });
  mark(chart.svg, "aria-label", `${chart.title}, the last ${values.length} seconds. ${parts.join("; ")}.`);
}

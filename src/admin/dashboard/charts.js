// Drawings of the last minute.

const SECONDS = 60;
const PHASES = [["queue", "gold"], ["pool", "purple"], ["database", "blue"], ["render", "green"], ["write", "grey"]];

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

const plot = { width: 360, height: 150, left: 46, right: 350, top: 10, bottom: 124 };
const chartSpan = 600; // seconds

// roundUp returns the next greater round number, for an axis.
function roundUp(x) {
  const power = 10 ** Math.floor(Math.log10(x));
  return [1, 1.5, 2, 3, 4, 6, 8, 10].map((n) => n * power).find((n) => n >= x * 0.999);
}

// path connects points [time, value]. It leaves a gap where a value is null or a time
// is missing.
function path(points, x, y) {
  const steps = points.slice(1).map(([time], i) => time - points[i][0]);
  const interval = Math.min(...steps);
  let d = "";
  let previous = null;
  for (const [time, value] of points) {
    if (value === null) {
      previous = null;
      continue;
    }
    const connected = previous !== null && time - previous < 1.5 * interval;
    d += `${connected ? "L" : "M"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
    if (!connected) d += "h0.01"; // a dot, in case that no line follows
    previous = time;
  }
  return d;
}

// drawChart draws lines for the last chartSpan seconds. Each line has a class and points.
function drawChart(id, now, lines, summary) {
  const figureElement = byId(id);
  setText(figureElement.querySelector("figcaption span"), summary);
  const values = lines.flatMap((line) => line.points.map(([, value]) => value)).filter((value) => value !== null);
  const top = roundUp(Math.max(...values, 0.1));
  const x = (time) => plot.right - ((now - time) / chartSpan) * (plot.right - plot.left);
  const y = (value) => plot.bottom - (value / top) * (plot.bottom - plot.top);

  const title = figureElement.querySelector("b").textContent;
  const chart = svg("svg", { viewBox: `0 0 ${plot.width} ${plot.height}`, role: "img", "aria-label": `${title}: ${summary}` });
  for (const value of [0, top / 2, top]) {
    chart.append(
      svg("path", { class: "grid", d: `M${plot.left} ${y(value)}H${plot.right}` }),
      svg("text", { x: plot.left - 6, y: y(value) + 4, "text-anchor": "end" }, String(Number(value.toPrecision(3)))));
  }
  for (const [ago, anchor] of [[chartSpan, "start"], [chartSpan / 2, "middle"], [0, "end"]]) {
    const time = now - ago;
    chart.append(svg("text", { x: x(time), y: plot.bottom + 18, "text-anchor": anchor }, clock(time * 1000, false)));
  }
  if (values.length === 0) {
    chart.append(svg("text", { class: "none", x: (plot.left + plot.right) / 2, y: (plot.top + plot.bottom) / 2 }, "no requests"));
  }
  for (const line of lines) {
    chart.append(svg("path", { class: `line ${line.kind}`, d: path(line.points, x, y) }));
  }
  figureElement.querySelector(":scope > svg")?.remove();
  figureElement.append(chart);
}

function drawCharts(view) {
  const now = Date.parse(view.at) / 1000;
  const rates = view.rates.filter((r) => now - r.end <= chartSpan);
  const points = (valueOf) => rates.map((r) => [r.end, valueOf(r)]);
  const milliseconds = (seconds) => (seconds === null ? null : seconds * 1000);

  const highest = Math.max(...rates.map((r) => r.per_second), 0);
  const last = rates.at(-1);
  drawChart("rate-chart", now, [{ kind: "", points: points((r) => r.per_second) }],
    last ? `now ${figure(last.per_second)}, maximum ${figure(highest)}` : "not known yet");

  const latest = rates.filter((r) => r.p50_seconds !== null).at(-1);
  drawChart("latency-chart", now,
    [{ kind: "", points: points((r) => milliseconds(r.p50_seconds)) }, { kind: "dashed", points: points((r) => milliseconds(r.p99_seconds)) }],
    latest ? `now p50 ${figure(latest.p50_seconds * 1000)}, p99 ${figure(latest.p99_seconds * 1000)}` : "no requests");
}

const ring = { centre: 200, inner: 128, outer: 188, tick: 197, count: 0, segments: [], owners: [], movedAt: [] };

const showMovedFor = 10_000; // ms

let partitions = []; // of the latest view
let chosen = null; // the number of the partition that is described
let only = null; // the name of the instance whose partitions are highlighted; null: all

function at(radius, turn) {
  const angle = 2 * Math.PI * turn;
  return [ring.centre + radius * Math.sin(angle), ring.centre - radius * Math.cos(angle)];
}

// arc returns the outline of the partitions from first to before end.
function arc(first, end, inner = ring.inner, outer = ring.outer) {
  const from = first / ring.count;
  const to = Math.min(end / ring.count, from + 0.9999); // an arc of a full circle would not be drawn
  const wide = to - from > 0.5 ? 1 : 0;
  const point = (radius, turn) => at(radius, turn).map((x) => x.toFixed(2)).join(" ");
  return `M${point(outer, from)}A${outer} ${outer} 0 ${wide} 1 ${point(outer, to)}` +
    `L${point(inner, to)}A${inner} ${inner} 0 ${wide} 0 ${point(inner, from)}Z`;
}

function layOutRing(count) {
  ring.count = count;
  ring.owners = [];
  ring.movedAt = [];
  const width = (2 * Math.PI * ring.outer) / count;
  ring.segments = Array.from({ length: count }, (_, p) =>
    svg("path", { d: arc(p, p + 1), "stroke-width": Math.min(1.5, width * 0.15).toFixed(2), "data-partition": p }));
  byId("segments").replaceChildren(...ring.segments);
  const quarters = [...new Set([0, 1, 2, 3].map((q) => Math.floor((q * count) / 4)))];
  byId("numbers").replaceChildren(...quarters.map((p) => {
    const [x, y] = at(ring.inner - 16, (p + 0.5) / count);
    return svg("text", { x, y }, String(p));
  }));
  setAttribute(byId("ring"), "aria-valuemax", count - 1);
  choose(null);
}

// runs returns the runs of adjacent partitions with the same owner, as [owner, first, end].
function runs() {
  const all = [];
  partitions.forEach(({ owner }, p) => {
    const last = all.at(-1);
    if (last && last[0] === owner) last[2]++;
    else all.push([owner, p, p + 1]);
  });
  return all;
}

// drawLetters draws the letter of each owner where there is room for it.
function drawLetters() {
  const middle = (ring.inner + ring.outer) / 2;
  const one = (2 * Math.PI * middle) / ring.count;
  const labels = [];
  const put = (owner, from, to) => {
    const size = Math.min(18, (to - from) * one * 0.95);
    if (size < 9) return;
    const [x, y] = at(middle, (from + to) / 2 / ring.count);
    labels.push([owner ? letterOf(owner) : "?", owner ? colourOf(owner) : "nobody", x.toFixed(1), y.toFixed(1), size.toFixed(1)]);
  };
  for (const [owner, first, end] of runs()) {
    if (only !== null && owner !== only) continue;
    if (one >= 9) for (let p = first; p < end; p++) put(owner, p, p + 1);
    else put(owner, first, end);
  }
  replace(byId("letters"), labels, (all) => all.map(([letter, kind, x, y, size]) =>
    svg("text", { x, y, "font-size": size, class: kind }, letter)));
}

function phaseClass(p) {
  if (p.outdated_claims.length > 0) return "contested";
  return { starting: "starting", "handing over": "handing-over" }[p.phase] ?? "";
}

function drawRing(view, members) {
  partitions = view.partitions;
  if (partitions.length !== ring.count) layOutRing(partitions.length);
  const now = Date.parse(view.at);
  partitions.forEach(({ owner }, p) => {
    if (ring.owners[p] !== undefined && ring.owners[p] !== owner) ring.movedAt[p] = now;
    ring.owners[p] = owner;
    const dim = only !== null && owner !== only ? " dim" : "";
    setAttribute(ring.segments[p], "class", (owner ? colourOf(owner) : "nobody") + dim);
  });
  const marked = partitions.filter((p) => phaseClass(p) && (only === null || p.owner === only)).map((p) => [p.partition, phaseClass(p)]);
  replace(byId("phases"), marked, (all) => all.map(([p, kind]) => svg("path", { d: arc(p, p + 1), class: kind })));
  const moved = partitions.map((_, p) => p).filter((p) => now - ring.movedAt[p] < showMovedFor);
  replace(byId("moved"), moved, (all) => all.map((p) => svg("path", { d: arc(p, p + 1, ring.outer + 3, ring.tick), class: "moved" })));
  drawLetters();
  setText(byId("ring-count"), String(partitions.length));
  const present = members.filter((m) => m.present).length;
  setText(byId("ring-members"), `partition${partitions.length === 1 ? "" : "s"}, ${plural(present, "instance")}`);
  drawLegend(moved.length);
  drawOwned();
  describeChosen();
}

const phaseKinds = [
  ["plain", "owned", (p) => p.phase === "owned"],
  ["starting", "starting", (p) => p.phase === "starting"],
  ["handing-over", "handing over", (p) => p.phase === "handing over"],
  ["nobody", "no owner (?)", (p) => !p.owner],
  ["contested", "several owners", (p) => p.outdated_claims.length > 0],
];

function drawLegend(moved) {
  const kinds = phaseKinds.map(([kind, name, is]) => [kind, `${name}: ${partitions.filter(is).length}`]);
  kinds.push(["moved", `moved in the last ${showMovedFor / 1000} s: ${moved}`]);
  replace(byId("phase-legend"), kinds, (all) => all.map(([kind, text]) => {
    const shape = kind === "moved" ? { x: 2, y: 8, width: 16, height: 5 } : { x: 2, y: 2, width: 16, height: 16 };
    const sample = svg("svg", { class: "sample", viewBox: "0 0 20 20", "aria-hidden": "true" });
    if (kind !== "nobody" && kind !== "moved") sample.append(svg("rect", { ...shape, class: "plain" }));
    if (kind !== "plain") sample.append(svg("rect", { ...shape, class: kind }));
    return html("li", {}, sample, text);
  }));
}

function drawOwned() {
  const byOwner = new Map();
  for (const { partition, owner } of partitions) {
    byOwner.set(owner, [...(byOwner.get(owner) ?? []), partition]);
  }
  const owned = [...byOwner].map(([owner, numbers]) => [owner ? lettered(owner) : "No owner", ranges(numbers)]).sort();
  replace(byId("owned"), owned, (all) => all.flatMap(([owner, numbers]) => [html("dt", {}, owner), html("dd", {}, numbers)]));
}

function describe(p) {
  const waiting = p.queue.messages_ready === null ? "no queue" : `${p.queue.messages_ready} waiting`;
  const rest = `${waiting}, ${figure(p.requests_per_second)} requests/s`;
  if (!p.owner) return `Partition ${p.partition}: no owner, ${waiting}`;
  const moved = p.moved_to ? `, moved to ${lettered(p.moved_to)} by an operator` : "";
  const others = p.outdated_claims.map((c) => `, also served by ${c.member} with epoch ${c.epoch}`).join("");
  return `Partition ${p.partition}: ${lettered(p.owner)}, ${p.phase}, epoch ${p.epoch}${others}${moved}, ${rest}`;
}

// describeChosen shows the description of the chosen partition.
function describeChosen() {
  if (chosen === null || !partitions[chosen]) return;
  const text = describe(partitions[chosen]);
  setText(byId("partition"), text);
  setAttribute(byId("ring"), "aria-valuetext", text);
}

function choose(p) {
  chosen = p;
  setAttribute(byId("ring"), "aria-valuenow", p ?? 0);
  setAttribute(byId("chosen"), "d", p === null ? "" : arc(p, p + 1));
  describeChosen();
}

function showOnly(name) {
  only = name;
  redraw();
}

for (const event of ["pointerover", "click"]) {
  byId("segments").addEventListener(event, ({ target }) => {
    if (target.dataset.partition) choose(Number(target.dataset.partition));
  });
}

byId("ring").addEventListener("focus", () => {
  if (chosen === null && ring.count > 0) choose(0);
});

byId("ring").addEventListener("keydown", (event) => {
  const page = Math.max(1, Math.round(ring.count / 8));
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: page, PageDown: -page }[event.key];
  const p = chosen ?? 0;
  if (step) choose((p + step + ring.count) % ring.count);
  else if (event.key === "Home") choose(0);
  else if (event.key === "End") choose(ring.count - 1);
  else return;
  event.preventDefault();
});

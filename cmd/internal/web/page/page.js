let view = null; // the last one
let heardAt = null; // when the instance was last heard of, by this machine's clock
let source = null;

function drawVerdict(members) {
  const { problems, partitions } = view;
  const wrong = problems.length > 0;
  const present = plural(members.filter((m) => m.present).length, "instance");
  const moving = partitions.filter((p) => p.phase === "handing over" || p.phase === "starting").length;
  let text = `All ${partitions.length} partitions have one owner. ${present}.`;
  if (partitions.length === 1) text = `The partition has one owner. ${present}.`;
  if (wrong) text = problems.length === 1 ? "Something is wrong:" : `${problems.length} things are wrong:`;
  else if (moving > 0) text += ` ${plural(moving, "partition")} changing hands.`;
  setText(byId("verdict"), text);
  setAttribute(byId("now"), "class", wrong ? "wrong" : "");
  replace(byId("problems"), problems, (all) => all.map((problem) => html("li", {}, problem)));
  document.title = wrong ? `(${problems.length}!) glotpod.ident` : "glotpod.ident";
}

function drawChanges() {
  const latest = view.changes.toReversed();
  byId("no-changes").hidden = latest.length > 0;
  replace(byId("changes"), latest, (all) => all.map(({ at: time, what }) =>
    html("li", {}, html("time", { datetime: time }, clock(time)), html("span", {}, what))));
}

const mostBacklogs = 8;

function drawQueues() {
  const shared = view.shared_queue.messages_ready;
  setText(byId("shared-queue"), shared === null ? "There is no shared queue." :
    shared === 0 ? "In the shared queue nothing waits." :
    shared === 1 ? "1 request waits in the shared queue." : `${shared.toLocaleString("en")} requests wait in the shared queue.`);
  const waiting = view.partitions.filter((p) => p.queue.messages_ready > 0)
    .sort((a, b) => b.queue.messages_ready - a.queue.messages_ready).slice(0, mostBacklogs)
    .map((p) => [String(p.partition), p.owner ? lettered(p.owner) : "nobody", p.queue.messages_ready.toLocaleString("en")]);
  byId("backlog").hidden = waiting.length === 0;
  byId("no-backlog").hidden = waiting.length > 0;
  replace(byId("backlog").tBodies[0], waiting, (all) => all.map(([partition, owner, ready]) =>
    html("tr", {}, html("td", { class: "number" }, partition), html("td", {}, owner), html("td", { class: "number" }, ready))));
}

function redraw() {
  if (view === null) return;
  const members = membersOf(view);
  if (only !== null && !members.some((m) => m.name === only)) only = null;
  byId("picture").hidden = false;
  setText(byId("seen"), `as ${view.seen_from} sees the cluster, ${clock(view.at)}`);
  drawVerdict(members);
  drawRing(view, members);
  drawMembers(members, Date.parse(view.at), view.seen_from);
  drawCharts(view);
  drawChanges();
  drawQueues();
}

// complain says why there is no new picture; null: there is one.
function complain(reason) {
  byId("contact").hidden = reason === null;
  setAttribute(byId("picture"), "class", reason === null ? "" : "stale");
  if (reason === null) return;
  setText(byId("contact"), view === null ? reason : `${reason} Below is the last picture, of ${clock(view.at)}.`);
  document.title = "(no contact) glotpod.ident";
}

const retryAfter = 3_000;
const silentAfter = 20_000; // far more than it takes the instance to look

function lost() {
  const since = heardAt === null ? "" : ` since ${clock(heardAt)}`;
  complain(`No contact with this instance${since}, trying again.`);
}

function listen() {
  source?.close();
  source = new EventSource("events");
  let silence = setTimeout(again, silentAfter);
  const heard = () => {
    heardAt = Date.now();
    clearTimeout(silence);
    silence = setTimeout(again, silentAfter);
  };
  function again() {
    source.close();
    clearTimeout(silence);
    lost();
    setTimeout(listen, retryAfter);
  }
  source.addEventListener("view", ({ data }) => {
    heard();
    view = JSON.parse(data);
    redraw();
    complain(null);
  });
  source.addEventListener("trouble", ({ data }) => {
    heard();
    complain(`This instance cannot see the cluster: ${JSON.parse(data)}. It tries again.`);
  });
  source.addEventListener("error", again);
}

listen();

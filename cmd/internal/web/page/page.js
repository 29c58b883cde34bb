let view = null; // the latest
let lastEventAt = null; // by the clock of this machine
let source = null;

function drawVerdict(members) {
  const { problems, partitions } = view;
  const wrong = problems.length > 0;
  const present = plural(members.filter((m) => m.present).length, "instance");
  const moving = partitions.filter((p) => p.phase === "handing over" || p.phase === "starting").length;
  let text = `All ${partitions.length} partitions have one owner. ${present}.`;
  if (partitions.length === 1) text = `The partition has one owner. ${present}.`;
  if (wrong) text = `${plural(problems.length, "problem")}:`;
  else if (moving > 0) text += ` ${plural(moving, "partition")} moving.`;
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

const maxBacklogs = 8;

function drawQueues() {
  const shared = view.shared_queue.messages_ready;
  setText(byId("shared-queue"), shared === null ? "The shared queue does not exist." :
    shared === 0 ? "The shared queue is empty." :
    shared === 1 ? "1 request waits in the shared queue." : `${shared.toLocaleString("en")} requests wait in the shared queue.`);
  const waiting = view.partitions.filter((p) => p.queue.messages_ready > 0)
    .sort((a, b) => b.queue.messages_ready - a.queue.messages_ready).slice(0, maxBacklogs)
    .map((p) => [String(p.partition), p.owner ? lettered(p.owner) : "none", p.queue.messages_ready.toLocaleString("en")]);
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
  setText(byId("seen"), `the cluster as seen from ${view.seen_from} at ${clock(view.at)}`);
  drawVerdict(members);
  drawRing(view, members);
  drawMembers(members, Date.parse(view.at), view.seen_from);
  drawCharts(view);
  drawChanges();
  drawQueues();
  globalThis.drawOperate?.(members);
}

// showError shows why there is no new view. null hides the error.
function showError(reason) {
  byId("contact").hidden = reason === null;
  setAttribute(byId("picture"), "class", reason === null ? "" : "stale");
  if (reason === null) return;
  setText(byId("contact"), view === null ? reason : `${reason} The page shows the state at ${clock(view.at)}.`);
  document.title = "(no contact) glotpod.ident";
}

const retryAfter = 3_000; // ms
const silentAfter = 20_000; // ms; far more than a survey of the cluster takes

function showLost() {
  const since = lastEventAt === null ? "" : ` since ${clock(lastEventAt)}`;
  showError(`No contact with this instance${since}, reconnecting.`);
}

function listen() {
  source?.close();
  source = new EventSource("events");
  let silence = setTimeout(reconnect, silentAfter);
  const received = () => {
    lastEventAt = Date.now();
    clearTimeout(silence);
    silence = setTimeout(reconnect, silentAfter);
  };
  function reconnect() {
    source.close();
    clearTimeout(silence);
    showLost();
    setTimeout(listen, retryAfter);
  }
  source.addEventListener("view", ({ data }) => {
    received();
    view = JSON.parse(data);
    redraw();
    showError(null);
  });
  source.addEventListener("trouble", ({ data }) => {
    received();
    showError(`This instance cannot survey the cluster: ${JSON.parse(data)}. It tries again.`);
  });
  source.addEventListener("error", reconnect);
}

listen();

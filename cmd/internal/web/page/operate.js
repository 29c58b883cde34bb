let operatorToken = null; // kept in memory alone

// An OutcomeUnknown is the error that an action may go on, although its end was not seen.
class OutcomeUnknown extends Error {}

// orUnknown returns what a promise about the connection returns, or throws an OutcomeUnknown.
const orUnknown = (promise) => promise.catch((error) => {
  throw new OutcomeUnknown(`the connection was lost, and the action may go on (${error.message})`);
});

// describeFailure says why an action is not done, or that this is not known.
const describeFailure = (error) => (error instanceof OutcomeUnknown ? error.message : `not done: ${error.message}`);

// act asks this instance for an action and calls onProgress with each line about it. It
// throws an error with the reason if the action is refused or fails.
async function act(action, request, onProgress = () => {}) {
  const response = await orUnknown(fetch(`admin/${action}`, {
    method: "POST",
    headers: { Authorization: `Bearer ${operatorToken}`, "Content-Type": "application/json" },
    body: JSON.stringify(request),
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
  }));
  if (response.status === 401) lock();
  if (!/^application\/(json|x-ndjson)\b/.test(response.headers.get("Content-Type"))) {
    throw new OutcomeUnknown(`the reply is not from this instance and has the status ${response.status}; the action may go on`);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let last = {};
  let rest = "";
  for (let ended = false; !ended;) {
    const { value = "", done } = await orUnknown(reader.read());
    ended = done;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      last = JSON.parse(line);
      if (last.progress) onProgress(last.progress);
    }
  }
  if (last.error) throw new Error(last.error);
  if (!last.done) throw new OutcomeUnknown("the connection was lost, and the action may go on");
}

function lock() {
  operatorToken = null;
  byId("token-form").hidden = false;
  byId("controls").hidden = true;
}

function showRefusal(reason) {
  byId("operate-error").hidden = reason === null;
  setText(byId("operate-error"), reason ?? "");
}

// attempt shows the reason if an action fails.
async function attempt(f) {
  showRefusal(null);
  try {
    await f();
  } catch (error) {
    const text = describeFailure(error);
    showRefusal(`${text[0].toUpperCase()}${text.slice(1)}.`);
  }
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  operatorToken = byId("token").value.trim();
  byId("token").value = "";
  attempt(async () => {
    try {
      await act("check", {});
    } catch (error) {
      lock();
      throw error;
    }
    byId("token-form").hidden = true;
    byId("controls").hidden = false;
    byId("instance").focus();
  });
});

let answerConfirm = () => {}; // says to what was asked last whether it is wanted

// confirmed shows what will happen, and returns whether that is wanted. It does not wait for the
// event that the dialog is closed, which may come when the dialog asks something else already.
function confirmed(heading, sentences, label) {
  answerConfirm(false);
  setText(byId("confirm-heading"), heading);
  byId("confirm-text").replaceChildren(...sentences.map((sentence) => html("p", {}, sentence)));
  setText(byId("confirm-yes"), label);
  byId("confirm").showModal();
  return new Promise((resolve) => {
    answerConfirm = (wanted) => {
      answerConfirm = () => {};
      byId("confirm").close();
      resolve(wanted);
    };
  });
}

byId("confirm-yes").addEventListener("click", () => answerConfirm(true));
byId("confirm-no").addEventListener("click", () => answerConfirm(false));
byId("confirm").addEventListener("cancel", () => answerConfirm(false));

function logLine(text) {
  const log = byId("operate-log");
  log.append(html("li", {}, html("time", {}, clock(Date.now())), html("span", {}, text)));
  log.scrollTop = log.scrollHeight;
}

// carryOut has an action done and logs how it goes on.
async function carryOut(title, action, request) {
  logLine(`${title}: begins`);
  try {
    await act(action, request, logLine);
    logLine(`${title}: done`);
  } catch (error) {
    logLine(`${title}: ${describeFailure(error)}`);
    throw error;
  }
}

const takesPartitions = (m) => m.present && !["draining", "leaving", "left"].includes(m.state);

function drawOperate(members) {
  const present = members.filter((m) => m.present).map((m) => [m.name, m.state]);
  const chosenName = byId("instance").value;
  replace(byId("instance"), present, (all) => all.map(([name, state]) => html("option", { value: name }, `${name} (${state})`)));
  if (present.some(([name]) => name === chosenName)) byId("instance").value = chosenName;
  setAttribute(byId("new-partitions"), "placeholder", view.partitions.length);
}

const operations = {
  async drain(name) {
    const members = membersOf(view);
    const held = view.partitions.filter((p) => p.owner === name).length;
    const others = members.filter((m) => m.name !== name && takesPartitions(m)).length;
    const title = `Drain ${name}`;
    const sentences = [
      `${name} hands its ${plural(held, "partition")} over to ${plural(others, "other instance")}, one after another. Requests go on meanwhile.`,
      `It takes no partitions until it is undrained or restarted. It still consumes the shared queue.`,
    ];
    if (await confirmed(`${title}?`, sentences, title)) await carryOut(title, "drain", { instances: [name] });
  },
  async undrain(name) {
    const others = membersOf(view).filter((m) => m.name !== name && takesPartitions(m)).length;
    const title = `Undrain ${name}`;
    const share = Math.round(view.partitions.length / (others + 1));
    const sentences = [`${name} takes partitions again: about ${share} of ${view.partitions.length} move to it, one after another. Requests go on meanwhile.`];
    if (await confirmed(`${title}?`, sentences, title)) await carryOut(title, "undrain", { instances: [name] });
  },
  async change() {
    const request = { partitions: Number(byId("new-partitions").value), queue_type: byId("new-queue-type").value };
    const plan = [];
    await act("repartition", { ...request, dry_run: true }, (line) => plan.push(line));
    const sentences = [plan.filter((line) => !line.startsWith("All requests wait")).join(" "),
      "All requests wait for about two seconds. None fails or is lost.",
      "Once the first request was moved, it cannot be aborted. Afterwards, the settings cluster.partitions and cluster.queue_type do not count any more, and partitions that were moved by operators are where the hash ring assigns them to."];
    if (await confirmed("Change the partitions?", sentences, "Change partitions")) await carryOut("Change of the partitions", "repartition", request);
  },
  async abort() {
    const sentences = ["The cluster keeps the partitions that it has. If requests were moved to the new ones already, this is refused."];
    if (await confirmed("Abort the change of the partitions?", sentences, "Abort")) await carryOut("Abort", "repartition", { abort: true });
  },
};

for (const id of ["instance-form", "repartition-form"]) {
  byId(id).addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(() => operations[event.submitter.value](byId("instance").value));
  });
}

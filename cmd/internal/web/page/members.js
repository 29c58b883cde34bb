// Each instance has a letter: that of its index in this list of names. An instance keeps
// its letter while it is shown. If it comes back, it gets the same letter unless another
// instance has taken it.
const letters = [];

function letterOf(name) {
  let letter = "";
  for (let n = letters.indexOf(name) + 1; n > 0; n = Math.floor((n - 1) / 26)) {
    letter = String.fromCharCode(65 + (n - 1) % 26) + letter;
  }
  return letter;
}

const colours = 8; // as in page.css

const colourOf = (name) => `m${letters.indexOf(name) % colours}`;

const lettered = (name) => `${letterOf(name)} ${name}`;

function assignLetters(names) {
  for (const name of names) {
    if (letters.includes(name)) continue;
    const free = letters.findIndex((owner) => !names.includes(owner));
    if (free < 0) letters.push(name);
    else letters[free] = name;
  }
}

// An instance that is gone stays in the list for this time, in ms.
const showGoneFor = 60_000;
const lastSeen = new Map();
const goneSince = new Map();

// membersOf returns the instances to show, by name.
function membersOf(view) {
  const at = Date.parse(view.at);
  const all = new Map();
  for (const m of view.members) {
    all.set(m.name, { ...m, present: true });
    lastSeen.set(m.name, m);
    goneSince.delete(m.name);
  }
  for (const name of view.missing) {
    all.set(name, { name, state: "no reply" });
    goneSince.delete(name);
  }
  for (const name of lastSeen.keys()) {
    if (all.has(name)) continue;
    if (!goneSince.has(name)) goneSince.set(name, at);
    const since = goneSince.get(name);
    if (at - since > showGoneFor) {
      lastSeen.delete(name);
      goneSince.delete(name);
    } else {
      all.set(name, { name, state: `gone since ${clock(since)}` });
    }
  }
  const members = [...all.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  assignLetters(members.map((m) => m.name));
  return members;
}

const memberColumns = [
  ["State", "brief", (m) => m.state],
  ["Version", "long", (m) => m.version],
  ["Up", "brief", (m, at) => (Date.parse(m.started_at) > 0 ? duration(at - Date.parse(m.started_at)) : "-")],
  ["Partitions", "number", (m) => String(m.partitions.length) + (m.weight && m.weight !== 1 ? `, weight ${m.weight}` : "")],
  ["Own requests/s", "number", (m) => figure(m.partitions.reduce((sum, p) => sum + p.requests_per_second, 0))],
  ["Shared requests/s", "number", (m) => figure(m.shared_requests_per_second)],
  ["Cached users", "number", (m) => m.warm_users.toLocaleString("en")],
];

const memberRows = new Map();

function memberRow(name) {
  const letter = html("button", { class: "letter", type: "button", "aria-pressed": "false" });
  letter.addEventListener("click", () => showOnly(only === name ? null : name));
  const label = html("span");
  const cells = memberColumns.map(([column, kind]) => html("td", { role: "cell", "data-column": column, class: kind }));
  const row = html("tr", { role: "row" }, html("th", { role: "rowheader", scope: "row" }, letter, label), ...cells);
  return { row, letter, label, cells };
}

function drawMembers(members, at, seen) {
  const body = byId("members").tBodies[0];
  for (const [name, { row }] of memberRows) {
    if (members.some((m) => m.name === name)) continue;
    row.remove();
    memberRows.delete(name);
  }
  members.forEach((m, i) => {
    if (!memberRows.has(m.name)) memberRows.set(m.name, memberRow(m.name));
    const { row, letter, label, cells } = memberRows.get(m.name);
    if (body.children[i] !== row) body.insertBefore(row, body.children[i] ?? null);
    setAttribute(row, "class", m.present ? "" : "away");
    setAttribute(letter, "class", `letter ${colourOf(m.name)}`);
    setAttribute(letter, "aria-label", `${letterOf(m.name)}: show only the partitions of ${m.name}`);
    setAttribute(letter, "aria-pressed", only === m.name);
    setText(letter, letterOf(m.name));
    setText(label, m.name === seen ? `${m.name} (this one)` : m.name);
    memberColumns.forEach(([, , textOf], c) => setText(cells[c], m.present || c === 0 ? textOf(m, at) : "-"));
  });
}

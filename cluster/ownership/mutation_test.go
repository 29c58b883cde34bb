package ownership

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var mutate = flag.Bool("mutate", false, "check that the tests find deliberate mistakes; takes minutes")

// Each mutation is a mistake that a programmer could make.
var mutations = []struct {
	name, file, old, new string
}{
	{"an older incarnation replaces a newer one", "members.go",
		"case -1:\n\t\t\treturn nil", "case -1:"},
	{"a newer process under our name is ignored", "members.go",
		"return other.Name == c.self.Name && other.Incarnation.Start > c.self.Incarnation.Start", "return false"},
	{"the gone come back by a late message", "members.go",
		"m != nil && m.gone && msg.From", "false && msg.From"},
	{"the gone are not told so", "members.go",
		"if m.heardWhenGone {", "if false {"},
	{"an older message counts", "members.go",
		"newer := msg.Seq > m.seq", "newer := true"},
	{"nobody is suspected", "members.go",
		"if unheard >= c.cfg.SuspectAfter && m.isAlive() {", "if false {"},
	{"nobody is forgotten", "members.go",
		"if unheard >= forgetAfter*c.cfg.SuspectAfter {", "if false {"},
	{"nobody is probed", "members.go",
		"neighbours := neighboursPerCheck", "neighbours := 0"},
	{"the doubtful are not probed", "members.go",
		"range min(doubtfulPerCheck, len(doubtful))", "range 0"},
	{"a stranger is deposed at once", "members.go",
		"return m == nil || !m.isAlive()", "return m == nil || !m.isAlive() || m.state == Absent"},
	{"other parameters are accepted", "members.go",
		"why != \"\" {", "why == \"never\" {"},
	{"time away counts as silence of the others", "core.go",
		"m.lastHeard = m.lastHeard.Add(away)", "_ = m"},
	{"what was held is kept after time away", "core.go",
		"if now.Sub(c.sentAt) >= c.cfg.SuspectAfter {", "if false {"},
	{"channels are kept when the connection is lost", "session.go",
		"c.abandonAll()\n\tif c.leaving", "if c.leaving"},
	{"a drain is forgotten with the connection", "session.go",
		"if c.drained {", "if false {"},
	{"the epoch table is not surveyed", "core.go",
		"c.emit(Survey{})", ""},
	{"a member that drains counts", "members.go",
		"m.isAlive() && m.state == Ready", "m.isAlive() && (m.state == Ready || m.state == Draining)"},
	{"a member that joins counts", "members.go",
		"m.isAlive() && m.state == Ready", "m.isAlive() && (m.state == Ready || m.state == Joining)"},
	{"the ring follows each newcomer at once", "ring.go",
		"c.applyRingAt = c.now.Add(c.cfg.Debounce)", "c.applyRingAt = c.now"},
	{"the ring waits for newcomers without end", "ring.go",
		"latest.Before(c.applyRingAt)", "false"},
	{"the ring follows a death late", "ring.go",
		"len(c.ring) == 0 && !c.othersAreJoining():\n\t\tc.applyRingAt = c.now", "len(c.ring) == 0 && !c.othersAreJoining():\n\t\tc.applyRingAt = c.now.Add(c.cfg.Debounce)"},
	{"the first of a cluster takes all before the others come", "ring.go",
		"len(c.ring) == 0 && !c.othersAreJoining()", "len(c.ring) == 0"},
	{"any answer to a claim counts", "claim.go",
		"return c.partitions[p].phase == claiming && c.partitions[p].attempt == attempt", "return c.partitions[p].phase == claiming"},
	{"a claim won too late is not released", "claim.go",
		"if !c.isCurrentAttempt(e.Partition, e.Attempt) {\n\t\tc.emit(Release{Partition: e.Partition, Epoch: e.Epoch})", "if !c.isCurrentAttempt(e.Partition, e.Attempt) {"},
	{"a claim won is consumed though the ring has changed", "claim.go",
		"if !c.isOurs(e.Partition) {\n\t\tc.transition(e.Partition, idle)\n\t\tc.emit(Release", "if false {\n\t\tc.transition(e.Partition, idle)\n\t\tc.emit(Release"},
	{"a live holder is deposed", "claim.go",
		"case c.isDead(e.Row.Holder):", "case true:"},
	{"a dead holder is not deposed", "claim.go",
		"case c.isDead(e.Row.Holder):", "case false:"},
	{"a failed claim is not tried again", "claim.go",
		"part.phase == waiting && !c.now.Before(part.retryAt)", "false"},
	{"the end of an outage is not noticed", "claim.go",
		"c.now.Sub(since) < c.cfg.Heartbeat", "true"},
	{"any answer is the end of an outage", "claim.go",
		"c.now.Sub(since) < c.cfg.Heartbeat", "false"},
	{"claims are tried again without a pause", "claim.go",
		"part.setbacks = min(part.setbacks+1, 10)", "delay = 0"},
	{"waiting claims do not hear that a lease is released", "claim.go",
		"part.waitsForHolder() && lease.Epoch >= part.epoch {", "part == nil {"},
	{"the deposed do not hear of it", "claim.go",
		"if part.phase.hasLease() && part.epoch < lease.Epoch {", "if part == nil {"},
	{"a lost partition is not abandoned", "handover.go",
		"c.abandon(p)\n\tif c.isOurs(p)", "if c.isOurs(p)"},
	{"partitions are handed over unasked", "handover.go",
		"case c.state == Ready:\n\t\treturn", "case c.state == Ready:"},
	{"partitions are never handed over", "handover.go",
		"case owner != nil && owner.wantsLease(p, part.epoch):", "case owner == nil && c.state == Joining:"},
	{"a leaving instance waits for ever", "handover.go",
		"c.now.Sub(c.lastWishAt) < c.cfg.SuspectAfter", "true"},
	{"the last instance waits for somebody to take over", "handover.go",
		"case len(c.ring) > 0 &&", "case"},
	{"a claim made anew is not what was asked for", "handover.go",
		"l.Epoch <= epoch", "l.Epoch == epoch"},
	{"unknown leases are not released when asked for", "handover.go",
		"case part.phase == idle &&", "case false &&"},
	{"nobody is told what was released", "handover.go",
		"c.unsentFacts.Released = append(c.unsentFacts.Released, HeldLease{Lease: partition.Lease{Partition: e.Partition, Epoch: e.Epoch}, Holder: c.self})", ""},
	{"all partitions are asked for at once", "broadcast.go",
		"len(leases) == c.cfg.Window:", "false:"},
	{"one holder is asked for all", "broadcast.go",
		"asked[part.holder] == share", "share < 0"},
	{"all partitions are handed over at once", "handover.go",
		"len(c.handovers) >= c.cfg.Window ||", "false ||"},
	{"a window of partitions is handed over at a time", "handover.go",
		"last >= 0 {", "false {"},
	{"once one takes long, there is no turn", "handover.go",
		"c.handovers[last]", "c.handovers[0]"},
	{"one that takes long holds up the others", "handover.go",
		"c.cfg.maxRest()))", "c.cfg.Heartbeat))"},
	{"there is no rest", "handover.go",
		"turn := c.restUntil", "turn := c.now"},
	{"a rest is cut short", "handover.go",
		"laterOf(c.restUntil, c.now.Add(rest))", "c.now.Add(rest)"},
	{"nobody looks when the rest is over", "core.go",
		"c.handoverQueued && turn.After(c.now)", "false && turn.After(c.now)"},
	{"what waits to be handed over is forgotten", "handover.go",
		"if c.partitions[p].phase == owned {", "if false {"},
	{"a grant is not told", "handover.go",
		"c.emit(Send{To: to, Message: msg})", ""},
	{"programs that do not know of grants are told nothing", "handover.go",
		"msg.Released = append(msg.Released, HeldLease{Lease: partition.Lease{Partition: l.Partition, Epoch: l.Epoch - 1}, Holder: c.self})", ""},
	{"a grant to another is taken", "claim.go",
		"lease.Holder == c.self {", "true {"},
	{"a grant that is over is taken", "claim.go",
		"part.waitsForHolder() && lease.Epoch > part.epoch:", "part.waitsForHolder():"},
	{"only a grant of the very next lease is taken", "claim.go",
		"part.waitsForHolder() && lease.Epoch > part.epoch:", "part.waitsForHolder() && lease.Epoch == part.epoch+1:"},
	{"a grant that comes too late is kept", "claim.go",
		"case part.phase == idle:\n\t\tc.surveyAt = c.now", ""},
	{"what the table knows otherwise is kept", "claim.go",
		"row.Epoch == part.epoch && (row.Released || row.Holder != c.self)", "false"},
	{"the new holder is not told after a loss", "handover.go",
		"if e.To != (Member{}) {\n\t\tc.unsentGrants", "if e.To != (Member{}) && c.partitions[e.Partition].phase == handingOver {\n\t\tc.unsentGrants"},
	{"the next partitions are asked for with the next heartbeat", "broadcast.go",
		"c.moreWanted = true", ""},
	{"each message goes out at once", "broadcast.go",
		"laterOf(c.now.Add(wait), c.sentAt.Add(c.cfg.Spacing))", "c.now.Add(wait)"},
	{"the table is another one", "table.go",
		"ReplicationFactor: 100", "ReplicationFactor: 101"},
}

// The tests find each of the mutations. Each is applied to the source as it is now, so
// a mutation whose text is no longer in the source fails the test.
func TestMutations(t *testing.T) {
	failed := regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)
	for _, m := range mutations {
		source, err := os.ReadFile(m.file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(source), m.old); n != 1 {
			t.Errorf("%s: %d places in %s are %q", m.name, n, m.file, m.old)
			continue
		}
		if !*mutate {
			continue
		}
		mutant := strings.Replace(string(source), m.old, m.new, 1)
		out, err := testMutant(t, m.file, mutant)
		tests := failed.FindAllStringSubmatch(string(out), -1)
		var by []string
		for _, test := range tests {
			by = append(by, test[1])
		}
		switch {
		case err == nil:
			t.Errorf("%s: not found", m.name)
		case len(by) == 0 && !strings.Contains(string(out), "panic"):
			t.Errorf("%s: the test itself failed: %s", m.name, out)
		default:
			t.Logf("%s: found by %s", m.name, strings.Join(by, ", "))
		}
	}
}

// testMutant runs the tests of this package and of sim with another text for a file.
func testMutant(t *testing.T, file, text string) ([]byte, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mutant, overlay := filepath.Join(dir, file), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{mutant: []byte(text), overlay: replace} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-count=1", "-timeout=2m",
		"-skip=^TestMutations$", "-overlay="+overlay, ".", "./sim").CombinedOutput()
}

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
	{"an older incarnation replaces a newer one", "registry.go",
		"case -1:\n\t\t\treturn nil, unchanged", "case -1:"},
	{"a newer process under our name is ignored", "registry.go",
		"return other.Name == r.self.Name && other.Incarnation.Start > r.self.Incarnation.Start", "return false"},
	{"a late message revives a member that is gone", "registry.go",
		"m != nil && m.gone && from", "false && from"},
	{"a member that is gone gets no notice", "registry.go",
		"if m.heardWhenGone {", "if false {"},
	{"an older message counts", "messages.go",
		"newer := msg.Seq > m.seq", "newer := true"},
	{"silent members are not suspected", "registry.go",
		"if m.isAlive() && m.watch.IsOverdue(at) {", "if false {"},
	{"an instance that is cut off claims what others hold", "partitions.go",
		"ps.members.clock.IsStalled(ps.now)", "false"},
	{"delays of a member do not count", "registry.go",
		"m.watch.Heard(r.clock.At(now), msg.Next)", "m.watch = silence.Since(r.clock.At(now))"},
	{"no member is forgotten", "registry.go",
		"if m.watch.For(at) >= forgetAfter*r.cfg.Heartbeat && ", "if false && "},
	{"a member that returns is deposed again and again", "registry.go",
		"m.returns.Note(now)", ""},
	{"the leases of a spared member are taken", "partitions.go",
		"!m.isAlive() && !m.isSpared(ps.now)", "!m.isAlive()"},
	{"a lease that is not served here is kept", "partitions.go",
		"case part.phase == starting && part.deposed.Epoch != 0:", "case false:"},
	{"an instance is ready before it hears itself", "core.go",
		" && !c.partitions.isCutOff()", ""},
	{"no neighbour is probed", "registry.go",
		"neighbours := neighboursPerCheck", "neighbours := 0"},
	{"doubtful members are not probed", "registry.go",
		"range min(doubtfulPerCheck, len(doubtful))", "range 0"},
	{"an unknown holder is deposed at once", "partitions.go",
		"return m == nil || !m.isAlive()", "return m == nil || !m.isAlive() || m.state == Absent"},
	{"other parameters are accepted", "messages.go",
		"why != \"\" {", "why == \"never\" {"},
	{"the established instance yields", "registry.go",
		"return m.state.established()\n", "return state.established()\n"},
	{"silence counts while this instance hears not even itself", "messages.go",
		"c.members.clock.Echo(c.now, msg.Next)", "c.members.clock.Echo(c.now, 1<<60)"},
	{"the epoch table is not read after time away", "core.go",
		"away >= absentAfter*c.cfg.Heartbeat {", "false {"},
	{"channels are kept when the connection is lost", "session.go",
		"c.partitions.abandonAll()\n\tif c.leaving", "if c.leaving"},
	{"a drain is forgotten with the connection", "session.go",
		"if c.drained {", "if false {"},
	{"the epoch table is not surveyed", "core.go",
		"c.emit(Survey{})", ""},
	{"a draining member is in the ring", "registry.go",
		"m.isAlive() && m.state == Ready", "m.isAlive() && (m.state == Ready || m.state == Draining)"},
	{"a joining member is in the ring", "registry.go",
		"m.isAlive() && m.state == Ready", "m.isAlive() && (m.state == Ready || m.state == Joining)"},
	{"a move outlives a later one", "session.go",
		"c.setMoves(c.moves.LostTo(moves.Announcement{Member: m.Name, Moves: m.moves}, c.cfg.Name))", ""},
	{"moves count beside an older program", "registry.go",
		"m != nil && m.weight == 0", "false"},
	{"weights count beside an older program", "registry.go",
		"older = older || m.weight == 0", ""},
	{"the ring follows each new member at once", "ring.go",
		"r.applyAt = now.Add(r.cfg.Debounce)", "r.applyAt = now"},
	{"the ring waits for new members without end", "ring.go",
		"latest.Before(r.applyAt)", "false"},
	{"the ring follows a death late", "ring.go",
		"len(r.names) == 0 && !members.anyJoining():\n\t\tr.applyAt = now", "len(r.names) == 0 && !members.anyJoining():\n\t\tr.applyAt = now.Add(r.cfg.Debounce)"},
	{"the first member claims all partitions although others are joining", "ring.go",
		"len(r.names) == 0 && !members.anyJoining()", "len(r.names) == 0"},
	{"leases are kept after the epoch table went back", "partition.go",
		"return s.phase == owned && row.Epoch < s.epoch", "return false && row.Epoch < s.epoch"},
	{"a survey from before the lease takes it", "partition.go",
		"row.Epoch < s.epoch && !askedAt.Before(s.since)", "row.Epoch < s.epoch"},
	{"an epoch that was seen is claimed again", "claim.go",
		"Seen: part.seen", "Seen: 0"},
	{"a reply to an older claim counts", "partition.go",
		"return s.phase == claiming && s.attempt == attempt", "return s.phase == claiming"},
	{"a claim that succeeds too late is not released", "claim.go",
		"if !part.isCurrentAttempt(e.Attempt) {\n\t\tps.release(lease)", "if !part.isCurrentAttempt(e.Attempt) {"},
	{"a claimed partition is consumed although the ring has changed", "claim.go",
		"if !ps.isOurs(e.Partition) {\n\t\tps.transition(e.Partition, idle)\n\t\tps.release", "if false {\n\t\tps.transition(e.Partition, idle)\n\t\tps.release"},
	{"a claim does not wait for the reads of the holder that it deposes", "partition.go",
		"if deposed && s.deposed != s.held {", "if false {"},
	{"a claim waits for its own process", "partition.go",
		"if deposed && s.deposed != s.held {", "if deposed {"},
	{"a claim of unknown outcome is not waited for", "partition.go",
		"s.deposed != s.held {", "s.deposed.Holder.Incarnation.Start != lease.Holder.Incarnation.Start {"},
	{"a lease is released before a deposed holder has ended to read", "partition.go",
		"return s.safeAt\n", "return time.Time{}\n"},
	{"a live holder is deposed", "claim.go",
		"case ps.isDead(e.Row.Holder):", "case true:"},
	{"a dead holder is not deposed", "claim.go",
		"case ps.isDead(e.Row.Holder):", "case false:"},
	{"a failed claim is not repeated", "partitions.go",
		"part.phase == waiting && !ps.now.Before(part.retryAt)", "false"},
	{"the end of an outage is not noticed", "claim.go",
		"now.Sub(since) >= least", "false"},
	{"any reply is the end of an outage", "claim.go",
		"now.Sub(since) >= least", "true"},
	{"claims are repeated without a delay", "partition.go",
		"s.setbacks = min(s.setbacks+1, 10)", "delay = 0"},
	{"a partition whose consumer does not start is claimed as often as any", "partition.go",
		"case s.phase == starting:", "case false:"},
	{"waiting claims ignore a released lease", "claim.go",
		"part.waitsForHolder() && lease.Epoch >= part.epoch {", "part == nil {"},
	{"a deposed holder ignores that its lease was taken", "partitions.go",
		"if part.phase.hasLease() && part.epoch < lease.Epoch {", "if part == nil {"},
	{"a lost partition is not abandoned", "partitions.go",
		"ps.abandon(p)\n\tif ps.isOurs(p)", "if ps.isOurs(p)"},
	{"partitions are handed over without a wish", "handover.go",
		"case ps.state == Ready:\n\t\treturn", "case ps.state == Ready:"},
	{"partitions are never handed over", "handover.go",
		"case owner != nil && owner.wantsLease(p, part.epoch):", "case owner == nil && ps.state == Joining:"},
	{"a leaving instance waits for ever", "handover.go",
		"ps.now.Sub(ps.pacing.lastWishAt) < wishAfter*ps.cfg.Heartbeat", "true"},
	{"the last instance waits for a new owner", "handover.go",
		"case len(ps.ring.names) > 0 &&", "case"},
	{"a wish for an earlier epoch of the lease is ignored", "registry.go",
		"l.Epoch <= epoch", "l.Epoch == epoch"},
	{"a wish for an unknown lease does not release it", "handover.go",
		"case part.phase == idle &&", "case false &&"},
	{"a release is not announced", "handover.go",
		"ps.outbox.facts.Released = append(ps.outbox.facts.Released, heldLease(e.Partition, e.Epoch, ps.self))", ""},
	{"all partitions are asked for at once", "partitions.go",
		"len(leases) == window:", "false:"},
	{"one holder is asked for all partitions", "partitions.go",
		"asked[part.holder] == share", "share < 0"},
	{"all partitions are handed over at once", "handover.go",
		"len(h.running) >= h.cfg.Window ||", "false ||"},
	{"a window of partitions is handed over at a time", "handover.go",
		"last >= 0 {", "false {"},
	{"one slow hand-over stops the pacing", "handover.go",
		"h.running[last]", "h.running[0]"},
	{"a slow hand-over holds up the next ones", "handover.go",
		"h.cfg.maxRest()))", "h.cfg.Heartbeat))"},
	{"there is no rest", "handover.go",
		"next := h.restUntil", "next := time.Time{}"},
	{"a rest is cut short", "handover.go",
		"laterOf(h.restUntil, now.Add(rest))", "now.Add(rest)"},
	{"there is no tick when the rest is over", "handover.go",
		"h.queued && next.After(now)", "false && next.After(now)"},
	{"queued hand-overs are forgotten", "handover.go",
		"if ps.states[p].phase == owned {", "if false {"},
	{"a grant is not sent", "messages.go",
		"c.emit(Send{To: to, Message: msg})", ""},
	{"a grant does not say that the old lease is released", "messages.go",
		"msg.Released = append(msg.Released, heldLease(l.Partition, l.Epoch-1, msg.From))", ""},
	{"a grant to another member is taken", "claim.go",
		"lease.Holder == ps.self {", "true {"},
	{"an old grant is taken", "claim.go",
		"part.waitsForHolder() && lease.Epoch > part.epoch:", "part.waitsForHolder():"},
	{"only a grant of the very next lease is taken", "claim.go",
		"part.waitsForHolder() && lease.Epoch > part.epoch:", "part.waitsForHolder() && lease.Epoch == part.epoch+1:"},
	{"a grant that comes too late is kept", "claim.go",
		"case part.phase == idle:\n\t\tps.surveyAt = ps.now", ""},
	{"a lease that the epoch table contradicts is kept", "partition.go",
		"row.Epoch == s.epoch && (row.Released || row.Holder != self)", "false"},
	{"a grant is not sent after the lease was lost", "handover.go",
		"if e.To != (Member{}) {\n\t\tps.outbox.grants", "if e.To != (Member{}) && ps.states[e.Partition].phase == handingOver {\n\t\tps.outbox.grants"},
	{"the next partitions are asked for with the next heartbeat", "partitions.go",
		"more = true", ""},
	{"each message is sent at once", "messages.go",
		"laterOf(now.Add(wait), o.sentAt.Add(o.cfg.Spacing))", "now.Add(wait)"},
}

// The tests find each of the mutations. Each is applied to the source as it is now, so
// a mutation fails the test if its text is no longer in the source.
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

// testMutant runs the tests of this package with another text for a file and, if they do
// not fail, those of sim.
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
	var out []byte
	for _, pkg := range []string{".", "./sim"} {
		out, err = exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-count=1", "-timeout=2m", "-failfast",
			"-skip=^TestMutations$", "-overlay="+overlay, pkg).CombinedOutput()
		if err != nil {
			break
		}
	}
	return out, err
}

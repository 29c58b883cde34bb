package sim

import (
	"time"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A fence is the way in which a write checks its epoch.
type fence uint8

const (
	forShare  fence = iota // the row is locked until the write is committed
	checkOnly              // the row is read, and may change before the commit
	epochOnly              // like forShare, but the holder is not compared
	none
)

// An epochTable is a model of the epochs in PostgreSQL, and of the writes that they
// fence. While a transaction holds a row FOR SHARE, updates of the row wait.
type epochTable struct {
	w           *world
	rows        []ownership.Row
	lockedUntil []time.Time // until when a write holds the row
	written     []int64     // the epoch of the latest write that was accepted
	values      []int       // what was written

	up             bool
	hanging        []statement // statements that wait until it is up again
	lostAnswers    float64     // probability that a reply is lost
	slowStatements float64     // probability that a statement runs late
	lastHolder     []string    // by partition, the name of the latest holder
	changes        []change    // since the last time that commits were lost
	failovers      int         // how often commits were lost; transactions under way end then
}

// A change is an update of a row.
type change struct {
	at     time.Time
	before ownership.Row
	value  int
}

func newEpochTable(w *world) *epochTable {
	n := w.setting.partitions
	t := &epochTable{w: w, up: true, rows: make([]ownership.Row, n), lockedUntil: make([]time.Time, n), written: make([]int64, n), values: make([]int, n), lastHolder: make([]string, n)}
	for p := range t.rows {
		t.rows[p] = ownership.Row{Lease: partition.Lease{Partition: p}, Released: true}
	}
	return t
}

// A statement runs, and calls done at its end.
type statement func(done func())

// submit runs a statement, unless that fails. It then calls reply; known says whether
// the outcome is known.
func (t *epochTable) submit(s statement, reply func(known bool)) {
	w := t.w
	if w.chance(t.slowStatements) {
		// The client stops waiting, but the statement goes on, unless its server fails.
		failovers := t.failovers
		w.afterFault(w.between(0, 10*time.Second), func() {
			if t.failovers == failovers {
				s(func() {})
			}
		})
		w.afterFault(w.between(0, time.Second), func() { reply(false) })
		return
	}
	w.after(w.latency(), func() {
		switch {
		case t.up:
			s(func() {
				known := !w.chance(t.lostAnswers)
				w.after(w.latency(), func() { reply(known) })
			})
		case w.chance(0.5): // refused
			w.after(w.latency(), func() { reply(false) })
		default: // hangs
			t.hanging = append(t.hanging, s)
			w.after(w.between(0, time.Second), func() { reply(false) })
		}
	})
}

// update changes the row of a partition as soon as no write holds it.
func (t *epochTable) update(p int, update func(row *ownership.Row)) {
	if t.w.now.Before(t.lockedUntil[p]) {
		t.w.schedule(t.lockedUntil[p], func() { t.update(p, update) })
		return
	}
	before := t.rows[p]
	update(&t.rows[p])
	if t.rows[p].Epoch < before.Epoch {
		t.w.fail("the epoch of partition %d falls", p)
	}
	if t.rows[p] != before {
		t.changes = append(t.changes, change{t.w.now, before, t.values[p]})
	}
}

// loseCommits is a failover to a standby that lacks the commits of the time d. It takes longer
// than any read lease. What was cached from the lost commits is not checked.
func (t *epochTable) loseCommits(d time.Duration) {
	kept := len(t.changes)
	for kept > 0 && t.w.now.Sub(t.changes[kept-1].at) < d {
		kept--
		row := t.changes[kept].before
		t.rows[row.Partition] = row
		t.written[row.Partition] = min(t.written[row.Partition], row.Epoch)
		t.values[row.Partition] = t.changes[kept].value
	}
	t.changes = nil
	t.failovers++
	for _, i := range t.w.instances {
		for _, ch := range i.channels {
			ch.reading, ch.wrotes, ch.readUntil = false, ch.wrotes+1, time.Time{}
		}
	}
}

// claim is the update of a Claim.
func (t *epochTable) claim(c ownership.Claim, done func(won, deposed bool, row ownership.Row)) {
	t.update(c.Partition, func(row *ownership.Row) {
		if !row.Released && (c.Depose == 0 || row.Epoch != c.Depose) {
			done(false, false, *row)
			return
		}
		t.w.count.won++
		if t.lastHolder[c.Partition] != c.By.Name {
			t.w.count.moved++
			t.lastHolder[c.Partition] = c.By.Name
		}
		deposed := !row.Released
		if deposed && row.Holder.Name != c.By.Name {
			t.w.count.deposed++
		}
		row.Epoch, row.Holder, row.Released = max(row.Epoch, c.Seen)+1, c.By, false
		done(true, deposed, *row)
	})
}

// release is the update of a Release.
func (t *epochTable) release(l partition.Lease, done func()) {
	t.update(l.Partition, func(row *ownership.Row) {
		row.Released = row.Released || row.Epoch == l.Epoch && row.Holder.Name == l.Holder.Name && row.Holder.Incarnation.Start == l.Holder.Incarnation.Start
		done()
	})
}

// grant is the update of a HandOver to a member. It calls done with true if that member
// is the owner now, possibly by an earlier try.
func (t *epochTable) grant(c ownership.HandOver, done func(granted bool)) {
	t.update(c.Partition, func(row *ownership.Row) {
		if row.Lease == c.Lease && !row.Released {
			t.w.count.granted++
			if t.lastHolder[c.Partition] != c.To.Name {
				t.w.count.moved++
				t.lastHolder[c.Partition] = c.To.Name
			}
			row.Epoch, row.Holder = row.Epoch+1, c.To
		}
		done(row.Epoch == c.Epoch+1 && row.Holder == c.To && !row.Released)
	})
}

// write is a transaction of the owner of a partition. It calls done with true and what was
// written if the fence accepts it.
func (t *epochTable) write(by ownership.Member, p int, epoch int64, done func(accepted bool, value int)) {
	row := t.rows[p]
	others := t.w.setting.fence != epochOnly && row.Holder != by
	if t.w.setting.fence != none && (row.Epoch != epoch || row.Released || others) {
		t.w.count.fenced++
		done(false, 0)
		return
	}
	commit := t.w.now.Add(t.w.latency())
	if (t.w.setting.fence == forShare || t.w.setting.fence == epochOnly) && t.lockedUntil[p].Before(commit) {
		t.lockedUntil[p] = commit
	}
	failovers := t.failovers
	t.w.schedule(commit, func() {
		if t.failovers != failovers {
			done(false, 0)
			return
		}
		t.accept(by, p, epoch)
		done(true, t.values[p])
	})
}

// accept checks the promises: each write comes from the owner at that time, and in the
// order of the epochs.
func (t *epochTable) accept(by ownership.Member, p int, epoch int64) {
	row := t.rows[p]
	if row.Epoch != epoch || row.Released || row.Holder != by {
		t.w.fail("partition %d took a write of %v under epoch %d, though epoch %d is of %v", p, by, epoch, row.Epoch, row.Holder)
	}
	if epoch < t.written[p] {
		t.w.fail("partition %d took a write under epoch %d after one under %d", p, epoch, t.written[p])
	}
	t.changes = append(t.changes, change{t.w.now, row, t.values[p]})
	t.written[p] = epoch
	t.values[p]++
	t.w.count.writes++
}

// outage makes the database unreachable for the time d.
func (t *epochTable) outage(d time.Duration) {
	t.up = false
	t.w.afterFault(d, func() {
		t.up = true
		awaited := t.hanging
		t.hanging = nil
		for _, s := range awaited {
			s(func() {})
		}
	})
}

package reads_test

import (
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"
	"go.uber.org/zap/zaptest"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/reads"
	"github.com/glotpod/ident/store/internal/storetest"
)

const (
	partitions = 4              // of the first generation
	keep       = 72 * time.Hour // how long the log is kept
)

// A wantedChange is a change that a subscriber must find.
type wantedChange struct {
	operation string
	content   any // what the notification tells: a map, a list or nil
}

// A changesModel writes to a store and knows which changes a subscriber has to find.
type changesModel struct {
	t      *testing.T
	h      *storetest.Harness
	random *mathrand.Rand

	first  int               // the first partition of the generation
	leases []partition.Lease // of its partitions

	changes map[int64][]wantedChange // by user; the change with the sequence n has the index n-1
	alive   []int64
	day     int // 0, or -1 if the clock has gone back to yesterday

	after string
	found map[int64]int64 // user → sequence of the last change that the subscriber has found
	gone  int             // how often the position was gone
}

// TestChangesModel: a subscriber that is away for a while finds each change exactly once, in the
// order of each user's changes, whatever happens in the meantime: other owners of the
// partitions, a crash, midnights, a clock that goes back, the removal of old days, and other
// partitions.
func TestChangesModel(t *testing.T) {
	const steps = 300
	seed := mathrand.Uint64()
	t.Logf("the seed is %d", seed)
	m := newChangesModel(t, seed)
	actions := []struct {
		weight int
		do     func()
	}{
		{30, m.write}, {6, m.readPage}, {1, m.readAll}, {4, m.handOver}, {5, m.passMidnight}, {8, m.turnClock}, {1, m.prune}, {1, m.crash}, {1, m.repartition},
	}
	var bag []func()
	for _, a := range actions {
		bag = append(bag, slices.Repeat([]func(){a.do}, a.weight)...)
	}
	for range steps {
		bag[m.random.IntN(len(bag))]()
	}
	m.readAll()
	if m.gone == 0 {
		m.passMidnight()
		m.write()
		m.day = 0
		for range 6 {
			m.passMidnight()
		}
		m.prune()
		m.readPage()
	}
	if m.gone == 0 {
		t.Error("no position was gone")
	}
}

func newChangesModel(t *testing.T, seed uint64) *changesModel {
	m := &changesModel{t: t, h: storetest.Start(t), random: mathrand.New(mathrand.NewPCG(seed, 0)),
		changes: make(map[int64][]wantedChange), found: make(map[int64]int64)}
	m.h.SetNotificationSink(nil)
	m.leases = make([]partition.Lease, partitions)
	for i := range m.leases {
		if m.leases[i] = m.h.Lease; i > 0 {
			m.leases[i] = m.h.ClaimPartition(i, 0)
		}
	}
	m.h.Exec("SELECT ident_log_day((now() AT TIME ZONE 'UTC')::date - n) FROM generate_series(0, 9) AS n")
	return m
}

// draw returns the write of a random request, and the change that it makes.
func (m *changesModel) draw() (*actor.Write, wantedChange) {
	n := m.random.Int64()
	if len(m.alive) < 3 || m.random.IntN(4) == 0 {
		id, err := storetest.DrawUserID(m.t.Context(), m.h.Store)
		if err != nil {
			m.t.Fatal(err)
		}
		w := storetest.Request(m.t, "create", rand.Text(), storetest.Args{"name": "Ada", "email": fmt.Sprint(n), "github": storetest.Args{"id": n, "access_token": "s3cret"}})
		w.UserID = id
		return w, wantedChange{"create", storetest.Args{"id": id, "name": "Ada", "email": fmt.Sprint(n), "github": storetest.Args{"id": n}}}
	}
	id := m.alive[m.random.IntN(len(m.alive))]
	switch m.random.IntN(8) {
	case 0:
		return storetest.Request(m.t, "delete", rand.Text(), storetest.Args{"user_id": id}), wantedChange{"delete", nil}
	case 1: // its change is not in the notification
		ops := storetest.Replace("/github/access_token", fmt.Sprint("s3cret", n))
		return storetest.Request(m.t, "patch", rand.Text(), storetest.Args{"user_id": id, "ops": ops}), wantedChange{"patch", []any{}}
	default:
		ops := storetest.Replace("/name", fmt.Sprint("Ada ", n))
		return storetest.Request(m.t, "patch", rand.Text(), storetest.Args{"user_id": id, "ops": ops}), wantedChange{"patch", ops}
	}
}

// note notes that a change was made.
func (m *changesModel) note(id int64, c wantedChange) {
	m.changes[id] = append(m.changes[id], c)
	switch c.operation {
	case "create":
		m.alive = append(m.alive, id)
	case "delete":
		m.alive = slices.DeleteFunc(m.alive, func(other int64) bool { return other == id })
	}
	m.h.Exec("UPDATE ident_log SET at = at + make_interval(days => $1) WHERE user_id = $2 AND sequence = $3", m.day, id, len(m.changes[id]))
}

func (m *changesModel) write() {
	w, c := m.draw()
	id := w.UserID
	o, err := storetest.Commit(m.t.Context(), m.h.Store, m.lease(id), w)
	if err != nil || !o.Applied || o.Refusal != nil {
		m.t.Fatalf("%s: %+v, %v", c.operation, o, err)
	}
	m.note(id, c)
}

// lease returns the lease of a user's partition.
func (m *changesModel) lease(user int64) partition.Lease {
	return m.leases[partition.Of(user, len(m.leases))]
}

func (m *changesModel) handOver() { m.claim(m.random.IntN(len(m.leases))) }

func (m *changesModel) claim(n int) { m.leases[n] = m.h.ClaimPartition(m.first+n, m.leases[n].Epoch) }

// repartition begins another generation, after all changes were notified.
func (m *changesModel) repartition() {
	m.h.Exec(allNotified)
	m.first, m.leases = storetest.Repartition(m.t, m.h.Store, m.leases, 2+m.random.IntN(4))
	m.h.Exec("UPDATE ident_partitions SET ended_at = now() + make_interval(days => $1) WHERE ended_at > now() - interval '1 minute'", m.day)
}

// allNotified notes that all changes were notified.
const allNotified = `UPDATE ident_partitions p SET notified = greatest(notified, (SELECT max(position) FROM ident_log l WHERE l.partition = p.partition))`

// crash aborts the store during a write, which may be committed or not. Another store takes the
// partitions over.
func (m *changesModel) crash() {
	w, c := m.draw()
	id := w.UserID
	var writing sync.WaitGroup
	writing.Go(func() { m.h.Commit(m.t.Context(), m.lease(id), []*actor.Write{w}) })
	m.h.Abort()
	writing.Wait()
	m.h.Exec("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	m.h.Store = m.h.OpenStore()
	for n := range m.leases {
		m.claim(n)
	}
	if m.h.Value("SELECT count(*) FROM ident_log WHERE user_id = $1 AND position IS NOT NULL AND sequence = $2", id, len(m.changes[id])+1) != int64(0) {
		m.note(id, c)
	}
}

// passMidnight makes all changes a day older.
func (m *changesModel) passMidnight() {
	if m.day < 0 { // the clock goes on
		m.day++
		return
	}
	m.h.Exec(`SELECT ident_log_day((min(coalesce(at, now())) AT TIME ZONE 'UTC')::date - 1) FROM ident_log HAVING count(*) > 0`)
	m.h.Exec("UPDATE ident_log SET at = at - interval '1 day'")
	m.h.Exec("UPDATE ident_partitions SET notified_on = notified_on - 1, ended_at = ended_at - interval '1 day'")
	if m.after != "" {
		m.after = reads.ShiftPosition(m.after, -1)
	}
}

// turnClock makes the clock go back over midnight, or forward again.
func (m *changesModel) turnClock() { m.day = -1 - m.day }

// prune removes old days, of which all changes were notified.
func (m *changesModel) prune() {
	m.h.Exec(allNotified)
	if err := changelog.NewMaintainer(m.h.OpenPool(), keep, zaptest.NewLogger(m.t)).Maintain(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
}

func (m *changesModel) readAll() {
	for m.read() {
	}
	for id, all := range m.changes {
		if found := m.found[id]; found != int64(len(all)) {
			m.t.Fatalf("the subscriber has found %d of %d changes of user %d", found, len(all), id)
		}
	}
}

func (m *changesModel) readPage() { m.read() }

// read reads a page of changes.
func (m *changesModel) read() (more bool) {
	size := 1 + m.random.IntN(12)
	page, refusal, err := m.h.Changes(m.t.Context(), &actor.ChangesPage{After: m.after, Size: size})
	if err != nil || len(page.Changes) > size {
		m.t.Fatal(len(page.Changes), err)
	}
	if refusal != nil {
		m.readSnapshot(refusal)
		return true
	}
	for _, c := range page.Changes {
		m.find(c)
	}
	m.after = page.After
	return page.More
}

func (m *changesModel) find(c actor.Change) {
	all := m.changes[c.UserID]
	if c.Sequence != m.found[c.UserID]+1 || c.Sequence > int64(len(all)) {
		m.t.Fatalf("change %d of user %d was found after %d of %d", c.Sequence, c.UserID, m.found[c.UserID], len(all))
	}
	m.found[c.UserID] = c.Sequence
	var content any
	if c.Content != nil {
		var err error
		if content, _, err = msgp.ReadIntfBytes(c.Content); err != nil {
			m.t.Fatal(err)
		}
	}
	if want := all[c.Sequence-1]; c.Operation != want.operation || !reflect.DeepEqual(content, want.content) {
		m.t.Fatalf("change %d of user %d is %s %v, want %v", c.Sequence, c.UserID, c.Operation, content, want)
	}
}

// readSnapshot follows a refusal of the position, as PROTOCOL.md says.
func (m *changesModel) readSnapshot(refusal *actor.Refusal) {
	pruned := m.h.Value("SELECT max(pruned) FROM ident_partitions")
	if refusal != actor.ChangesMissing || pruned == int64(0) {
		m.t.Fatalf("%v, but pruned is %v", refusal, pruned)
	}
	m.gone++
	listed, err := m.h.List(m.t.Context(), &actor.Page{Size: actor.MaxPageSize, First: true})
	if err != nil || len(listed.Users) != len(m.alive) {
		m.t.Fatalf("%d users are listed and %d are there: %v", len(listed.Users), len(m.alive), err)
	}
	m.after = listed.After
	for id, all := range m.changes {
		m.found[id] = int64(len(all))
	}
}

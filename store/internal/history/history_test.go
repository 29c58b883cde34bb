package history_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// An instance is a store with a lease.
type instance struct {
	*storetest.Harness
	by    ownership.Member
	lease partition.Lease
	logs  *observer.ObservedLogs
	proxy *storetest.Proxy
}

// newInstance opens a store through a proxy. The store has the lease of a partition.
func newInstance(h *storetest.Harness, name string, number int) *instance {
	h.T.Helper()
	core, logs := observer.New(zap.WarnLevel)
	i := &instance{Harness: &storetest.Harness{T: h.T, DB: h.DB, Options: h.Options}, by: storetest.Member(name), logs: logs}
	i.Options.Maintain, i.Options.MaintainAfter = true, time.Hour
	i.Options.Log, i.Options.Name = zap.New(core), name
	i.Store, i.proxy = i.OpenThroughProxy()
	if err := i.EnsureParameters(h.T.Context(), storetest.Parameters(4)); err != nil {
		h.T.Fatal(err)
	}
	i.lease = i.claim(number)
	return i
}

// claim claims a partition, also one that another instance holds.
func (i *instance) claim(number int) partition.Lease {
	i.T.Helper()
	for depose := int64(0); ; {
		events, err := i.Claim(i.T.Context(), []ownership.Claim{{Partition: number, Depose: depose, By: i.by}})
		if err != nil {
			i.T.Fatal(err)
		}
		switch e := events[0].(type) {
		case ownership.Claimed:
			return partition.Lease{Partition: number, Epoch: e.Epoch, Holder: i.by}
		case ownership.ClaimRefused:
			depose = e.Row.Epoch
		}
	}
}

// create creates a user under the lease.
func (i *instance) create(n int) (id int64) {
	i.T.Helper()
	w := storetest.Request(i.T, "create", fmt.Sprintf("create %d", n), storetest.UserArgs(n))
	var err error
	if w.UserID, err = storetest.DrawUserID(i.T.Context(), i.Store); err != nil {
		i.T.Fatal(err)
	}
	if o, err := storetest.Commit(i.T.Context(), i.Store, i.lease, w); err != nil || o.Refusal != nil {
		i.T.Fatal(o, err)
	}
	return w.UserID
}

// changes returns the user ids of the changes after a position, and the position after them; ""
// if the position is gone.
func (i *instance) changes(after string) (users []int64, position string) {
	i.T.Helper()
	page, refusal, err := i.Changes(i.T.Context(), &actor.ChangesPage{After: after, Size: 100})
	switch {
	case err != nil:
		i.T.Fatal(err)
	case refusal == actor.ChangesMissing:
		return nil, ""
	case refusal != nil:
		i.T.Fatal(refusal)
	}
	for _, c := range page.Changes {
		users = append(users, c.UserID)
	}
	return users, page.After
}

// reach pings the database until it answers.
func (i *instance) reach() {
	i.T.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		ctx, cancel := context.WithTimeout(i.T.Context(), 5*time.Second)
		err := i.Ping(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			i.T.Fatal(err)
		}
	}
}

// count returns how many log lines of a level there are.
func (i *instance) count(level zapcore.Level, message string) int {
	return i.logs.FilterMessage(message).FilterLevelExact(level).Len()
}

const (
	lost           = "database has lost commits"
	anotherHistory = "another server or a restored backup is the database; all partitions are claimed again"
)

// A pair is a primary with an asynchronous standby.
type pair struct {
	*storetest.Harness
	primary, standby *localserver.Postgres
	replica          *storetest.Harness // a connection to the standby
}

func startPair(t *testing.T) *pair {
	p := &pair{primary: testservers.OwnPostgres(t, localserver.PostgresOptions{})}
	p.Harness = storetest.StartOnServer(t, p.primary, "ident")
	p.standby = testservers.OwnPostgres(t, localserver.PostgresOptions{StandbyOf: p.primary})
	p.replica = &storetest.Harness{T: t, DB: storetest.Connect(t, p.standby.URL("ident"))}
	return p
}

// catchUp waits until the standby has what the primary has.
func (p *pair) catchUp() {
	p.T.Helper()
	position := p.Value("SELECT pg_current_wal_insert_lsn()::text")
	p.replica.WaitUntil("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", position)
}

// cut keeps the standby from receiving more.
func (p *pair) cut() {
	p.T.Helper()
	p.replica.Exec("ALTER SYSTEM SET primary_conninfo = ''")
	p.replica.Exec("SELECT pg_reload_conf()")
	p.WaitUntil("SELECT NOT EXISTS (SELECT FROM pg_stat_replication)")
}

// failOver kills the primary and leads the instances to the standby.
func (p *pair) failOver(all ...*instance) {
	p.T.Helper()
	p.primary.Kill()
	if err := p.standby.Promote(p.T.Context()); err != nil {
		p.T.Fatal(err)
	}
	for _, i := range all {
		i.proxy.SetServer(net.JoinHostPort(p.standby.Host, strconv.Itoa(p.standby.Port)))
		i.proxy.Cut()
		i.DB = p.replica.DB
	}
	p.DB = p.replica.DB
}

func epochs(h *storetest.Harness) (sum int64) {
	h.T.Helper()
	return h.Value("SELECT sum(epoch)::bigint FROM ident_partitions").(int64)
}

func TestFailover(t *testing.T) {
	t.Run("lost_commits", testFailoverLostCommits)
	t.Run("nothing_lost", testFailoverNothingLost)
}

// testFailoverLostCommits: nothing that an instance has seen is given again, whichever instance
// connects first.
func testFailoverLostCommits(t *testing.T) {
	p := startPair(t)
	a, b, c := newInstance(p.Harness, "a", 1), newInstance(p.Harness, "b", 2), newInstance(p.Harness, "c", 3)
	kept := a.create(1)
	_, early := a.changes("")
	alsoKept := b.create(2)
	p.catchUp()
	p.cut()

	greatest := int64(0)
	for n := range 3 {
		a.create(10 + n)
		greatest = b.create(20 + n)
	}
	lostLease := b.claim(0)
	_, late := a.changes("")
	position := p.Value("SELECT max(position) FROM ident_log").(int64)
	p.failOver(a, b, c)

	c.reach()
	if n := c.count(zap.ErrorLevel, lost); n != 0 || c.count(zap.WarnLevel, anotherHistory) != 1 {
		t.Errorf("the instance that has seen nothing of what was lost said: %v", c.logs.All())
	}
	after := epochs(p.Harness)
	for _, i := range []*instance{a, b} {
		i.reach()
		i.reach()
		if n := i.count(zap.ErrorLevel, lost); n != 1 {
			t.Errorf("an instance said %d times that commits were lost: %v", n, i.logs.All())
		}
		if len(i.Problems()) != 1 {
			t.Errorf("problems: %q", i.Problems())
		}
	}
	if now := epochs(p.Harness); now != after {
		t.Errorf("the epochs were raised again, from %d to %d", after, now)
	}

	if ended, err := a.EndedLeases(t.Context(), []partition.Lease{a.lease}); err != nil || len(ended) != 1 {
		t.Errorf("the lease from before has not ended: %v, %v", ended, err)
	}
	if err := a.RenameUser(a.Store, a.lease, kept, "stale"); !errors.Is(err, actor.ErrFenced) {
		t.Errorf("a write under the lease from before: %v", err)
	}
	if next := a.claim(0); next.Epoch <= lostLease.Epoch {
		t.Errorf("the epoch %d was given, and %d before", next.Epoch, lostLease.Epoch)
	}
	a.lease = a.claim(2)
	next := a.create(30)
	if next <= greatest {
		t.Errorf("the user id %d was given, and %d before", next, greatest)
	}
	if n := p.Value("SELECT max(position) FROM ident_log").(int64); n <= position {
		t.Errorf("the position %d was given, and %d before", n, position)
	}
	if start, err := a.NextStart(t.Context()); err != nil || start < 1000 {
		t.Errorf("start %d, %v", start, err)
	}
	if users, position := a.changes(early); fmt.Sprint(users) != fmt.Sprint([]int64{alsoKept, next}) || position == "" {
		t.Errorf("after a position from before, the changes are those of %v", users)
	}
	if users, position := a.changes(late); position != "" {
		t.Errorf("after a position that was lost, the changes are those of %v", users)
	}
}

// testFailoverNothingLost: subscribers go on, and no instance says that commits were lost.
func testFailoverNothingLost(t *testing.T) {
	p := startPair(t)
	a := newInstance(p.Harness, "a", 1)
	id := a.create(1)
	_, position := a.changes("")
	p.catchUp()
	p.failOver(a)
	a.reach()
	if a.count(zap.ErrorLevel, lost) != 0 || a.count(zap.WarnLevel, anotherHistory) != 1 || len(a.Problems()) != 0 {
		t.Errorf("said was: %v", a.logs.All())
	}
	before := a.lease
	a.lease = a.claim(1)
	if a.lease.Epoch <= before.Epoch {
		t.Errorf("epoch %d after %d", a.lease.Epoch, before.Epoch)
	}
	next := a.create(2)
	if users, after := a.changes(position); fmt.Sprint(users) != fmt.Sprint([]int64{next}) || after == "" {
		t.Errorf("the changes are those of %v", users)
	}
	if next <= id {
		t.Errorf("user id %d after %d", next, id)
	}
}

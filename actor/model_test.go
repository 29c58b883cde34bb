package actor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/cluster/partition"
)

// A model is a store that delays and fails at random. It knows which states a read may
// return: those that the user had at some moment between begin and end of the read.
type model struct {
	Store
	mu         sync.Mutex // guards the following fields
	random     *rand.Rand
	events     int                 // number of events so far
	epoch      int64               // of the valid lease
	versions   map[int64][]version // of each user; the last one is the current one
	wrong      []string            // violations that were found
	incomplete int                 // tasks that were accepted and are not completed yet
}

// A version is the state of a user from some event on.
type version struct {
	name string // "": the user did not exist
	end  int    // the event from which on no read may return it; 0: reads may return it
}

func newModel(seed uint64) *model {
	return &model{random: rand.New(rand.NewPCG(seed, 1)), epoch: 1, versions: map[int64][]version{}}
}

func (m *model) failLocked(format string, args ...any) {
	m.wrong = append(m.wrong, fmt.Sprintf(format, args...))
}

// eventLocked returns the number of a new event.
func (m *model) eventLocked() int {
	m.events++
	return m.events
}

// becomesLocked changes a user. Reads may still return the old version until
// outdatedLocked is called.
func (m *model) becomesLocked(user int64, name string) {
	if len(m.versions[user]) == 0 {
		m.versions[user] = []version{{}}
	}
	m.versions[user] = append(m.versions[user], version{name: name})
}

func (m *model) outdatedLocked(user int64) {
	now := m.eventLocked()
	list := m.versions[user]
	for i := range max(0, len(list)-1) {
		if list[i].end == 0 {
			list[i].end = now
		}
	}
}

func (m *model) nowLocked(user int64) *User {
	list := m.versions[user]
	if len(list) == 0 || list[len(list)-1].name == "" {
		return nil
	}
	return &User{ID: user, Name: list[len(list)-1].name}
}

// chance is true with a probability of n percent.
func (m *model) chance(n int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.random.IntN(100) < n
}

var errModel = errors.New("failed at random")

// pause takes up to 3 ms, and fails sometimes.
func (m *model) pause(ctx context.Context) error {
	m.mu.Lock()
	pause := time.Duration(m.random.IntN(4)) * time.Millisecond
	m.mu.Unlock()
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return ctx.Err()
	}
	if m.chance(10) {
		return errModel
	}
	return nil
}

func (m *model) Find(ctx context.Context, l *Lookup) (*User, error) {
	if err := m.pause(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	u := m.nowLocked(*l.UserID)
	m.mu.Unlock()
	return u, m.pause(ctx)
}

// Commit sets a user's name to the write's digest, or deletes the user. It applies some of
// the writes, all at the same moment.
func (m *model) Commit(ctx context.Context, lease partition.Lease, writes []*Write) ([]Outcome, error) {
	if err := m.pause(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	if lease.Epoch != m.epoch {
		m.mu.Unlock()
		return nil, ErrFenced
	}
	var outcomes []Outcome
	for _, w := range writes[:1+m.random.IntN(len(writes))] {
		if m.random.IntN(10) == 0 {
			outcomes = append(outcomes, Outcome{Refusal: NoSuchUser, After: m.nowLocked(w.UserID)})
			continue
		}
		name := ""
		if w.Operation != "delete" {
			name = strconv.FormatInt(w.Digest, 10)
		}
		m.becomesLocked(w.UserID, name)
		outcomes = append(outcomes, Outcome{UserID: w.UserID, Applied: true, After: m.nowLocked(w.UserID)})
	}
	m.outdatedLocked(writes[0].UserID)
	m.mu.Unlock()
	if err := m.pause(ctx); err != nil && (ctx.Err() != nil || len(outcomes) == 1) {
		return nil, err
	}
	if m.chance(10) {
		for i := range outcomes { // as for a replay
			outcomes[i].Applied, outcomes[i].After = false, nil
		}
	}
	return outcomes, nil
}

// foreign is a write by another program. notify distrusts the cache a little later.
func (m *model) foreign(user, name int64, notify func()) {
	m.mu.Lock()
	m.becomesLocked(user, strconv.FormatInt(name, 10))
	m.mu.Unlock()
	notify()
	m.mu.Lock()
	m.outdatedLocked(user)
	m.mu.Unlock()
}

// An owner is a partition with a lease, and the tasks that it got.
type owner struct {
	m         *model
	p         *Partition
	mailbox   int
	asked     map[int64]int // accepted writes of each user
	completed map[int64]int // completed writes of each user
}

func (m *model) own(c *Cache, mailbox int) *owner {
	m.mu.Lock()
	lease := partition.Lease{Epoch: m.epoch}
	m.mu.Unlock()
	p := NewPartition(PartitionOptions{Store: m, Lease: lease, ReadLease: standing(), Mailbox: mailbox, Cache: c, Fenced: func() {}})
	return &owner{m, p, mailbox, map[int64]int{}, map[int64]int{}}
}

// acceptLocked counts a task that is accepted. The function that it returns must be called
// exactly once, when the task is completed.
func (o *owner) acceptLocked() (completeLocked func()) {
	o.m.incomplete++
	completed := false
	return func() {
		if completed {
			o.m.failLocked("a task was completed twice")
		}
		completed = true
		o.m.incomplete--
	}
}

func (o *owner) write(user, name int64, operation string) error {
	o.m.mu.Lock()
	completeLocked := o.acceptLocked()
	turn := o.asked[user]
	o.asked[user]++
	o.m.mu.Unlock()
	err := o.p.Write(&Write{Operation: operation, UserID: user, Digest: name}, func(Outcome, error) {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		completeLocked()
		if o.completed[user] != turn {
			o.m.failLocked("write %d of user %d was completed after %d", turn, user, o.completed[user])
		}
		o.completed[user]++
	})
	if err != nil {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		completeLocked()
		o.asked[user]--
	}
	return err
}

// never is the size of a mailbox that does not become full.
const never = 1000

func (o *owner) read(t testing.TB, user int64) error {
	o.m.mu.Lock()
	completeLocked := o.acceptLocked()
	before, begin := o.asked[user], o.m.eventLocked()
	o.m.mu.Unlock()
	err := o.p.Get(user, func(reply []byte, err error) {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		completeLocked()
		if o.mailbox == never && o.completed[user] < before {
			o.m.failLocked("a read of user %d was completed before an earlier write", user)
		}
		if err != nil {
			if !errors.Is(err, errModel) && !errors.Is(err, ErrStopped) && !errors.Is(err, ErrFenced) {
				o.m.failLocked("a read failed: %v", err)
			}
			return
		}
		name := nameIn(t, reply)
		for _, v := range o.m.versions[user] {
			if v.name == name && (v.end == 0 || v.end > begin) {
				return
			}
		}
		if len(o.m.versions[user]) > 0 || name != "" {
			o.m.failLocked("a read of user %d that began at %d saw %q, of %v", user, begin, name, o.m.versions[user])
		}
	})
	if err != nil {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		completeLocked()
	}
	return err
}

// A script is a sequence of steps, with the limits.
type script struct {
	seed    uint64
	bounds  CacheOptions
	cached  bool
	mailbox int
	steps   []step
}

type step struct {
	what  int // 0 to 99: selects the kind of step
	user  int64
	pause time.Duration
}

func drawScript(t *rapid.T) script {
	return script{
		seed: rapid.Uint64().Draw(t, "seed"),
		bounds: CacheOptions{
			Users: rapid.IntRange(1, 3).Draw(t, "users"),
			Bytes: rapid.Int64Range(1, 4).Draw(t, "entries") * (entryBytes + 40),
			Idle:  10 * time.Millisecond,
		},
		cached:  rapid.IntRange(0, 9).Draw(t, "cached") > 0,
		mailbox: rapid.SampledFrom([]int{0, 1, 3, never, never, never}).Draw(t, "mailbox"),
		steps: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{
				what:  rapid.IntRange(0, 99).Draw(t, "what"),
				user:  rapid.Int64Range(1, 3).Draw(t, "user"),
				pause: time.Duration(rapid.IntRange(0, 5).Draw(t, "ms")) * time.Millisecond,
			}
		}), 30, 150).Draw(t, "steps"),
	}
}

// In random runs, a read returns a state that the user had between the begin and the end of
// the read (a write by another program takes effect when the cache is distrusted); a user's
// tasks are done in order; and the limits hold.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := drawScript(rt)
		m := newModel(s.seed)
		synctest.Test(t, func(t *testing.T) { m.play(t, s) })
		if m.incomplete != 0 {
			m.failLocked("%d tasks were not completed", m.incomplete)
		}
		if len(m.wrong) > 0 {
			rt.Fatal(m.wrong)
		}
	})
}

// claim gives the partition to another owner. That owner writes to the user, unless user
// is 0.
func (m *model) claim(user int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch++
	if user > 0 {
		m.becomesLocked(user, "elsewhere "+strconv.FormatInt(m.epoch, 10))
		m.outdatedLocked(user)
	}
}

func (m *model) play(t *testing.T, s script) {
	var c *Cache
	trust := func(bool) {}
	if s.cached {
		c = NewCache(s.bounds)
		defer c.Close()
		trust = c.SetTrusted
	}
	trust(true)
	owners := []*owner{m.own(c, s.mailbox)}
	for i, step := range s.steps {
		name, user := int64(i+1), step.user
		o := owners[len(owners)-1]
		moved := false
		switch what := step.what; {
		case what < 18:
			moved = errors.Is(o.write(user, name, "patch"), ErrStopped)
		case what < 20:
			moved = errors.Is(o.write(user, name, "delete"), ErrStopped)
		case what < 64:
			moved = errors.Is(o.read(t, user), ErrStopped)
		case what < 80:
			time.Sleep(step.pause)
		case what < 84:
			synctest.Wait()
		case what < 92:
			m.foreign(user, name, func() { trust(false) })
			trust(what >= 86)
		case what < 94:
			trust(true)
		case what < 95:
			m.claim(0) // the old owner notices it at its next write
		case what < 96:
			o.p.Drain(t.Context())
			moved = true
		case what < 97:
			o.p.Stop()
			moved = true
		case what < 98: // it drains while the next owner starts
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			o.p.Drain(ctx)
			moved = true
		default:
			go o.p.Stop()
		}
		if moved {
			m.claim(user)
			owners = append(owners, m.own(c, s.mailbox))
		}
		if c != nil && (c.Len() > s.bounds.Users || c.Bytes() > s.bounds.Bytes) {
			t.Errorf("%d users in %d bytes, under %+v", c.Len(), c.Bytes(), s.bounds)
		}
	}
	for _, o := range owners {
		if err := o.p.Drain(t.Context()); err != nil || o.p.Load().Actors != 0 {
			t.Errorf("%v, %d actors", err, o.p.Load().Actors)
		}
	}
}

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

// A model is a store that delays and fails at random, and knows which answers a
// read may give: a user as he was at some moment between its begin and its end.
type model struct {
	Store
	mu       sync.Mutex // guards the following fields
	random   *rand.Rand
	events   int                 // what has happened so far
	epoch    int64               // of the lease that is good
	versions map[int64][]version // of each user, the last is the one now
	wrong    []string            // what ought not to have happened
	untold   int                 // tasks that were taken and not told yet
}

// A version is what a user was from some event on.
type version struct {
	name string // "": there was no such user
	end  int    // the event from which on nobody may see it, 0 if it may be seen
}

func newModel(seed uint64) *model {
	return &model{random: rand.New(rand.NewPCG(seed, 1)), epoch: 1, versions: map[int64][]version{}}
}

func (m *model) failLocked(format string, args ...any) {
	m.wrong = append(m.wrong, fmt.Sprintf(format, args...))
}

// event makes something happen.
func (m *model) eventLocked() int {
	m.events++
	return m.events
}

// becomesLocked makes a user another. If others may see the old one for some more
// time, outdated ends that.
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

// chance is true n times in a hundred.
func (m *model) chance(n int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.random.IntN(100) < n
}

var errModel = errors.New("failed at random")

// pause takes up to 3 ms, and fails now and then.
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

// Commit names a user after the write's digest, or deletes one. It does some of the
// writes, all at the same moment.
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
		for i := range outcomes { // as if an earlier try had done it
			outcomes[i].Applied, outcomes[i].After = false, nil
		}
	}
	return outcomes, nil
}

// foreign is a write by another program, of which the cache is told a little
// later.
func (m *model) foreign(user, name int64, told func()) {
	m.mu.Lock()
	m.becomesLocked(user, strconv.FormatInt(name, 10))
	m.mu.Unlock()
	told()
	m.mu.Lock()
	m.outdatedLocked(user)
	m.mu.Unlock()
}

// An owner is a partition under a lease, and what was asked of it.
type owner struct {
	m       *model
	p       *Partition
	mailbox int
	asked   map[int64]int // writes of each user that were taken
	told    map[int64]int // and of which it was told what became
}

func (m *model) own(c *Cache, mailbox int) *owner {
	m.mu.Lock()
	lease := partition.Lease{Epoch: m.epoch}
	m.mu.Unlock()
	p := NewPartition(PartitionOptions{Store: m, Lease: lease, Mailbox: mailbox, Cache: c, Fenced: func() {}})
	return &owner{m, p, mailbox, map[int64]int{}, map[int64]int{}}
}

// askLocked and answerLocked count tasks; each is told once.
func (o *owner) askLocked() (answerLocked func()) {
	o.m.untold++
	told := false
	return func() {
		if told {
			o.m.failLocked("a task was told twice")
		}
		told = true
		o.m.untold--
	}
}

func (o *owner) write(user, name int64, operation string) error {
	o.m.mu.Lock()
	answerLocked := o.askLocked()
	turn := o.asked[user]
	o.asked[user]++
	o.m.mu.Unlock()
	err := o.p.Write(&Write{Operation: operation, UserID: user, Digest: name}, func(Outcome, error) {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		answerLocked()
		if o.told[user] != turn {
			o.m.failLocked("write %d of user %d was told after %d", turn, user, o.told[user])
		}
		o.told[user]++
	})
	if err != nil {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		answerLocked()
		o.asked[user]--
	}
	return err
}

// never is a mailbox that does not become full.
const never = 1000

func (o *owner) read(t testing.TB, user int64) error {
	o.m.mu.Lock()
	answerLocked := o.askLocked()
	before, begin := o.asked[user], o.m.eventLocked()
	o.m.mu.Unlock()
	err := o.p.Get(user, func(answer []byte, err error) {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		answerLocked()
		if o.mailbox == never && o.told[user] < before {
			o.m.failLocked("a read of user %d was told before a write that came before it", user)
		}
		if err != nil {
			if !errors.Is(err, errModel) && !errors.Is(err, ErrStopped) && !errors.Is(err, ErrFenced) {
				o.m.failLocked("a read was told %v", err)
			}
			return
		}
		name := nameIn(t, answer)
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
		answerLocked()
	}
	return err
}

// A script is what happens, and under which bounds.
type script struct {
	seed    uint64
	bounds  CacheOptions
	cached  bool
	mailbox int
	steps   []step
}

type step struct {
	what  int // of a hundred kinds, many of which are the same
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

// Whatever happens, a read sees a user as he was at a moment between its begin
// and its end, where a write by another program happens when the cache is
// distrusted; a user's tasks are done in order; and the bounds hold.
func TestNoReadIsStaleAndAllIsInOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := drawScript(rt)
		m := newModel(s.seed)
		synctest.Test(t, func(t *testing.T) { m.play(t, s) })
		if m.untold != 0 {
			m.failLocked("%d tasks were not told", m.untold)
		}
		if len(m.wrong) > 0 {
			rt.Fatal(m.wrong)
		}
	})
}

// claim makes somebody else the owner, who writes to a user, if one is given.
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
			m.claim(0) // the owner finds out by its next write
		case what < 96:
			o.p.Drain(t.Context())
			moved = true
		case what < 97:
			o.p.Stop()
			moved = true
		case what < 98: // it ends while the next one begins
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

package actor

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster/partition"
)

// fakeStore keeps users in memory. What it does takes a millisecond, unless
// before or after says otherwise: they are called, without the lock, around each
// access, with the write, or nil for a look-up.
type fakeStore struct {
	Store
	before, after func(ctx context.Context, user int64, w *Write) error

	mu      sync.Mutex // guards the following fields
	names   map[int64]string
	epoch   int64 // of the lease that is good
	found   int   // look-ups
	now     map[int64]bool
	most    int // users whose writes were under way at once
	reading int
	readers int // the most look-ups that were under way at once
	order   []*Write
	overlap bool // two writes of one user were under way at once

	together int   // the most writes that are committed at once, 0: one
	batches  []int // how many were given at once
}

func newFakeStore() *fakeStore {
	return &fakeStore{names: map[int64]string{}, epoch: 1, now: map[int64]bool{}}
}

func takeAMillisecond(ctx context.Context) error {
	select {
	case <-time.After(time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *fakeStore) wait(ctx context.Context, hook func(context.Context, int64, *Write) error, user int64, w *Write) error {
	if hook != nil {
		return hook(ctx, user, w)
	}
	return takeAMillisecond(ctx)
}

func (s *fakeStore) Find(ctx context.Context, l *Lookup) (*User, error) {
	s.mu.Lock()
	s.found++
	s.reading++
	s.readers = max(s.readers, s.reading)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.reading--
		s.mu.Unlock()
	}()
	id := *l.UserID
	if err := s.wait(ctx, s.before, id, nil); err != nil {
		return nil, err
	}
	u := s.user(id)
	if s.after != nil {
		if err := s.after(ctx, id, nil); err != nil {
			return nil, err
		}
	}
	return u, nil
}

func (s *fakeStore) user(id int64) *User {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, ok := s.names[id]
	if !ok {
		return nil
	}
	version, _ := strconv.ParseUint(name, 10, 32) // 0 for other names
	return &User{ID: id, Name: name, Version: Version{uint32(version)}}
}

// Commit does up to most writes, and what comes after one that is refused or repeated
// is left.
func (s *fakeStore) Commit(ctx context.Context, lease partition.Lease, writes []*Write) (outcomes []Outcome, err error) {
	s.mu.Lock()
	s.batches = append(s.batches, len(writes))
	most := min(len(writes), max(1, s.together))
	s.mu.Unlock()
	for _, w := range writes[:most] {
		o, err := s.commit(ctx, lease, w)
		switch {
		case err == nil:
			outcomes = append(outcomes, o)
		case len(outcomes) == 0:
			return nil, err
		}
		if err != nil || !o.Applied {
			break
		}
	}
	return outcomes, nil
}

// commit names a user after the write's digest; 0 deletes it.
func (s *fakeStore) commit(ctx context.Context, lease partition.Lease, w *Write) (Outcome, error) {
	s.mu.Lock()
	s.overlap = s.overlap || s.now[w.UserID]
	s.now[w.UserID] = true
	s.most = max(s.most, len(s.now))
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.now, w.UserID)
		s.order = append(s.order, w)
		s.mu.Unlock()
	}()
	if err := s.wait(ctx, s.before, w.UserID, w); err != nil {
		return outcomeOf(err, w.Cached)
	}
	s.mu.Lock()
	fenced := lease.Epoch != s.epoch
	if !fenced {
		s.names[w.UserID] = strconv.FormatInt(w.Digest, 10)
		if w.Digest == 0 {
			delete(s.names, w.UserID)
		}
	}
	s.mu.Unlock()
	if fenced {
		return Outcome{}, ErrFenced
	}
	o := Outcome{UserID: w.UserID, Applied: true, After: s.user(w.UserID)}
	if s.after != nil {
		if err := s.after(ctx, w.UserID, w); err != nil {
			return outcomeOf(err, w.Cached)
		}
	}
	return o, nil
}

var errRepeated = errors.New("it was applied before")

// outcomeOf is what comes of a write that is made to go wrong.
func outcomeOf(err error, known *User) (Outcome, error) {
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return Outcome{Refusal: refusal, After: known}, nil
	case errors.Is(err, errRepeated):
		return Outcome{UserID: 1}, nil
	}
	return Outcome{}, err
}

// finds says how many look-ups there were.
func (s *fakeStore) finds() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found
}

// foreign names a user as another program would.
func (s *fakeStore) foreign(user int64, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[user] = name
}

// nameIn is the user's name that an answer tells, "" for nobody.
func nameIn(t testing.TB, answer []byte) string {
	msg, err := msgpack.Decode(answer, testLimits)
	if err != nil {
		t.Errorf("an answer of %d bytes: %v", len(answer), err)
		return ""
	}
	result, _ := msg.Tree.(map[string]any)["result"].(map[string]any)
	name, _ := result["name"].(string)
	return name
}

// testPartition returns a partition over s that the test stops.
func testPartition(t testing.TB, s Store, c *Cache, mailbox int) *Partition {
	p := NewPartition(PartitionOptions{Store: s, Lease: partition.Lease{Epoch: 1}, Mailbox: mailbox, Cache: c, Fenced: func() {}})
	t.Cleanup(p.Stop)
	return p
}

// testCache returns a trusted cache that the test closes.
func testCache(t testing.TB, o CacheOptions) *Cache {
	c := NewCache(o)
	t.Cleanup(c.Close)
	c.SetTrusted(true)
	return c
}

var roomy = CacheOptions{Users: 1000, Bytes: 1 << 20, Idle: time.Hour}

// read reads a user, and waits for the answer.
func read(t testing.TB, p *Partition, user int64) (name string) {
	t.Helper()
	done := make(chan struct{})
	err := p.Get(user, func(answer []byte, err error) {
		defer close(done)
		if err != nil {
			t.Errorf("reading: %v", err)
			return
		}
		name = nameIn(t, answer)
	})
	if err != nil {
		t.Fatal(err)
	}
	<-done
	return name
}

// write names a user, and waits for the outcome.
func write(t testing.TB, p *Partition, user, name int64) (o Outcome, err error) {
	t.Helper()
	done := make(chan struct{})
	refused := p.Write(&Write{UserID: user, Digest: name}, func(got Outcome, gotErr error) {
		o, err = got, gotErr
		close(done)
	})
	if refused != nil {
		t.Fatal(refused)
	}
	<-done
	return o, err
}

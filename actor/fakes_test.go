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

// A fakeStore keeps users in memory. Each access takes a millisecond, unless the hooks before
// and after are set. The hooks are called around each access, without the lock, with the
// write, or nil for a lookup.
type fakeStore struct {
	Store
	before, after func(ctx context.Context, user int64, w *Write) error

	mu      sync.Mutex // guards the following fields
	names   map[int64]string
	epoch   int64 // of the valid lease
	found   int   // number of lookups
	now     map[int64]bool
	most    int // maximum number of users with a write in progress
	reading int
	readers int // maximum number of lookups in progress
	order   []*Write
	overlap bool // two writes of one user were in progress at the same time

	together int   // maximum number of writes that Commit applies; 0: one
	batches  []int // number of writes of each Commit
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
	return &User{ID: id, Name: name, Version: Version{Rows: [3]uint32{uint32(version)}}}
}

// Commit applies up to s.together writes. It stops after a write that is refused or a
// replay.
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

// commit sets a user's name to the write's digest; the digest 0 deletes the user.
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

var errReplayed = errors.New("applied before")

// outcomeOf returns the result of a write for an error from a hook.
func outcomeOf(err error, cached *User) (Outcome, error) {
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return Outcome{Refusal: refusal, After: cached}, nil
	case errors.Is(err, errReplayed):
		return Outcome{UserID: 1}, nil
	}
	return Outcome{}, err
}

// finds returns the number of lookups.
func (s *fakeStore) finds() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found
}

// foreign changes a user's name as another program would do.
func (s *fakeStore) foreign(user int64, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[user] = name
}

// nameIn returns the user's name in a reply, "" for an error reply.
func nameIn(t testing.TB, reply []byte) string {
	msg, err := msgpack.Decode(reply, testLimits)
	if err != nil {
		t.Errorf("a reply of %d bytes: %v", len(reply), err)
		return ""
	}
	result, _ := msg.Tree.(map[string]any)["result"].(map[string]any)
	name, _ := result["name"].(string)
	return name
}

// testPartition returns a partition with the store s. It is stopped when the test ends.
func testPartition(t testing.TB, s Store, c *Cache, mailbox int) *Partition {
	p := NewPartition(PartitionOptions{Store: s, Lease: partition.Lease{Epoch: 1}, ReadLease: standing(), Mailbox: mailbox, Cache: c, Fenced: func() {}})
	t.Cleanup(p.Stop)
	return p
}

// testCache returns a trusted cache. It is closed when the test ends.
func testCache(t testing.TB, o CacheOptions) *Cache {
	c := NewCache(o)
	t.Cleanup(c.Close)
	c.SetTrusted(true)
	return c
}

var roomy = CacheOptions{Users: 1000, Bytes: 1 << 20, Idle: time.Hour}

// read reads a user and waits for the reply.
func read(t testing.TB, p *Partition, user int64) (name string) {
	t.Helper()
	done := make(chan struct{})
	err := p.Get(user, func(reply []byte, err error) {
		defer close(done)
		if err != nil {
			t.Errorf("reading: %v", err)
			return
		}
		name = nameIn(t, reply)
	})
	if err != nil {
		t.Fatal(err)
	}
	<-done
	return name
}

// write changes a user's name and waits for the outcome.
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

// standing returns a read lease that stands for as long as any test takes.
func standing() *partition.ReadLease {
	l := partition.NewReadLease(func() {})
	l.Extend(time.Now().AddDate(1, 0, 0))
	return l
}

package actor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/glotpod/ident/cluster/partition"
)

var (
	// ErrMailboxFull means that the user's mailbox has reached its limit.
	ErrMailboxFull = errors.New("actor: mailbox full")

	// ErrStopped means that the partition accepts no more work, or that it was
	// stopped before the task was done.
	ErrStopped = errors.New("actor: partition stopped")

	// ErrExpired means that a write expired before it was carried out. A [Store] may return it.
	ErrExpired = errors.New("actor: write expired")
)

// PartitionOptions are the dependencies and limits of a partition.
type PartitionOptions struct {
	Store Store
	Lease partition.Lease // the lease that the writes are committed under

	// ReadLease says when users may be read from Cache. Each commit extends it. If it is nil,
	// they never are.
	ReadLease *partition.ReadLease

	Mailbox int    // limit of tasks that wait for one user; tasks from the partition queue are exempt
	Cache   *Cache // shared by all partitions of the instance; nil: every read goes to the store
	Fenced  func() // called once, when the store reports that the lease was lost; must not block
}

// A Partition runs the actors of the users of one partition for the time of one
// lease. It is safe for concurrent use.
//
// One user's tasks run in the order in which Write and Get were called. A read
// that need not wait for a write may run earlier: see [Partition.Get].
type Partition struct {
	o       PartitionOptions
	ctx     context.Context // cancelled by Stop and by a lost lease; its cause is ErrStopped or ErrFenced
	cancel  context.CancelCauseFunc
	closed  atomic.Bool   // accepts no work and does not use the cache any more; set under mu
	drained chan struct{} // closed when closed is set and no task is left
	fenced  sync.Once     // for the call of o.Fenced

	mu          sync.Mutex       // guards the following fields
	actors      map[int64]*actor // by user id; only of users that have tasks
	bypassReads int              // reads in progress outside of the actors, at most o.Mailbox
}

// NewPartition returns a partition without work. The caller must end it, either with
// Stop or with a Drain that succeeds.
func NewPartition(o PartitionOptions) *Partition {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Partition{o: o, ctx: ctx, cancel: cancel, drained: make(chan struct{}), actors: make(map[int64]*actor)}
}

// Write puts w into the mailbox of its user. The user's actor calls done once, when the
// write is committed or has failed, and waits for done to return.
//
// The error that done gets is the store's, ErrFenced or ErrStopped. After one of the
// last two, a write that was in progress may have been applied. The next owner of
// the partition finds that out by the request id.
//
// Write returns ErrMailboxFull or ErrStopped if it does not accept the write. done is
// not called then. A write that is FromQueue never finds a mailbox full.
func (p *Partition) Write(w *Write, done func(Outcome, error)) error {
	t := task{write: w, onWritten: done}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Load() {
		return ErrStopped
	}
	a := p.actors[w.UserID]
	switch {
	case a == nil:
		p.startActorLocked(w.UserID, t)
	case a.mailboxLen() >= p.o.Mailbox && !w.FromQueue:
		return ErrMailboxFull
	default:
		a.enqueue(t)
	}
	return nil
}

// Get reads a user and calls done once with the encoded reply, which is shared and must
// not be changed. The errors are those of Write.
//
// If a write of the user is in the mailbox, the read waits behind it and sees the
// state that the write leaves behind. Its callback may be called after later writes
// are committed as well.
//
// If there is no write and the user is cached, Get calls done before it returns. If
// the user is not cached, its actor loads it, once for all reads that wait.
//
// If the user is cached and the read lease does not stand, its actor reads it from the store,
// once for all reads that wait.
//
// If the cache is nil or not trusted and there is no write, the read bypasses the
// actor: it goes to the store in parallel with other reads, up to o.Mailbox of them in
// the partition.
//
// A read that finds the mailbox full bypasses the actor too. It sees every write that
// was answered before, but perhaps not the writes in the mailbox. If there are too many
// such reads, Get returns ErrMailboxFull.
func (p *Partition) Get(userID int64, done func(reply []byte, err error)) error {
	return p.readUser(userID, false, done)
}

// GetFromQueue is Get for a read from the partition queue. The consumer's prefetch
// limits the number of such reads, so they never find a mailbox full. Therefore such a
// read always sees the writes before it in the queue.
func (p *Partition) GetFromQueue(userID int64, done func(reply []byte, err error)) error {
	return p.readUser(userID, true, done)
}

func (p *Partition) readUser(userID int64, fromQueue bool, done func(reply []byte, err error)) error {
	reply, err := p.replyOrStart(userID, fromQueue, done)
	if reply != nil {
		done(reply, nil)
	}
	return err
}

// replyOrStart returns the reply if it is cached. Otherwise it starts a read that
// calls done.
func (p *Partition) replyOrStart(userID int64, fromQueue bool, done func([]byte, error)) (cached []byte, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Load() {
		return nil, ErrStopped
	}
	a := p.actors[userID]
	noWrites := a == nil || a.writes == 0
	trusted := p.o.Cache.Trusted()
	if noWrites && trusted {
		if reply := p.o.Cache.reply(p, userID); reply != nil {
			return reply, nil
		}
	}
	mayBypass := p.bypassReads < p.o.Mailbox
	switch t := (task{onRead: done}); {
	case noWrites && !trusted && mayBypass:
		p.startBypassReadLocked(userID, t)
	case a == nil:
		p.startActorLocked(userID, t)
	case fromQueue || a.mailboxLen() < p.o.Mailbox:
		a.enqueue(t)
	case mayBypass:
		p.startBypassReadLocked(userID, t)
	default:
		return nil, ErrMailboxFull
	}
	return nil, nil
}

// GetCached returns the encoded reply with the user of this id, if the user is cached,
// matches l, and has no write in its mailbox, and the read lease stands. Otherwise it returns
// nil. The reply is shared and must not be changed.
func (p *Partition) GetCached(userID int64, l *Lookup) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.actors[userID]; p.closed.Load() || a != nil && a.writes > 0 || p.o.Cache == nil {
		return nil
	}
	return p.o.Cache.matchingReply(p, userID, l)
}

// Prefetch loads a user into the cache in the background, if the cache is trusted and does not
// have it.
func (p *Partition) Prefetch(userID int64) {
	if p.o.Cache.Trusted() && p.o.Cache.entryOf(p, userID) == nil {
		p.Get(userID, func([]byte, error) {}) // after an error, the next read loads the user
	}
}

// A Load is the number of tasks of one or more partitions.
type Load struct {
	Actors  int // users that have tasks, in progress or waiting
	Waiting int // tasks that wait in a mailbox
	Longest int // tasks that wait in the longest mailbox
}

// Add returns the load of the partitions of l and other together.
func (l Load) Add(other Load) Load {
	return Load{l.Actors + other.Actors, l.Waiting + other.Waiting, max(l.Longest, other.Longest)}
}

// Load returns the partition's current load.
func (p *Partition) Load() Load {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := Load{Actors: len(p.actors)}
	for _, a := range p.actors {
		waiting := len(a.tasks) - a.inProgress
		l.Waiting += waiting
		l.Longest = max(l.Longest, waiting)
	}
	return l
}

// Drain makes the partition accept no more work and stop using the cache. Then it waits
// until all tasks are done and every goroutine of the partition has ended. If ctx is done
// first, Drain returns ctx.Err() and the tasks go on. Drain may be called more than
// once, but not from a task's callback.
func (p *Partition) Drain(ctx context.Context) error {
	p.closeIntake()
	select {
	case <-p.drained:
		return nil
	default:
	}
	select {
	case <-p.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop ends the partition without waiting for its work. It cancels the tasks in
// progress and starts no others. Each task that is not done gets ErrStopped. Stop
// returns when every goroutine of the partition has ended. It may be called more than once,
// but not from a task's callback.
func (p *Partition) Stop() {
	p.closeIntake()
	p.cancel(ErrStopped)
	<-p.drained
}

// closeIntake makes the partition accept no more work.
func (p *Partition) closeIntake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Swap(true) {
		return
	}
	p.o.Cache.onPartitionClosed()
	p.checkDrainedLocked()
}

// checkDrainedLocked closes drained if no more work is accepted and no task is left.
// It must be called after each change that may make this true.
func (p *Partition) checkDrainedLocked() {
	if p.closed.Load() && len(p.actors) == 0 && p.bypassReads == 0 {
		close(p.drained)
	}
}

// onFenced stops the partition because its lease was lost.
func (p *Partition) onFenced() {
	p.closeIntake()
	p.cancel(ErrFenced)
	p.fenced.Do(p.o.Fenced)
}

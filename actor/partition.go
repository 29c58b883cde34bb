package actor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

var (
	// ErrMailboxFull says that as many tasks wait for one user as may.
	ErrMailboxFull = errors.New("actor: mailbox full")

	// ErrStopped says that the partition takes no more work, or that it was
	// stopped before a task was done.
	ErrStopped = errors.New("actor: partition stopped")
)

// PartitionOptions says what a partition works with.
type PartitionOptions struct {
	Store   Store
	Lease   partition.Lease // what its writes are committed under
	Mailbox int             // tasks for one user, beside one that is being done and what is Queued
	Cache   *Cache          // shared by all partitions of the instance; nil: every read goes to the store
	Fenced  func()          // called once, when the store says that the lease is over; must not block
}

// A Partition runs the actors of the users of one partition, from when its
// lease was claimed until the lease ends. It is safe for concurrent use.
//
// One user's tasks are done in the order in which Write and Get were called,
// but that reads are not held up needlessly: see [Partition.Get].
type Partition struct {
	o       PartitionOptions
	ctx     context.Context // done when work is broken off; its cause says why
	cancel  context.CancelCauseFunc
	closed  atomic.Bool   // no more work is taken, and nothing answered from the cache; set under mu
	drained chan struct{} // closed when over and nothing is under way
	fenced  sync.Once     // calls Fenced

	mu          sync.Mutex       // guards the following fields
	actors      map[int64]*actor // of the users who have one, by id
	bypassReads int              // reads that are done beside the actors, at most Mailbox
}

// NewPartition returns a partition that has no work. Its owner ends it with
// Stop, or with Finish if that succeeds.
func NewPartition(o PartitionOptions) *Partition {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Partition{o: o, ctx: ctx, cancel: cancel, drained: make(chan struct{}), actors: make(map[int64]*actor)}
}

// Write puts w into the mailbox of its user. When it is committed or has failed,
// done is called, once, by the user's actor, which waits for it to return. The
// error is the store's; or ErrFenced, if the lease is over, or ErrStopped: then
// a write that was under way may have been applied or not, and who takes the
// request next finds out by its identity.
//
// Where Write itself returns an error, ErrMailboxFull or ErrStopped, nothing is
// done and done is not called. For what is Queued, no mailbox is full.
func (p *Partition) Write(w *Write, done func(Outcome, error)) error {
	if w.Trace != nil {
		w.enqueuedAt = time.Now()
	}
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

// Get reads a user. What done is called with, once, is the whole answer, encoded:
// it is shared and must not be changed. The errors are those of Write.
//
// While a write of the user is under way or waits, the read waits behind it, and sees
// what that has left, though it may be told after later writes are committed as well.
// Otherwise, if the user is warm, done is called before Get returns. If not, the
// user's actor loads the user, for all reads that have come until then; but when
// the cache is not trusted, or there is none, such reads go to the store beside
// each other, up to Mailbox of them in the partition at a time.
//
// A read that finds the mailbox full goes to the store in the same way: it sees
// every write that was answered, but perhaps not those that wait. If there are
// too many of these as well, Get returns ErrMailboxFull.
func (p *Partition) Get(userID int64, done func(answer []byte, err error)) error {
	return p.readUser(userID, false, done)
}

// GetFromQueue is Get for a read that came by the partition's queue, which bounds how many
// there are: it finds no mailbox full, and so always sees the writes that came before it.
func (p *Partition) GetFromQueue(userID int64, done func(answer []byte, err error)) error {
	return p.readUser(userID, true, done)
}

func (p *Partition) readUser(userID int64, queued bool, done func(answer []byte, err error)) error {
	answer, err := p.replyOrStart(userID, queued, done)
	if answer != nil {
		done(answer, nil)
	}
	return err
}

// replyOrStart returns the answer, or sees to it that done is called with it.
func (p *Partition) replyOrStart(userID int64, queued bool, done func([]byte, error)) (warm []byte, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Load() {
		return nil, ErrStopped
	}
	a := p.actors[userID]
	noWrites := a == nil || a.writes == 0
	trusted := p.o.Cache.trusted()
	if noWrites && trusted {
		if answer := p.o.Cache.reply(p, userID); answer != nil {
			return answer, nil
		}
	}
	mayBypass := p.bypassReads < p.o.Mailbox
	switch t := (task{onRead: done}); {
	case noWrites && !trusted && mayBypass:
		p.startBypassReadLocked(userID, t)
	case a == nil:
		p.startActorLocked(userID, t)
	case queued || a.mailboxLen() < p.o.Mailbox:
		a.enqueue(t)
	case mayBypass:
		p.startBypassReadLocked(userID, t)
	default:
		return nil, ErrMailboxFull
	}
	return nil, nil
}

// GetCached returns the whole answer, encoded, about a user of this id whom l
// describes, if the user is warm and no write of the user is under way or waits;
// nil otherwise. The answer is shared and must not be changed.
func (p *Partition) GetCached(userID int64, l *Lookup) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.actors[userID]; p.closed.Load() || a != nil && a.writes > 0 || p.o.Cache == nil {
		return nil
	}
	return p.o.Cache.matchingReply(p, userID, l)
}

// Prefetch sees to it that a user is warm soon, if the cache is trusted.
func (p *Partition) Prefetch(userID int64) {
	if p.o.Cache.trusted() {
		p.Get(userID, func([]byte, error) {}) // who is not warm then is read when asked for
	}
}

// A Load is what one partition or several have to do.
type Load struct {
	Actors  int // users whose tasks are under way or wait
	Waiting int // tasks that wait for their user
	Longest int // the most of them for one user
}

// Add returns the load of l's partitions and other's.
func (l Load) Add(other Load) Load {
	return Load{l.Actors + other.Actors, l.Waiting + other.Waiting, max(l.Longest, other.Longest)}
}

// Load says what the partition has to do.
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

// Drain takes no more work from now on, answers nothing more from the cache,
// and waits until what the partition has is done: until every goroutine of its
// own has ended. If ctx is done before, it returns ctx.Err(), and the work goes
// on. It may be called more than once, but not by what a task calls.
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

// Stop ends the partition without finishing its work: what is under way is
// broken off, what waits is not begun, and each task is told ErrStopped if it was
// not done yet. It returns when every goroutine of the partition has ended. It
// may be called more than once, but not by what a task calls.
func (p *Partition) Stop() {
	p.closeIntake()
	p.cancel(ErrStopped)
	<-p.drained
}

// closeIntake takes no more work from now on.
func (p *Partition) closeIntake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Swap(true) {
		return
	}
	p.o.Cache.onPartitionClosed()
	p.checkDrainedLocked()
}

// checkDrainedLocked is called whenever it may have become true that the
// partition is over and nothing of it is under way. Nothing begins any more then.
func (p *Partition) checkDrainedLocked() {
	if p.closed.Load() && len(p.actors) == 0 && p.bypassReads == 0 {
		close(p.drained)
	}
}

// onFenced ends the partition, since its lease is over.
func (p *Partition) onFenced() {
	p.closeIntake()
	p.cancel(ErrFenced)
	p.fenced.Do(p.o.Fenced)
}

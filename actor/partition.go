package actor

import (
	"context"
	"errors"
	"sync"
)

// ErrMailboxFull says that as many writes wait for one user as may.
var ErrMailboxFull = errors.New("actor: mailbox full")

// ErrStopped says that the partition takes no more work.
var ErrStopped = errors.New("actor: partition stopped")

// A Task is a write and whom to tell what became of it.
type Task struct {
	Write *Write

	// Done is called once, by the actor, when the write is committed or has
	// failed. An error means that the partition stopped before: the write may
	// or may not have been applied, and whoever takes the request next will
	// find out by its identity.
	Done func(Outcome, error)
}

// A Partition runs the actors of the users that it is given writes for. It is
// safe for concurrent use.
type Partition struct {
	store   Store
	mailbox int

	ctx    context.Context // done when the partition stops
	cancel context.CancelFunc
	actors sync.WaitGroup

	mu      sync.Mutex // guards the following fields
	waiting map[int64][]Task
	stopped bool
}

// NewPartition returns a partition that writes to store. Up to mailbox tasks
// wait for one user, not counting the one that is being done.
func NewPartition(store Store, mailbox int) *Partition {
	ctx, cancel := context.WithCancel(context.Background())
	return &Partition{store: store, mailbox: mailbox, ctx: ctx, cancel: cancel, waiting: make(map[int64][]Task)}
}

// Deliver puts t into the mailbox of its write's user. Tasks for one user are
// done in the order of their delivery. Where it returns an error, ErrMailboxFull
// or ErrStopped, t is not done and not told.
func (p *Partition) Deliver(t Task) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return ErrStopped
	}
	user := t.Write.UserID
	waiting, active := p.waiting[user]
	if len(waiting) >= p.mailbox {
		return ErrMailboxFull
	}
	if active {
		p.waiting[user] = append(waiting, t)
		return nil
	}
	p.waiting[user] = nil
	p.actors.Go(func() { p.run(user, t) })
	return nil
}

// run is a user's actor. It ends when there is nothing left to do.
func (p *Partition) run(user int64, t Task) {
	for more := true; more; t, more = p.next(user) {
		if err := p.ctx.Err(); err != nil {
			t.Done(Outcome{}, ErrStopped)
			continue
		}
		t.Done(p.store.Commit(p.ctx, t.Write))
	}
}

// next takes the next task out of the user's mailbox. Where there is none, the
// user is passive from now on.
func (p *Partition) next(user int64) (Task, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	waiting := p.waiting[user]
	if len(waiting) == 0 {
		delete(p.waiting, user)
		return Task{}, false
	}
	t := waiting[0]
	waiting[0] = Task{} // so that it is not kept
	p.waiting[user] = waiting[1:]
	return t, true
}

// Active says how many users have work that is under way or waits.
func (p *Partition) Active() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting)
}

// Stop ends the partition without finishing its work: what is under way is
// broken off, what waits is not begun, and all of it is told ErrStopped or the
// store's error. It returns when every actor has ended. It may be called more
// than once.
func (p *Partition) Stop() {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.cancel()
	p.actors.Wait()
}

package actor

import (
	"context"
	"errors"
)

// An actor does one user's tasks one after another, in a goroutine that ends
// when there are none. Its partition's mu guards its fields.
type actor struct {
	waiting []task
	writes  int // that are under way or wait
}

// A task is a write or a read, and whom to tell what became of it.
type task struct {
	write *Write
	wrote func(Outcome, error)
	read  func(answer []byte, err error) // set: it is a read
}

func (a *actor) put(t task) {
	a.waiting = append(a.waiting, t)
	if t.write != nil {
		a.writes++
	}
}

// take takes out what is to be done next: a write, or all reads up to the next
// write. It returns nothing if nothing waits.
func (a *actor) take() []task {
	n := 0
	for n < len(a.waiting) && a.waiting[n].write == nil {
		n++
	}
	if n == 0 {
		n = min(1, len(a.waiting))
	}
	batch := a.waiting[:n:n]
	a.waiting = a.waiting[n:]
	return batch
}

// startLocked makes a user's actor, whose first task is t.
func (p *Partition) startLocked(userID int64, t task) {
	a := new(actor)
	p.actors[userID] = a
	a.put(t)
	batch := a.take()
	go func() {
		for len(batch) > 0 {
			if t := batch[0]; t.write != nil {
				p.write(t)
			} else {
				p.read(userID, batch)
			}
			batch = p.next(userID, a, batch)
		}
	}()
}

// next says what a user's actor has to do after batch. Where there is nothing,
// the user has no actor from now on.
func (p *Partition) next(userID int64, a *actor, batch []task) []task {
	p.mu.Lock()
	defer p.mu.Unlock()
	if batch[0].write != nil {
		a.writes--
	}
	clear(batch) // a longer queue may keep its memory
	batch = a.take()
	if len(batch) == 0 {
		delete(p.actors, userID)
		p.checkDrainedLocked()
	}
	return batch
}

// write commits a write, and brings the cache up to date before it tells.
func (p *Partition) write(t task) {
	if trace := t.write.Trace; trace != nil {
		trace.Waited(t.write.waiting)
	}
	cache := p.o.Cache
	generation := cache.generation()
	var outcome Outcome
	err := context.Cause(p.ctx)
	if err == nil {
		t.write.Known = cache.known(p, t.write.UserID)
		outcome, err = p.o.Store.Commit(p.ctx, p.o.Lease, t.write)
	}
	switch {
	case err == nil && outcome.Applied && outcome.After != nil && cache.current(generation):
		cache.keep(p, outcome.After, AnswerUser(outcome.After), generation)
	case err == nil && outcome.Refusal != nil: // the user is as before
	default:
		cache.forget(p, t.write.UserID)
	}
	if errors.Is(err, ErrFenced) {
		p.fence()
	}
	t.wrote(outcome, p.explain(err))
}

// read answers reads, all of which came before the user is looked for.
func (p *Partition) read(userID int64, batch []task) {
	var err error
	answer := p.o.Cache.get(p, userID)
	if answer == nil {
		answer, err = p.load(userID)
	}
	for _, t := range batch {
		t.read(answer, err)
	}
}

// load reads a user from the store, who is warm afterwards. Only the user's
// actor may call it, since no write may be under way.
func (p *Partition) load(userID int64) (answer []byte, err error) {
	generation := p.o.Cache.generation()
	answer, user, err := p.find(userID)
	if user != nil {
		p.o.Cache.keep(p, user, answer, generation)
	}
	return answer, err
}

// find reads a user from the store, who is nil if there is none.
func (p *Partition) find(userID int64) (answer []byte, user *User, err error) {
	if err := context.Cause(p.ctx); err != nil {
		return nil, nil, err
	}
	user, err = p.o.Store.Find(p.ctx, &Lookup{UserID: &userID})
	switch {
	case err != nil:
		return nil, nil, p.explain(err)
	case user == nil:
		return AnswerRefusal(NoSuchUser), nil, nil
	default:
		return AnswerUser(user), user, nil
	}
}

// explain replaces the error of what was broken off by the reason for that.
func (p *Partition) explain(err error) error {
	if why := context.Cause(p.ctx); err != nil && why != nil {
		return why
	}
	return err
}

// startAsideLocked begins a read that passes the actors by.
func (p *Partition) startAsideLocked(userID int64, t task) {
	p.aside++
	go func() {
		answer, _, err := p.find(userID)
		t.read(answer, err)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.aside--
		p.checkDrainedLocked()
	}()
}

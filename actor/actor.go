package actor

import (
	"context"
	"errors"
	"time"
)

// An actor does one user's tasks one after another, in a goroutine that ends
// when there are none. Its partition's mu guards its fields.
type actor struct {
	tasks      []task // those that are being done, and then those that wait
	inProgress int    // how many are being done
	writes     int    // among tasks
}

// A task is a write or a read, and whom to tell what became of it.
type task struct {
	write     *Write
	onWritten func(Outcome, error)
	onRead    func(answer []byte, err error) // set: it is a read
}

// maxBatch is the greatest number of a user's writes that are given to the store at
// once. It bounds for how long a read waits behind writes that came after it.
const maxBatch = 64

func (a *actor) enqueue(t task) {
	a.tasks = append(a.tasks, t)
	if t.write != nil {
		a.writes++
	}
}

// mailboxLen says how many tasks take up room in the mailbox: all but one that is being
// done. That others are done along with it makes no room for more.
func (a *actor) mailboxLen() int { return len(a.tasks) - min(1, a.inProgress) }

// startBatch returns what is to be done next, nothing if there is nothing: all reads up to
// the next write; or, from a write on, everything up to a number of writes.
func (a *actor) startBatch() []task {
	n, writes, most := 0, 0, 0
	if len(a.tasks) > 0 && a.tasks[0].write != nil {
		most = maxBatch
	}
	for ; n < len(a.tasks); n++ {
		if a.tasks[n].write == nil {
			continue
		}
		if writes == most {
			break
		}
		writes++
	}
	a.inProgress = n
	return a.tasks[:n:n]
}

// removeDone removes what was done: the first n tasks.
func (a *actor) removeDone(n int) {
	for _, t := range a.tasks[:n] {
		if t.write != nil {
			a.writes--
		}
	}
	clear(a.tasks[:n]) // a longer queue may keep its memory
	a.tasks, a.inProgress = a.tasks[n:], 0
}

// startActorLocked makes a user's actor, whose first task is t.
func (p *Partition) startActorLocked(userID int64, t task) {
	a := new(actor)
	p.actors[userID] = a
	a.enqueue(t)
	batch := a.startBatch()
	go func() {
		var known *User
		for len(batch) > 0 {
			done := len(batch)
			if batch[0].write != nil {
				done, known = p.commitWrites(userID, batch, known)
			} else {
				p.answerReads(userID, batch)
				known = nil // the cache has who was read now
			}
			batch = p.nextBatch(userID, a, done)
		}
	}()
}

// nextBatch says what a user's actor has to do after so many tasks. Where there is
// nothing, the user has no actor from now on.
func (p *Partition) nextBatch(userID int64, a *actor, done int) []task {
	p.mu.Lock()
	defer p.mu.Unlock()
	a.removeDone(done)
	batch := a.startBatch()
	if len(batch) == 0 {
		delete(p.actors, userID)
		p.checkDrainedLocked()
	}
	return batch
}

// commitWrites commits the writes of a batch, which begins with one, or the first of them;
// brings the cache up to date; and then tells those who wait for them, and for the
// reads that follow each of them, in order; but where it is not known what a commitWrites has
// left, since it had been done before, or has failed, the reads are done last. It returns
// how many tasks are done, and the user as that leaves him, nil where that is not known,
// for the next batch.
func (p *Partition) commitWrites(userID int64, batch []task, known *User) (done int, next *User) {
	begun := time.Now()
	cache := p.o.Cache
	generation := cache.generation()
	var outcomes []Outcome
	err := context.Cause(p.ctx)
	if err == nil {
		if known == nil {
			known = cache.user(p, userID)
		}
		outcomes, err = p.o.Store.Commit(p.ctx, p.o.Lease, batchWrites(batch, known))
	}
	if err != nil {
		outcomes = []Outcome{{}} // of the first one, which has failed
	}
	if errors.Is(err, ErrFenced) {
		p.onFenced()
	}
	switch last := stateAfter(outcomes[len(outcomes)-1], err); {
	case last.user == nil || !cache.trustedSince(generation):
		cache.evict(p, userID)
	case last.user != known:
		cache.put(p, last.user, UserReply(last.user), generation)
	}

	err = p.cause(err)
	var now userState
	var unanswered []task
	for done < len(batch) {
		if t := batch[done]; t.write != nil {
			if len(outcomes) == 0 {
				break
			}
			now = stateAfter(outcomes[0], err)
			if t.write.Trace != nil {
				t.write.Trace.Waited(t.write.enqueuedAt, begun)
			}
			t.onWritten(outcomes[0], err)
			outcomes = outcomes[1:]
			done++
			continue
		}
		reads := leadingReads(batch[done:])
		if now.unknown {
			unanswered = append(unanswered, reads...)
		} else {
			completeReads(reads, now.reply(), nil)
		}
		done += len(reads)
	}
	if len(unanswered) > 0 {
		p.answerReads(userID, unanswered)
	}
	return done, now.user
}

// batchWrites returns the writes of a batch, of which the first one knows the user.
func batchWrites(batch []task, known *User) []*Write {
	writes := make([]*Write, 0, len(batch))
	for _, t := range batch {
		if t.write != nil {
			writes = append(writes, t.write)
		}
	}
	writes[0].Cached = known
	return writes
}

// leadingReads returns the reads that a batch begins with.
func leadingReads(batch []task) []task {
	n := 0
	for n < len(batch) && batch[n].write == nil {
		n++
	}
	return batch[:n]
}

// A userState is how a user is at some moment.
type userState struct {
	user    *User // nil: there is none, unless unknown
	unknown bool
}

// stateAfter returns how the user is stateAfter a write with this outcome.
func stateAfter(o Outcome, err error) userState {
	if err == nil && (o.Applied || o.After != nil) {
		return userState{user: o.After}
	}
	return userState{unknown: true}
}

// reply is what a get is answered.
func (s userState) reply() []byte {
	if s.user == nil {
		return ErrorReply(NoSuchUser)
	}
	return UserReply(s.user)
}

func completeReads(reads []task, answer []byte, err error) {
	for _, t := range reads {
		t.onRead(answer, err)
	}
}

// answerReads answers reads, all of which came before the user is looked for.
func (p *Partition) answerReads(userID int64, reads []task) {
	var err error
	answer := p.o.Cache.reply(p, userID)
	if answer == nil {
		answer, err = p.loadUser(userID)
	}
	completeReads(reads, answer, err)
}

// loadUser reads a user from the store, who is warm afterwards. Only the user's
// actor may call it, since no write may be under way.
func (p *Partition) loadUser(userID int64) (answer []byte, err error) {
	generation := p.o.Cache.generation()
	answer, user, err := p.findUser(userID)
	if user != nil {
		p.o.Cache.put(p, user, answer, generation)
	}
	return answer, err
}

// findUser reads a user from the store, who is nil if there is none.
func (p *Partition) findUser(userID int64) (answer []byte, user *User, err error) {
	if err := context.Cause(p.ctx); err != nil {
		return nil, nil, err
	}
	user, err = p.o.Store.Find(p.ctx, &Lookup{UserID: &userID})
	switch {
	case err != nil:
		return nil, nil, p.cause(err)
	case user == nil:
		return ErrorReply(NoSuchUser), nil, nil
	default:
		return UserReply(user), user, nil
	}
}

// cause replaces the error of what was broken off by the reason for that.
func (p *Partition) cause(err error) error {
	if why := context.Cause(p.ctx); err != nil && why != nil {
		return why
	}
	return err
}

// startBypassReadLocked begins a read that passes the actors by.
func (p *Partition) startBypassReadLocked(userID int64, t task) {
	p.bypassReads++
	go func() {
		answer, _, err := p.findUser(userID)
		t.onRead(answer, err)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.bypassReads--
		p.checkDrainedLocked()
	}()
}

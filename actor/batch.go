package actor

import (
	"context"
	"errors"
	"time"
)

// commitWrites gives the writes of a batch to the store, which commits the first one
// and perhaps more. The batch begins with a write. cached is the user as the last batch
// left it, or nil if that is not known.
//
// commitWrites updates the cache before it calls any callback. It returns how many
// tasks are done, and the user's state for the next batch, nil if that is not known.
func (p *Partition) commitWrites(userID int64, batch []task, cached *User) (done int, next *User) {
	started := time.Now()
	err := context.Cause(p.ctx)
	if err == nil {
		if batch = untilExpired(batch, started); batch[0].write.IsExpired(started) {
			return p.completeTasks(userID, batch, started, []Outcome{{}}, ErrExpired)
		}
	}
	cache := p.o.Cache
	generation := cache.generation()
	var outcomes []Outcome
	if err == nil {
		if cached == nil {
			cached = cache.user(p, userID)
		}
		outcomes, err = p.o.Store.Commit(p.ctx, p.o.Lease, batchWrites(batch, cached))
	}
	if err != nil {
		outcomes = []Outcome{{}} // err is about the first write alone
	}
	if errors.Is(err, ErrFenced) {
		p.onFenced()
	} else if err == nil {
		p.o.ReadLease.Extend(started)
	}
	switch last := stateAfter(outcomes[len(outcomes)-1], err); {
	case last.user == nil || !cache.trustedSince(generation):
		cache.evict(p, userID)
	case last.user != cached:
		cache.put(p, last.user, UserReply(last.user), generation)
	}
	return p.completeTasks(userID, batch, started, outcomes, p.cause(err))
}

// completeTasks calls the callbacks of a batch in order: of each write that has an outcome,
// and of the reads behind it. The outcome of a replay or a failure does not tell
// the user's state; then the reads behind that write are answered last, from the
// store. err is the error of the first write. The results are those of commitWrites.
func (p *Partition) completeTasks(userID int64, batch []task, started time.Time, outcomes []Outcome, err error) (done int, next *User) {
	var state userState
	var postponed []task
	for done < len(batch) {
		if t := batch[done]; t.write != nil {
			if len(outcomes) == 0 {
				break
			}
			state = stateAfter(outcomes[0], err)
			if t.write.Trace != nil {
				t.write.Trace.Waited(t.enqueuedAt, started)
			}
			t.onWritten(outcomes[0], err)
			outcomes = outcomes[1:]
			done++
			continue
		}
		reads := leadingReads(batch[done:])
		if state.unknown {
			postponed = append(postponed, reads...)
		} else {
			completeReads(reads, state.reply(), nil)
		}
		done += len(reads)
	}
	if len(postponed) > 0 {
		p.answerReads(userID, postponed)
	}
	return done, state.user
}

// untilExpired returns the tasks before the first write that has expired. If that is the
// first task, it returns this one alone.
func untilExpired(batch []task, now time.Time) []task {
	for i, t := range batch {
		if t.write != nil && t.write.IsExpired(now) {
			return batch[:max(1, i)]
		}
	}
	return batch
}

// batchWrites returns the writes of a batch. The first write gets the cached user.
func batchWrites(batch []task, cached *User) []*Write {
	writes := make([]*Write, 0, len(batch))
	for _, t := range batch {
		if t.write != nil {
			writes = append(writes, t.write)
		}
	}
	writes[0].Cached = cached
	return writes
}

// leadingReads returns the reads at the beginning of a batch.
func leadingReads(batch []task) []task {
	n := 0
	for n < len(batch) && batch[n].write == nil {
		n++
	}
	return batch[:n]
}

// A userState is the state of a user between two writes.
type userState struct {
	user    *User // nil: the user does not exist, unless unknown is set
	unknown bool
}

// stateAfter returns the user's state after a write with this outcome.
func stateAfter(o Outcome, err error) userState {
	if err == nil && (o.Applied || o.After != nil) {
		return userState{user: o.After}
	}
	return userState{unknown: true}
}

// reply encodes the reply to a get.
func (s userState) reply() []byte {
	if s.user == nil {
		return ErrorReply(NoSuchUser)
	}
	return UserReply(s.user)
}

func completeReads(reads []task, reply []byte, err error) {
	for _, t := range reads {
		t.onRead(reply, err)
	}
}

// answerReads answers reads from the cache or from the store. All of them must have
// arrived before the call, so that one query can answer them all.
func (p *Partition) answerReads(userID int64, reads []task) {
	var err error
	reply := p.o.Cache.reply(p, userID)
	if reply == nil {
		reply, err = p.loadUser(userID)
	}
	completeReads(reads, reply, err)
}

// loadUser reads a user from the store into the cache. Only the user's actor may call
// it, because no write of the user may be in progress.
func (p *Partition) loadUser(userID int64) (reply []byte, err error) {
	generation := p.o.Cache.generation()
	reply, user, err := p.findUser(userID)
	if user != nil {
		p.o.Cache.put(p, user, reply, generation)
	}
	return reply, err
}

// findUser reads a user from the store. user is nil if it does not exist; reply is
// an error reply then.
func (p *Partition) findUser(userID int64) (reply []byte, user *User, err error) {
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

// cause returns why the partition was stopped, if it was: then err is only a
// consequence of that. Otherwise it returns err.
func (p *Partition) cause(err error) error {
	if cause := context.Cause(p.ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// startBypassReadLocked starts a read from the store that does not go through the
// user's mailbox.
func (p *Partition) startBypassReadLocked(userID int64, t task) {
	p.bypassReads++
	go func() {
		reply, _, err := p.findUser(userID)
		t.onRead(reply, err)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.bypassReads--
		p.checkDrainedLocked()
	}()
}

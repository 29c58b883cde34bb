package actor

import "time"

// An actor runs one user's tasks in order. Its goroutine ends when the mailbox is
// empty. The partition's mu guards the fields.
type actor struct {
	tasks      []task // the mailbox: first the tasks in progress, then those that wait
	inProgress int    // number of tasks in progress
	writes     int    // number of writes in tasks
}

// A task is either a write or a read, with its callback.
type task struct {
	write     *Write
	onWritten func(Outcome, error)
	onRead    func(reply []byte, err error) // not nil: the task is a read

	enqueuedAt time.Time // when it was put into the mailbox
}

// maxBatch is how many writes of a user go to the store at once. A read may have to
// wait until the writes behind it in the same batch are committed; maxBatch bounds
// that time.
const maxBatch = 64

func (a *actor) enqueue(t task) {
	t.enqueuedAt = time.Now()
	a.tasks = append(a.tasks, t)
	if t.write != nil {
		a.writes++
	}
}

// mailboxLen returns how many tasks count against the mailbox's limit. One task in
// progress does not count. The other tasks of its batch do, so that a large batch
// does not make room for more tasks.
func (a *actor) mailboxLen() int { return len(a.tasks) - min(1, a.inProgress) }

// startBatch returns the next tasks to run, or an empty slice if there are none. A
// batch that begins with a read ends before the first write. A batch that begins with a
// write has up to maxBatch writes and all reads between and after them.
func (a *actor) startBatch() []task {
	n, writes, maxWrites := 0, 0, 0
	if len(a.tasks) > 0 && a.tasks[0].write != nil {
		maxWrites = maxBatch
	}
	for ; n < len(a.tasks); n++ {
		if a.tasks[n].write == nil {
			continue
		}
		if writes == maxWrites {
			break
		}
		writes++
	}
	a.inProgress = n
	return a.tasks[:n:n]
}

// removeDone removes the first n tasks, which are done. The rest of the batch waits
// again.
func (a *actor) removeDone(n int) {
	for _, t := range a.tasks[:n] {
		if t.write != nil {
			a.writes--
		}
	}
	clear(a.tasks[:n]) // tasks may share the backing array for a long time
	a.tasks, a.inProgress = a.tasks[n:], 0
}

// startActorLocked starts an actor for a user that has none, with t as its first task.
func (p *Partition) startActorLocked(userID int64, t task) {
	a := new(actor)
	p.actors[userID] = a
	a.enqueue(t)
	batch := a.startBatch()
	go func() {
		var cached *User // as the last batch left it; nil: ask the cache
		for len(batch) > 0 {
			done := len(batch)
			if batch[0].write != nil {
				done, cached = p.commitWrites(userID, batch, cached)
			} else {
				p.answerReads(userID, batch)
				cached = nil // answerReads has put the user into the cache
			}
			batch = p.nextBatch(userID, a, done)
		}
	}()
}

// nextBatch removes the done tasks of a batch and returns the next batch. If there is
// none, it removes the actor.
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

// A UserLoad says which tasks of a user there are, and whether it is cached.
type UserLoad struct {
	Cached     bool
	InProgress int       // tasks that are carried out
	Waiting    int       // tasks that wait in the mailbox
	Writes     int       // of both
	Oldest     time.Time // when the first of these tasks was put into the mailbox; zero: there is none
}

// UserLoad returns the current load of a user. Reads that bypass the actor are not in it.
func (p *Partition) UserLoad(userID int64) UserLoad {
	l := UserLoad{Cached: p.o.Cache.entryOf(p, userID) != nil}
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.actors[userID]; a != nil && len(a.tasks) > 0 {
		l.InProgress, l.Waiting, l.Writes = a.inProgress, len(a.tasks)-a.inProgress, a.writes
		l.Oldest = a.tasks[0].enqueuedAt
	}
	return l
}

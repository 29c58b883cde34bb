package notify

import "sync"

// pending has the notifications that were sent and are not confirmed.
type pending struct {
	mu          sync.Mutex            // guards the following fields
	byID        map[int64]int         // how often each notification is pending
	byPartition map[int]int           // how many notifications are
	drainedChan map[int]chan struct{} // by partition: closed when none is pending any more
}

func newPending() pending {
	return pending{byID: make(map[int64]int), byPartition: make(map[int]int), drainedChan: make(map[int]chan struct{})}
}

// add adds a notification of a partition. The same one may be pending several times.
func (p *pending) add(id int64, partition int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byID[id]++
	p.byPartition[partition]++
}

// remove removes a notification that was added: it is confirmed, or left to the outbox.
func (p *pending) remove(id int64, partition int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byID[id]--; p.byID[id] == 0 {
		delete(p.byID, id)
	}
	if p.byPartition[partition]--; p.byPartition[partition] > 0 {
		return
	}
	delete(p.byPartition, partition)
	if drained := p.drainedChan[partition]; drained != nil {
		close(drained)
		delete(p.drainedChan, partition)
	}
}

// drained returns a channel that is closed when no notification of a partition is
// pending, nil if none is.
func (p *pending) drained(partition int) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byPartition[partition] == 0 {
		return nil
	}
	drained := p.drainedChan[partition]
	if drained == nil {
		drained = make(chan struct{})
		p.drainedChan[partition] = drained
	}
	return drained
}

func (p *pending) has(id int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byID[id] > 0
}

func (p *pending) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.byID)
}

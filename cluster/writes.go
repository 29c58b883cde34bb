package cluster

import (
	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/userid"
	"github.com/glotpod/ident/cluster/partition"
)

// write carries out a write. One that is refused whatever is stored belongs to no user,
// and so to no partition.
func (r *request) write(w *actor.Write) {
	switch {
	case w.Refusal() != nil:
		r.spawn(func() {
			outcomes, err := r.session.o.Store.Commit(r.session.ctx, partition.Lease{}, []*actor.Write{w})
			if err != nil {
				r.replyError(err)
				return
			}
			r.reply(w.Reply(outcomes[0]))
		})
	case w.IsCreate():
		r.create(w)
	default:
		number := partition.Of(w.UserID, r.session.o.Partitions)
		r.writeTo(number, w, r.cameFrom(number))
	}
}

// create carries out a create request: for the id that the instance that has forwarded it
// has reserved, or else for one that is reserved now.
func (r *request) create(w *actor.Write) {
	store := r.session.o.Store
	if id, ok := r.reservedID(); ok {
		number := partition.Of(id, r.session.o.Partitions)
		w.UserID = id
		r.writeTo(number, w, r.cameFrom(number))
		return
	}
	create := func(id int64) {
		w.UserID = id
		r.writeTo(partition.Of(id, r.session.o.Partitions), w, false)
	}
	if id := store.ReservedUserID(); id != 0 {
		create(id)
		return
	}
	r.spawn(func() {
		id, err := store.NewUserID(r.session.ctx)
		if err != nil {
			r.replyError(err)
			return
		}
		create(id)
	})
}

// reservedID returns the id that another instance has reserved for the user that a create
// request makes.
func (r *request) reservedID() (user int64, ok bool) {
	if r.from == nil {
		return 0, false
	}
	sealed, _ := r.delivery.Headers[userIDHeader].([]byte)
	return userid.Sealer(r.session.o.Secret).Open(sealed, r.delivery.Body)
}

// writeTo passes a write to the actors of its user's partition, or forwards it to that
// partition's queue. queued says that it came by that queue, as a request about this
// user. A write that did not is spilled if the user's mailbox is full, or if earlier
// writes of the user were spilled and are still in the queue.
func (r *request) writeTo(number int, w *actor.Write, queued bool) {
	p := r.from
	if !queued {
		p = r.session.accepting(number)
	}
	newUser := int64(0)
	if w.IsCreate() {
		newUser = w.UserID
	}
	if p == nil {
		r.forward(number, newUser, 0)
		return
	}
	if !queued && p.spilled.has(w.UserID) {
		r.spill(p, w.UserID, newUser)
		return
	}
	stopped := func() {
		if queued {
			r.leave() // its channel is being closed
		} else {
			r.forward(number, newUser, 0)
		}
	}
	w.FromQueue = queued
	err := p.users.Write(w, func(o actor.Outcome, err error) {
		defer r.recoverPanic()
		switch {
		case err == nil:
			r.reply(w.Reply(o))
		case isStopped(err):
			stopped()
		default:
			r.replyError(err)
		}
	})
	switch {
	case err == nil:
		if mark, ok := r.delivery.Headers[spillHeader].(int64); queued && ok {
			p.spilled.remove(w.UserID, mark)
		}
	case isStopped(err):
		stopped()
	default:
		r.spill(p, w.UserID, newUser)
	}
}

// spill puts a write into the queue of its partition, which this instance serves.
func (r *request) spill(p *servedPartition, user, newUser int64) {
	r.session.metrics.Overloads.WithLabelValues(metrics.OverloadMailbox).Inc()
	r.forward(p.lease.Partition, newUser, p.spilled.add(user))
}

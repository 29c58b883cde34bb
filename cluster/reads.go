package cluster

import (
	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
)

// get carries out a get request.
func (r *request) get(l *actor.Lookup) {
	id, byID := l.ByIDAlone()
	if !byID {
		if reply := r.cachedReply(l); reply != nil {
			r.reply(reply)
		} else {
			r.spawn(func() { r.find(l) })
		}
		return
	}
	number := partition.Of(id, r.session.o.Partitions)
	if r.from != nil {
		if r.cameFrom(number) {
			r.getFrom(r.from.users.GetFromQueue, id, l, r.leave) // its channel is being closed
		} else {
			r.forward(number, 0, 0) // it stays in order with writes that came by the same queue
		}
		return
	}
	if p := r.session.accepting(number); p != nil {
		r.getFrom(p.users.Get, id, l, func() { r.spawn(func() { r.find(l) }) })
	} else {
		r.spawn(func() { r.find(l) })
	}
}

// cachedReply returns the reply about a user that is found by something else than its id,
// if the user is cached here; otherwise nil.
func (r *request) cachedReply(l *actor.Lookup) []byte {
	id := r.session.cache.FindID(l)
	if id == 0 {
		return nil
	}
	p := r.session.accepting(partition.Of(id, r.session.o.Partitions))
	if p == nil {
		return nil
	}
	return p.users.GetCached(id, l)
}

// getFrom asks a partition for a user by get. If the partition stops before it has
// replied, getFrom calls stopped. If too many requests wait for the user, it reads the
// database, which contains all writes that were replied to.
func (r *request) getFrom(get func(int64, func([]byte, error)) error, id int64, l *actor.Lookup, stopped func()) {
	r.trace.readStarts()
	err := get(id, func(reply []byte, err error) {
		defer r.recoverPanic()
		r.trace.readEnds()
		if isStopped(err) {
			stopped()
			return
		}
		r.replyOr(reply, err)
	})
	switch {
	case err == nil:
	case isStopped(err):
		stopped()
	default:
		r.spawn(func() { r.find(l) })
	}
}

// find reads a user from the database.
func (r *request) find(l *actor.Lookup) {
	r.trace.readStarts()
	user, err := r.session.o.Store.Find(r.session.ctx, l)
	r.trace.readEnds()
	switch {
	case err != nil:
		r.replyError(err)
	case user == nil:
		r.reply(actor.ErrorReply(actor.NoSuchUser))
	default:
		r.reply(actor.UserReply(user))
		if p := r.session.accepting(partition.Of(user.ID, r.session.o.Partitions)); p != nil {
			p.users.Prefetch(user.ID)
		}
	}
}

// list reads a page of users from the database.
func (r *request) list(page *actor.Page) {
	r.trace.readStarts()
	users, next, err := r.session.o.Store.List(r.session.ctx, page)
	r.trace.readEnds()
	if err != nil {
		r.replyError(err)
		return
	}
	r.reply(actor.PageReply(users, next))
}

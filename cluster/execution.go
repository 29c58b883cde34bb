package cluster

import (
	"context"
	"errors"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/seal"
	"github.com/glotpod/ident/cluster/partition"
)

// get carries out a get request.
func (r *request) get(l *actor.Lookup) {
	id, byID := l.ByIDAlone()
	if !byID {
		if reply := r.cachedReply(l); reply != nil {
			replyUser(r, reply)
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
			r.forward(number, 0) // it stays in order with writes that came by the same queue
		}
		return
	}
	if p := r.session.slots.accepting(number); p != nil {
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
	p := r.session.slots.accepting(partition.Of(id, r.session.o.Partitions))
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
		if err != nil {
			r.replyError(err)
			return
		}
		replyUser(r, reply)
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
		replyUser(r, actor.UserReply(user))
		if p := r.session.slots.accepting(partition.Of(user.ID, r.session.o.Partitions)); p != nil {
			p.users.Prefetch(user.ID)
		}
	}
}

// readPage reads a page from the database.
func (r *request) readPage(read func(context.Context, Store) (reply []byte, err error)) {
	r.trace.readStarts()
	reply, err := read(r.session.ctx, r.session.o.Store)
	r.trace.readEnds()
	r.replyOr(reply, err)
}

// listUsers returns a function that reads a page of users.
func listUsers(page *actor.Page) func(context.Context, Store) ([]byte, error) {
	return func(ctx context.Context, s Store) ([]byte, error) {
		users, err := s.List(ctx, page)
		if err != nil {
			return nil, err
		}
		return actor.PageReply(&users), nil
	}
}

// readChanges returns a function that reads a page of changes.
func readChanges(page *actor.ChangesPage) func(context.Context, Store) ([]byte, error) {
	return func(ctx context.Context, s Store) ([]byte, error) {
		changes, refusal, err := s.Changes(ctx, page)
		switch {
		case err != nil:
			return nil, err
		case refusal != nil:
			return actor.ErrorReply(refusal), nil
		}
		return actor.ChangesReply(&changes), nil
	}
}

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
	if id, ok := r.reservedID(); ok {
		number := partition.Of(id, r.session.o.Partitions)
		w.UserID = id
		// If a user has the id, it may be the create itself that has made it, in another
		// delivery of which the request id is not known.
		r.onlyThisUserID = r.writeIDMade
		r.writeTo(number, w, r.cameFrom(number))
		return
	}
	r.createNew(w)
}

// createNew carries out a create request for an id that is reserved now.
func (r *request) createNew(w *actor.Write) {
	store := r.session.o.Store
	create := func(id int64) {
		w.UserID = id
		r.writeTo(partition.Of(id, r.session.o.Partitions), w, false)
	}
	if id := store.ReservedUserID(); id != 0 {
		create(id)
		return
	}
	r.spawn(func() {
		id, decided, err := store.NewUserID(r.session.ctx, w)
		switch {
		case err != nil:
			r.replyError(err)
		case decided != nil:
			r.reply(w.Reply(*decided))
		default:
			create(id)
		}
	})
}

// returnUserID returns the id of a create that has not used it to the store. If the create is
// delivered again with the id, its request id tells that it was decided. It is different if
// this delivery is such a one: then the id may have been returned before, and may be in use.
func returnUserID(r *request, w *actor.Write, o actor.Outcome) {
	used := o.Applied || o.UserID == w.UserID || o.Refusal == actor.UserIDTaken
	recorded := o.Refusal == nil || o.Refusal.Code != actor.InvocationFailed
	if w.IsCreate() && !used && recorded && !r.onlyThisUserID && !r.delivery.Redelivered && r.relayed == nil {
		r.session.o.Store.ReturnUserID(w.UserID)
	}
}

// reservedID returns the id that another instance has reserved for the user that a create
// request makes.
func (r *request) reservedID() (user int64, ok bool) {
	if r.from == nil {
		return 0, false
	}
	sealed, _ := r.delivery.Headers[userIDHeader].([]byte)
	return seal.Sealer(r.session.o.Secret).OpenUserID(sealed, r.delivery.Body)
}

// writeTo passes a write to the actors of its user's partition, or has it forwarded to the
// instance that serves the partition. queued says that it came by the partition's queue, as a
// request about this user.
func (r *request) writeTo(number int, w *actor.Write, queued bool) {
	x := &forwardedWrite{request: r, write: w, partition: number}
	if w.IsCreate() {
		x.newUser = w.UserID
	}
	switch {
	case queued:
		r.writeIn(r.from, x, r.leave) // its channel is being closed
	case r.from != nil: // misrouted
		if !x.Serve() {
			r.forward(number, x.newUser)
		}
	default:
		r.session.relay.Forward(number, x, cameBackOften(&r.delivery))
	}
}

// writeIn passes a write to the actors of a partition. If they have stopped before it is
// committed, stopped is called. If the user's mailbox is full, a write that came by the shared queue is
// spilled, and stopped is called for one that was relayed.
func (r *request) writeIn(p *servedPartition, x *forwardedWrite, stopped func()) {
	w := x.write
	w.FromQueue = r.from == p
	user := w.UserID // when the write is in the mailbox, the callback may change it
	err := p.users.Write(w, func(o actor.Outcome, err error) {
		defer r.recoverPanic()
		switch {
		case err == nil && o.Refusal == actor.UserIDTaken && r.relayed != nil:
			r.completed.Do(func() { giveBack(r) })
		case err == nil && o.Refusal == actor.UserIDTaken && !r.onlyThisUserID:
			w.Cached = nil
			r.spawn(func() { r.createNew(w) })
		case err == nil:
			returnUserID(r, w, o)
			r.reply(w.Reply(o))
		case isStopped(err):
			stopped()
		case errors.Is(err, actor.ErrExpired):
			r.drop(metrics.OutcomeExpired)
		default:
			r.replyError(err)
		}
	})
	switch {
	case err == nil:
		if mark, ok := spillMark(r.delivery.Headers); r.from == p && ok {
			p.spilled.remove(user, mark)
		}
	case isStopped(err), r.relayed != nil:
		stopped()
	default:
		r.spill(p, user, x.newUser)
	}
}

// spill puts a write into the queue of its partition, which this instance serves.
func (r *request) spill(p *servedPartition, user, newUser int64) {
	if !r.mayForward() {
		return
	}
	r.session.metrics.Overloads.WithLabelValues(metrics.OverloadMailbox).Inc()
	r.sendForward(p.lease.Partition, newUser, p.spilled.add(user))
}

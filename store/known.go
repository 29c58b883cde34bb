package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/postgres"
)

// Most writes are to users whom this process knows, since it has read or written
// them last. Then there is nothing to be read: the writes decide on what is known,
// and one round trip does the rest. In it a first statement looks whether all is
// as those decisions took it to be, and the statements that write do so only
// then. It is not so where another program has changed a user, a request comes
// again, a lease is over, or an email has an owner. That is found out by the
// usual two round trips.

// isNotKnown says whether the first write cannot decide without the database.
func (p *pending) isNotKnown() bool {
	w := p.first()
	return p.reread || p.unsure || w.Refusal() == nil && !w.IsCreate() && (w.Cached == nil || w.Cached.Version == actor.Version{})
}

// tryKnown is tryGroup, for writes that are all known, and as many of each pending as can
// be committed together. It returns as well those that have to be read after all.
func (s *Store) tryKnown(all []*pending) (done int, again []*pending, err error) {
	ctx, cancel := context.WithTimeout(s.work, postgres.AttemptTimeout)
	defer cancel()
	g := &group{store: s}
	g.writes, again = distinct(all)
	for _, p := range again {
		p.reread = true
	}
	var e expectation
	unfit, err := g.decideKnown(&e)
	if err != nil {
		return 0, nil, err
	}
	again = append(unfit, again...)

	sound := false
	batch := new(pgx.Batch)
	g.queueLocks(batch)
	e.queue(batch, &sound)
	removal := s.outbox.Remove()
	g.plan.queue(batch, removal, isSound)
	var ids []int64
	s.userIDs.reserved.queue(batch, g.writes, &ids)
	err = s.pool.Transact(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.SendBatch(ctx, batch).Close()
	})
	removal.Done(err)
	if err != nil {
		return 0, nil, fmt.Errorf("writing to users who are known: %w", err)
	}
	s.userIDs.reserved.put(ids)
	if !sound {
		s.metrics.misses.Inc()
		for _, p := range g.writes {
			p.reread = true
		}
		return 0, append(g.writes, again...), nil
	}
	return s.finish(&g.plan), again, nil
}

// decideKnown lets each write decide on the user whom it knows, or the one before it has
// left, plans the changes, and notes in e what they take for granted. It takes those out
// of the group that it did not come to, or that want what another one wants, and returns
// them.
func (g *group) decideKnown(e *expectation) (unfit []*pending, err error) {
	kept := make([]*pending, 0, len(g.writes))
	deadline := time.Now().Add(decideFor)
	for i, p := range g.writes {
		if i > 0 && g.isFull(deadline) {
			unfit = append(unfit, leaveOut(g.writes[i:])...)
			break
		}
		d := decided{pending: p, current: p.first().Cached}
		g.ask(&d, deadline)
		if next := d.firstNext(); next != nil {
			if g.owners.conflict(next) != "" { // one of these writes wants the same
				p.part, p.reread = 0, true
				unfit = append(unfit, p)
				continue
			}
			g.owners.add(next)
			e.wanted.add(d.current, next)
		}
		e.add(d)
		if err := g.plan.add(g.store, d); err != nil {
			return nil, err
		}
		kept = append(kept, p)
	}
	g.writes = kept
	return unfit, nil
}

// An expectation is what has to be so in the database for decisions to be right.
type expectation struct {
	leases     []partition.Lease // that are not over
	identities uuids             // of requests that have not come before
	users      []int64           // whose rows are of these versions
	versions   [len(actor.Version{})][]uint32
	accounts   bool // some of their accounts will be changed
	wanted     wantedKeys
}

// add notes what the decisions on a user take for granted.
func (e *expectation) add(d decided) {
	p := d.pending
	if p.lease.Epoch != 0 && !slices.Contains(e.leases, p.lease) {
		e.leases = append(e.leases, p.lease)
	}
	for i, w := range p.writes[:p.part] {
		if w.RequestID != (actor.RequestID{}) {
			e.identities = append(e.identities, uuidOf(p.identities[i]))
		}
	}
	if p.first().Refusal() != nil || p.first().IsCreate() {
		return
	}
	e.users = append(e.users, d.current.ID)
	for i, version := range d.current.Version {
		e.versions[i] = append(e.versions[i], version)
	}
	for _, decision := range d.decisions {
		if decision.Refusal != nil {
			continue
		}
		for _, service := range services {
			if decision.Next == nil || !equal(*accountOf(d.current, service), *accountOf(decision.Next, service)) {
				e.accounts = true
			}
		}
	}
}

const (
	// setSound says until the end of the transaction whether an expectation
	// holds, and the transaction is one in which each statement sees what was
	// committed before it, as the fence needs it. Rows that will be changed are locked; one that another transaction
	// has locked is not waited for, as in [group.lock]. The subqueries are such
	// that each can only be answered by an index, and for each key by itself.
	setSound = "SELECT set_config('ident.sound', (current_setting('transaction_isolation') = 'read committed'%s)::text, true)"

	isSound = "current_setting('ident.sound')::boolean"

	leasesHold = ` AND NOT EXISTS (SELECT FROM unnest(%s::int[], %s::bigint[]) AS l (partition, epoch) WHERE
		(SELECT p.epoch FROM ident_partitions p WHERE p.partition = l.partition AND NOT p.released) IS DISTINCT FROM l.epoch)`

	identitiesNew = ` AND NOT EXISTS (SELECT FROM ident_requests WHERE identity = ANY(%s::uuid[]))`

	usersUnchanged = ` AND NOT EXISTS (SELECT FROM unnest(%s::int[], %s::xid[], %s::xid[], %s::xid[]) AS k (id, version, gh, fb) WHERE
		coalesce((SELECT u.xmin FROM users u WHERE u.id = k.id FOR UPDATE SKIP LOCKED), '0') <> k.version OR
		coalesce((SELECT s.xmin FROM services s WHERE s.sv_name = 'gh' AND s.user_id = k.id /*lock*/), '0') <> k.gh OR
		coalesce((SELECT s.xmin FROM services s WHERE s.sv_name = 'fb' AND s.user_id = k.id /*lock*/), '0') <> k.fb)`

	emailsFree = ` AND NOT EXISTS (SELECT FROM users WHERE email_address = ANY(%s::text[]))`

	accountsFree = ` AND NOT EXISTS (SELECT FROM unnest(%s::text[]::svc_type[], %s::bigint[]) AS w (sv_name, sv_id) WHERE
		(SELECT s.user_id FROM services s WHERE s.sv_id = w.sv_id AND s.sv_name = w.sv_name) IS NOT NULL)`
)

// queue asks whether all is so, and lets the statements after it know by isSound.
func (e *expectation) queue(batch *pgx.Batch, sound *bool) {
	var conditions strings.Builder
	var args []any
	expect := func(condition string, with ...any) {
		places := make([]any, len(with))
		for i := range with {
			places[i] = "$" + strconv.Itoa(len(args)+i+1)
		}
		fmt.Fprintf(&conditions, condition, places...)
		args = append(args, with...)
	}
	if len(e.leases) > 0 {
		partitions, epochs := make([]int, len(e.leases)), make([]int64, len(e.leases))
		for i, lease := range e.leases {
			partitions[i], epochs[i] = lease.Partition, lease.Epoch
		}
		expect(leasesHold, partitions, epochs)
	}
	if len(e.identities) > 0 {
		expect(identitiesNew, e.identities)
	}
	if len(e.users) > 0 {
		condition := usersUnchanged
		if e.accounts {
			condition = strings.ReplaceAll(condition, "/*lock*/", "FOR UPDATE SKIP LOCKED")
		}
		expect(condition, e.users, e.versions[0], e.versions[1], e.versions[2])
	}
	if w := &e.wanted; len(w.emails) > 0 {
		expect(emailsFree, w.emails)
	}
	if w := &e.wanted; len(w.serviceIDs) > 0 {
		expect(accountsFree, w.services, w.serviceIDs)
	}
	batch.Queue(fmt.Sprintf(setSound, conditions.String()), args...).QueryRow(func(row pgx.Row) error {
		var text string
		err := row.Scan(&text)
		*sound = text == "true"
		return err
	})
}

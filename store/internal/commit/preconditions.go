package commit

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/userrows"
)

// preconditions are what decisions on cached users assume about the database.
type preconditions struct {
	leases   []partition.Lease                   // have not ended
	requests uuids                               // were not decided before
	users    []int64                             // have these versions:
	versions [len(actor.Version{}.Rows)][]uint32 // by row, one for each of users
	accounts bool                                // some accounts of users will be changed
	wanted   userrows.WantedKeys                 // have no owners
}

// add adds what the decisions on a user assume.
func (r *preconditions) add(d decided) {
	p := d.pending
	if p.lease.Epoch != 0 && !slices.Contains(r.leases, p.lease) {
		r.leases = append(r.leases, p.lease)
	}
	for i, w := range p.writes[:p.inAttempt] {
		if hasRequestID(w) {
			r.requests = append(r.requests, uuidOf(p.requestIDs[i]))
		}
	}
	if p.first().Refusal() != nil || p.first().IsCreate() {
		return
	}
	r.users = append(r.users, d.current.ID)
	for i, version := range d.current.Version.Rows {
		r.versions[i] = append(r.versions[i], version)
	}
	for _, decision := range d.decisions {
		if decision.Refusal != nil {
			continue
		}
		for _, service := range userrows.Services {
			if decision.Next == nil || !userrows.Equal(*userrows.AccountOf(d.current, service), *userrows.AccountOf(decision.Next, service)) {
				r.accounts = true
			}
		}
	}
}

const (
	// checkPreconditions sets a setting, until the end of the transaction, to whether
	// the preconditions hold. One of them is that each statement of the transaction
	// sees everything that was committed before it, as the fence needs it.
	//
	// The statement locks the rows that will be changed. It does not wait for a row
	// that another transaction has locked (see attempt.lock). Each subquery
	// looks up one key at a time, so that its plan has to use an index. The statements
	// after it wait only shortly, for the keys of rows that another transaction inserts.
	checkPreconditions = "SELECT set_config('ident.preconditions_hold', (current_setting('transaction_isolation') = 'read committed'%s)::text, true), " + setShortWait

	// preconditionsHold is a condition for the statements after checkPreconditions.
	preconditionsHold = "current_setting('ident.preconditions_hold')::boolean"

	leasesAreValid = ` AND NOT EXISTS (
		SELECT FROM unnest(%s::int[], %s::bigint[], %s::text[], %s::bigint[], %s::bigint[]) AS l (partition, epoch, holder, start, session) WHERE
		(SELECT p.epoch FROM ident_partitions p WHERE p.partition = l.partition AND NOT p.released AND p.holder = l.holder
			AND p.holder_start = l.start AND p.holder_session = l.session) IS DISTINCT FROM l.epoch)`

	requestsAreNew = ` AND NOT EXISTS (SELECT FROM %s WHERE request = ANY(%%s::uuid[]))`

	usersAreUnchanged = ` AND NOT EXISTS (SELECT FROM unnest(%s::bigint[], %s::xid[], %s::xid[], %s::xid[]) AS k (id, version, gh, fb) WHERE
		coalesce((SELECT u.xmin FROM users u WHERE u.id = k.id FOR UPDATE SKIP LOCKED), '0') <> k.version OR
		coalesce((SELECT s.xmin FROM services s WHERE s.user_id = k.id AND s.sv_name::text = 'gh' /*lock*/), '0') <> k.gh OR
		coalesce((SELECT s.xmin FROM services s WHERE s.user_id = k.id AND s.sv_name::text = 'fb' /*lock*/), '0') <> k.fb)`

	emailsAreFree = ` AND NOT EXISTS (SELECT FROM users WHERE email_address = ANY(%s::text[]))`

	accountsAreFree = ` AND NOT EXISTS (SELECT FROM unnest(%s::text[], %s::bigint[]) AS w (sv_name, sv_id) WHERE
		(SELECT s.user_id FROM services s WHERE s.sv_id = w.sv_id AND s.sv_name::text = w.sv_name) IS NOT NULL)`
)

// queue checks the preconditions, so that the statements after it may use
// preconditionsHold, and sets hold.
func (r *preconditions) queue(batch *pgx.Batch, tables changelog.Tables, hold *bool) {
	var conditions strings.Builder
	var args []any
	require := func(condition string, with ...any) {
		places := make([]any, len(with))
		for i := range with {
			places[i] = "$" + strconv.Itoa(len(args)+i+1)
		}
		fmt.Fprintf(&conditions, condition, places...)
		args = append(args, with...)
	}
	if len(r.leases) > 0 {
		n := len(r.leases)
		partitions, epochs := make([]int, n), make([]int64, n)
		holders, starts, sessions := make([]string, n), make([]int64, n), make([]int64, n)
		for i, l := range r.leases {
			partitions[i], epochs[i] = l.Partition, l.Epoch
			holders[i], starts[i], sessions[i] = l.Holder.Name, l.Holder.Incarnation.Start, l.Holder.Incarnation.Session
		}
		require(leasesAreValid, partitions, epochs, holders, starts, sessions)
	}
	if len(r.requests) > 0 {
		for _, table := range tables.Recent {
			require(fmt.Sprintf(requestsAreNew, table), r.requests)
		}
	}
	if len(r.users) > 0 {
		condition := usersAreUnchanged
		if r.accounts {
			condition = strings.ReplaceAll(condition, "/*lock*/", "FOR UPDATE SKIP LOCKED")
		}
		require(condition, r.users, r.versions[0], r.versions[1], r.versions[2])
	}
	if w := &r.wanted; len(w.Emails) > 0 {
		require(emailsAreFree, w.Emails)
	}
	if w := &r.wanted; len(w.ServiceIDs) > 0 {
		require(accountsAreFree, w.Services, w.ServiceIDs)
	}
	batch.Queue(fmt.Sprintf(checkPreconditions, conditions.String()), args...).QueryRow(func(row pgx.Row) error {
		var text string
		err := row.Scan(&text, nil)
		*hold = text == "true"
		return err
	})
}

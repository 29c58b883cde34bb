package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/postgres"
)

// A group is one try to commit the writes that share a transaction. Of each
// user there is at most one pending, and of each identity one write in it.
type group struct {
	store  *Store
	writes []*pending
	epochs map[int]int64         // of the writes' partitions, but for those that are released
	rows   map[int64]int         // of each of the writes' users, there when the locking began
	stored map[int64]*storedUser // those users' rows that could be locked
	known  map[actor.RequestID]outcomeRow
	owners keyOwners // emails and service ids that other users have
	weight int       // bytes of what is written for the decisions so far, about
	plan   plan
}

// isFull says that the group is not to get any further decisions, but for its first one.
func (g *group) isFull(deadline time.Time) bool {
	return g.weight > maxGroupBytes || time.Now().After(deadline)
}

// A storedUser is a user's rows, and their xmin as the user's version: that of the
// user's own, and those of services in their order. It is not changed once it was
// read.
type storedUser struct {
	user   actor.User            // without access tokens
	tokens [len(services)][]byte // sealed
}

// rows is how many rows a user has; nobody has none.
func (u *storedUser) rows() int {
	if u == nil {
		return 0
	}
	n := 1
	for _, service := range services {
		if *accountOf(&u.user, service) != nil {
			n++
		}
	}
	return n
}

func (u *storedUser) setAccount(service string, id int64, token []byte, version uint32) {
	*accountOf(&u.user, service) = &actor.Account{ID: id}
	i := slices.Index(services[:], service)
	u.tokens[i], u.user.Version[1+i] = token, version
}

// An outcomeRow is what ident_requests holds of a request.
type outcomeRow struct {
	digest  int64
	outcome actor.Outcome
}

// decideFor bounds how long the writes of a group may take to decide, while others
// wait and rows may be locked, but for the last one that does.
const decideFor = 500 * time.Millisecond

// decideOneFor likewise bounds how long the writes to one user may take, while others'
// wait that could be committed along with the first of them.
const decideOneFor = 20 * time.Millisecond

// tryGroup commits a group of writes in one transaction, as many of each pending as can
// be committed together, and finishes those. It says how many these are, and returns the
// pendings that have to wait for another of the group: whose user or identity they
// share, or who took too long. On an error, none is finished.
func (s *Store) tryGroup(all []*pending) (done int, again []*pending, err error) {
	ctx, cancel := context.WithTimeout(s.work, postgres.AttemptTimeout)
	defer cancel()
	g := &group{store: s}
	g.writes, again = distinct(all)
	var busy []*pending
	err = s.pool.Transact(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		if err := g.lock(ctx, conn); err != nil {
			return fmt.Errorf("locking the users: %w", err)
		}
		g.setAsideFenced()
		busy = g.setAsideBusy()
		begun := time.Now()
		late, err := g.decide(ctx, conn, begun.Add(decideFor))
		if err != nil {
			return fmt.Errorf("checking for conflicts: %w", err)
		}
		again = append(late, again...)
		if err := g.plan.commit(ctx, conn, s); err != nil {
			return fmt.Errorf("committing: %w", err)
		}
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	done = s.finish(&g.plan)
	for _, p := range busy {
		s.postpone(p)
	}
	return done, again, nil
}

// distinct divides writes into those that can share a transaction and the rest, in
// order, and says of each pending how many of its writes are among the first. Both are
// slices of their own.
func distinct(all []*pending) (first, rest []*pending) {
	if len(all) == 1 && len(all[0].writes) == 1 {
		all[0].part = 1
		return slices.Clone(all), nil
	}
	users := make(map[int64]bool, len(all))
	identities := make(map[actor.RequestID]bool, len(all))
	for _, p := range all {
		p.part = 0
		user := p.first().UserID
		if user != 0 && users[user] {
			rest = append(rest, p)
			continue
		}
		for _, identity := range p.identities[:p.most] {
			if identities[identity] {
				break
			}
			identities[identity] = true
			p.part++
		}
		if p.part == 0 {
			rest = append(rest, p)
			continue
		}
		users[user] = true
		first = append(first, p)
	}
	return first, rest
}

// lock begins the transaction, locks the partitions and the rows of the users,
// and reads all that can be known to be needed: one round trip.
func (g *group) lock(ctx context.Context, conn *pgx.Conn) error {
	g.epochs = make(map[int]int64)
	g.rows = make(map[int64]int, len(g.writes))
	g.stored = make(map[int64]*storedUser, len(g.writes))
	g.known = make(map[actor.RequestID]outcomeRow)
	var users []int64
	var identities uuids
	var wanted wantedKeys
	for _, p := range g.writes {
		w := p.first()
		for i, identity := range p.identities {
			if p.unsure || p.writes[i].RequestID != (actor.RequestID{}) {
				identities = append(identities, uuidOf(identity))
			}
		}
		if w.Refusal() != nil {
			continue
		}
		if next := w.NewUser(); next != nil {
			wanted.add(nil, next)
		}
		users = append(users, w.UserID)
	}

	batch := new(pgx.Batch)
	// The fence needs each statement to see what was committed before it.
	batch.Queue("begin isolation level read committed")
	g.queueFence(batch)
	if len(users) > 0 {
		// A row that another transaction has locked is not waited for: that
		// would hold up all the other users of the group.
		batch.Queue(`SELECT id FROM users WHERE id = ANY($1::int[])
			UNION ALL SELECT user_id FROM services WHERE user_id = ANY($1::int[])`, users).Query(g.countRows)
		batch.Queue(`SELECT id, name, email_address, picture_url, xmin
			FROM users WHERE id = ANY($1::int[]) FOR UPDATE SKIP LOCKED`, users).Query(g.readUsers)
		batch.Queue(`SELECT user_id, sv_name::text, sv_id, access_token, xmin
			FROM services WHERE user_id = ANY($1::int[]) FOR UPDATE SKIP LOCKED`, users).Query(g.readServices)
	}
	if len(identities) > 0 {
		batch.Queue(`SELECT identity, digest, user_id, code, message
			FROM ident_requests WHERE identity = ANY($1::uuid[])`, identities).Query(g.readOutcomes)
	}
	wanted.queue(batch, &g.owners)
	return conn.SendBatch(ctx, batch).Close()
}

func (g *group) countRows(rows pgx.Rows) error {
	for rows.Next() {
		var user int64
		if err := rows.Scan(&user); err != nil {
			return err
		}
		g.rows[user]++
	}
	return rows.Err()
}

// setAsideBusy takes those writes out of the group whose users' rows are not all
// locked by this transaction, because another one has locked or changed them.
func (g *group) setAsideBusy() (busy []*pending) {
	var free []*pending
	for _, p := range g.writes {
		user := p.first().UserID
		if _, known := g.known[p.identities[0]]; !known && p.first().Refusal() == nil && g.rows[user] != g.stored[user].rows() {
			p.part = 0
			busy = append(busy, p)
		} else {
			free = append(free, p)
		}
	}
	g.writes = free
	return busy
}

func (g *group) readUsers(rows pgx.Rows) error {
	for rows.Next() {
		u := new(storedUser)
		if err := rows.Scan(&u.user.ID, &u.user.Name, &u.user.Email, &u.user.PictureURL, &u.user.Version[0]); err != nil {
			return err
		}
		g.stored[u.user.ID] = u
	}
	return rows.Err()
}

func (g *group) readServices(rows pgx.Rows) error {
	for rows.Next() {
		var user, id int64
		var service string
		var token []byte
		var version uint32
		if err := rows.Scan(&user, &service, &id, &token, &version); err != nil {
			return err
		}
		if u := g.stored[user]; u != nil {
			u.setAccount(service, id, token, version)
		}
	}
	return rows.Err()
}

func (g *group) readOutcomes(rows pgx.Rows) error {
	for rows.Next() {
		var identity uuid.UUID
		var row outcomeRow
		var code, message *string
		if err := rows.Scan(&identity, &row.digest, &row.outcome.UserID, &code, &message); err != nil {
			return err
		}
		if code != nil {
			row.outcome.Refusal = &actor.Refusal{Code: actor.Code(*code), Message: *message}
		}
		g.known[actor.RequestID(identity)] = row
	}
	return rows.Err()
}

// services are the names of the services in the database.
var services = [...]string{"gh", "fb"}

// accountOf is where a user keeps the account with a service.
func accountOf(u *actor.User, service string) **actor.Account {
	if service == "gh" {
		return &u.GitHub
	}
	return &u.Facebook
}

package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/batch"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/userrows"
)

// maxLookups bounds the look-ups that share a round trip.
const maxLookups = 64

// A reader looks users up and lists them. It is safe for concurrent use.
type reader struct {
	pool    *postgres.Pool
	keyring *keyring.Keyring
	log     *zap.Logger
	closing context.Context // done when the store closes
	lookups *batch.Batcher[*lookup]

	batchSize  prometheus.Histogram // users looked up in each round trip
	unreadable prometheus.Counter   // users with an access token that no key opens
}

// newReader needs goroutines that run lookups.Work. The channel stopped is closed when
// these have returned.
func newReader(closing context.Context, stopped <-chan struct{}, pool *postgres.Pool, o *Options, m *metrics) *reader {
	r := &reader{pool: pool, keyring: o.Keyring, log: o.Log, closing: closing, batchSize: m.lookups, unreadable: m.unreadable}
	r.lookups = batch.New(batch.Config[*lookup]{
		MaxItems:   maxLookups,
		Process:    r.process,
		Discard:    func(l *lookup) { l.result <- lookupResult{err: batch.ErrClosed} },
		OneAtATime: true,
		Closing:    closing.Done(),
		Stopped:    stopped,
	})
	return r
}

// A lookup waits for its result.
type lookup struct {
	keys   *actor.Lookup
	result chan lookupResult
}

type lookupResult struct {
	user *userrows.Stored // nil: there is none
	err  error
}

// Find implements [actor.Store].
func (r *reader) Find(ctx context.Context, keys *actor.Lookup) (*actor.User, error) {
	if keys.NoMatch {
		return nil, nil
	}
	var found *userrows.Stored
	err := r.pool.Retry(ctx, func(ctx context.Context) error {
		l := &lookup{keys: keys, result: make(chan lookupResult, 1)}
		result, err := batch.Submit(ctx, r.lookups, l, l.result)
		if err != nil {
			return err
		}
		found = result.user
		return result.err
	})
	if err != nil {
		return nil, postgres.LogError(ctx, r.log, "reading a user", err)
	}
	if found == nil {
		return nil, nil
	}
	user, err := found.Unseal(r.keyring)
	if err != nil {
		r.logUnreadable(found.User.ID, err)
		return nil, err
	}
	return user, nil
}

func (r *reader) logUnreadable(userID int64, err error) {
	r.unreadable.Inc()
	r.log.Error("access token cannot be read", zap.Int64("user_id", userID), zap.Error(err))
}

// process carries out look-ups in one round trip.
func (r *reader) process(group []*lookup) {
	ctx, cancel := context.WithTimeout(r.closing, postgres.AttemptTimeout)
	defer cancel()
	r.batchSize.Observe(float64(len(group)))
	users, err := r.read(ctx, group)
	for _, l := range group {
		result := lookupResult{err: err}
		for _, u := range users {
			if matches(&u.User, l.keys) {
				result.user = u
				break
			}
		}
		l.result <- result
	}
}

// matches reports whether a user has all keys of a look-up.
func matches(u *actor.User, keys *actor.Lookup) bool {
	has := func(a *actor.Account, id *int64) bool { return id == nil || a != nil && a.ID == *id }
	return (keys.UserID == nil || u.ID == *keys.UserID) && (keys.Email == nil || u.Email == *keys.Email) &&
		has(u.GitHub, keys.GitHubID) && has(u.Facebook, keys.FacebookID)
}

// These statements find users by one key each. A user has a row for each account, or one
// row if it has none.
const (
	findUsers = `SELECT u.id, u.name, u.email_address, u.picture_url, u.xmin, s.sv_name::text, s.sv_id, s.access_token, s.xmin
		FROM users u LEFT JOIN services s ON s.user_id = u.id WHERE `
	findByID      = findUsers + "u.id = ANY($1::int[])"
	findByEmail   = findUsers + "u.email_address = ANY($1::text[])"
	findByService = findUsers + `u.id = ANY(ARRAY(
		SELECT user_id FROM services WHERE sv_name = $2::text::svc_type AND sv_id = ANY($1::bigint[])))`
)

// read reads the users that the look-ups may be about. It uses only the first key of each
// look-up, which at most one user has.
func (r *reader) read(ctx context.Context, group []*lookup) ([]*userrows.Stored, error) {
	var ids, githubs, facebooks []int64
	var emails []string
	for _, l := range group {
		switch k := l.keys; {
		case k.UserID != nil:
			ids = append(ids, *k.UserID)
		case k.Email != nil:
			emails = append(emails, *k.Email)
		case k.GitHubID != nil:
			githubs = append(githubs, *k.GitHubID)
		case k.FacebookID != nil:
			facebooks = append(facebooks, *k.FacebookID)
		}
	}

	var users []*userrows.Stored
	collect := func(rows pgx.Rows) error { return collectUsers(rows, &users) }
	statements := new(pgx.Batch)
	if len(ids) > 0 {
		statements.Queue(findByID, ids).Query(collect)
	}
	if len(emails) > 0 {
		statements.Queue(findByEmail, emails).Query(collect)
	}
	if len(githubs) > 0 {
		statements.Queue(findByService, githubs, "gh").Query(collect)
	}
	if len(facebooks) > 0 {
		statements.Queue(findByService, facebooks, "fb").Query(collect)
	}
	if statements.Len() == 0 {
		return nil, errors.New("a look-up without a key")
	}
	return users, r.pool.SendBatch(ctx, statements).Close()
}

// collectUsers appends the users in the rows of findUsers.
func collectUsers(rows pgx.Rows, users *[]*userrows.Stored) error {
	byID := make(map[int64]*userrows.Stored)
	for rows.Next() {
		var row actor.User
		var service *string
		var id *int64
		var token []byte
		var version *uint32
		if err := rows.Scan(&row.ID, &row.Name, &row.Email, &row.PictureURL, &row.Version[0], &service, &id, &token, &version); err != nil {
			return err
		}
		u := byID[row.ID]
		if u == nil {
			u = &userrows.Stored{User: row}
			byID[row.ID] = u
			*users = append(*users, u)
		}
		if service != nil {
			u.SetAccount(*service, *id, token, *version)
		}
	}
	return rows.Err()
}

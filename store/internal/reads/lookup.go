// Package reads looks users up, lists them, and reads their changes.
//
// # Design decisions and what they cost
//
//   - Look-ups that arrive at the same moment share a round trip. The price is that a look-up
//     waits for the round trip before it, and shortly for others that are likely to come.
//   - A look-up with several keys reads the user by the first key alone, and compares the
//     others in this process. So each statement needs one index, and at most one row per
//     look-up is read in vain.
//   - A list is planned at each execution: whether the index on words or the order of ids is
//     better depends on the words. Planning costs more than most other statements take as a
//     whole.
//   - The users of many ids are read like a page of a list: by a plan that is made once, since it
//     depends on the ids only. Why not as look-ups, which share round trips: the others would wait
//     for up to 1,000 users.
//   - Lists, many users and pages of changes take turns at a quarter of the connections, since any number
//     of callers may want long ones. The price is that they wait while connections are idle.
//   - A page is cut at 4 MB. The price is that clients cannot count on full pages.
//   - A position of the log consists of a position in each partition, since there is no order
//     between partitions. The price: it takes about 10 bytes per partition, which callers send
//     back and forth.
//   - The log is read day by day. The price: even an empty page of changes costs a look-up in
//     the logs of three days for each partition.
package reads

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/throttle"
	"github.com/glotpod/ident/store/internal/batch"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/userrows"
)

// maxLookups bounds the look-ups that share a round trip.
const maxLookups = 64

// A Reader looks users up, lists them, and reads their changes. It is safe for concurrent use.
type Reader struct {
	pool    *postgres.Pool
	days    *changelog.Days
	keyring *keyring.Keyring
	log     *zap.Logger
	closing context.Context // done when the store closes
	lookups *batch.Batcher[*lookup]
	lists   chan struct{} // has a value for each list that uses a connection
	crowded *throttle.Logger

	metrics Metrics
}

// Metrics are what a Reader measures.
type Metrics struct {
	BatchSize  prometheus.Histogram // users looked up in each round trip
	Unreadable prometheus.Counter   // users with an access token that no key decrypts
}

// New returns a reader, which needs goroutines that run Work. The channel stopped is closed
// when these have returned.
func New(closing context.Context, stopped <-chan struct{}, pool *postgres.Pool, days *changelog.Days, keys *keyring.Keyring, m Metrics, log *zap.Logger) *Reader {
	r := &Reader{
		pool:    pool,
		days:    days,
		keyring: keys,
		log:     log,
		closing: closing,
		lists:   make(chan struct{}, shareOfLists(int(pool.Config().MaxConns))),
		crowded: throttle.New(log, zap.WarnLevel, "too many lists and changes at once", crowdedLogInterval),
		metrics: m,
	}
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

// Work processes look-ups until closing is done. Several goroutines may call it at the same
// time.
func (r *Reader) Work() { r.lookups.Work() }

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
func (r *Reader) Find(ctx context.Context, keys *actor.Lookup) (*actor.User, error) {
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
		r.LogUnreadable(found.User.ID, err)
		return nil, err
	}
	return user, nil
}

// LogUnreadable logs and counts that no key decrypts an access token of a user.
func (r *Reader) LogUnreadable(userID int64, err error) {
	r.metrics.Unreadable.Inc()
	r.log.Error("access token cannot be read", zap.Int64("user_id", userID), zap.Error(err))
}

// process carries out look-ups in one round trip.
func (r *Reader) process(group []*lookup) {
	ctx, cancel := context.WithTimeout(r.closing, postgres.AttemptTimeout)
	defer cancel()
	r.metrics.BatchSize.Observe(float64(len(group)))
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

// read reads the users that the look-ups may be about. It uses only the first key of each
// look-up, which at most one user has.
func (r *Reader) read(ctx context.Context, group []*lookup) ([]*userrows.Stored, error) {
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
	collect := func(rows pgx.Rows) error { return userrows.Collect(rows, &users) }
	statements := new(pgx.Batch)
	if len(ids) > 0 {
		statements.Queue(userrows.FindByID, ids).Query(collect)
	}
	if len(emails) > 0 {
		statements.Queue(userrows.FindByEmail, emails).Query(collect)
	}
	if len(githubs) > 0 {
		statements.Queue(userrows.FindByService, githubs, "gh").Query(collect)
	}
	if len(facebooks) > 0 {
		statements.Queue(userrows.FindByService, facebooks, "fb").Query(collect)
	}
	if statements.Len() == 0 {
		return nil, errors.New("a look-up without a key")
	}
	return users, r.pool.SendBatch(ctx, statements).Close()
}

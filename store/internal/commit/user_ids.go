package commit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/batch"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/history"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/userrows"
)

const (
	// sequenceOfIDs is the sequence of user ids, as a table with one row.
	sequenceOfIDs = "(SELECT pg_get_serial_sequence('users', 'id')::regclass AS sequence) AS s"

	// nextIDs takes $1 user ids from the sequence.
	nextIDs = "SELECT nextval(sequence) FROM " + sequenceOfIDs + ", generate_series(1, $1)"

	// nextIDsFor, with a query for replays, takes a user id from the sequence for each create, unless it is a replay or
	// wants an email or an account that a user has.
	nextIDsFor = `SELECT found.replay, found.email, found.account,
			CASE WHEN NOT (found.replay OR found.email OR found.account) THEN nextval(sequence) END
		FROM ` + sequenceOfIDs + `, unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS c (request, email, gh, fb, n), LATERAL (SELECT
			(SELECT min(user_id) FROM (%s) AS l) IS NOT NULL AS replay,
			(SELECT u.id FROM users u WHERE u.email_address = c.email) IS NOT NULL AS email,
			(SELECT s.user_id FROM services s WHERE s.sv_id = c.gh AND s.sv_name::text = 'gh') IS NOT NULL OR
			(SELECT s.user_id FROM services s WHERE s.sv_id = c.fb AND s.sv_name::text = 'fb') IS NOT NULL AS account OFFSET 0) AS found
		ORDER BY c.n`
)

// NoReplay refuses a create of which [UserIDs.Next] has found a recorded request, if that is
// no replay after all. It is not recorded.
var NoReplay = actor.InternalError("the request could not be carried out")

// errNoSequence is the error if the column's default draws from a sequence that the column does
// not own, as a tool that copies databases may leave it.
var errNoSequence = errors.New("the column id of the table users owns no sequence")

// maxIDRequests bounds how many user ids are taken in one round trip.
const maxIDRequests = 32

// maxStaleDraws is how many draws of Next may return ids that count as taken. A draw that
// began before the sequence was set returns such ids; all draws do after another program
// has lowered the sequence.
const maxStaleDraws = 3

// UserIDs hands out the ids of new users. It is safe for concurrent use.
type UserIDs struct {
	pool     *postgres.Pool
	days     *changelog.Days
	closing  context.Context // done when no new query is to begin
	seen     *history.Seen
	log      *zap.Logger
	requests *batch.Batcher[*idRequest]
	reserved reservedIDs
	left     atomic.Pointer[int64] // see Left

	skipping chan struct{} // has a value while a call of SkipTaken sets the sequence
}

// An idRequest waits for a user id.
type idRequest struct {
	create *actor.Write // nil: the id is drawn in any case
	result chan idResult
}

type idResult struct {
	id      int64
	refusal *actor.Refusal // not nil: no id was drawn
	err     error
}

// NewUserIDs needs one goroutine that runs Work, until closing is done. The channel stopped
// is closed when Work has returned.
func NewUserIDs(closing context.Context, stopped <-chan struct{}, pool *postgres.Pool, days *changelog.Days, seen *history.Seen, log *zap.Logger) *UserIDs {
	u := &UserIDs{pool: pool, days: days, closing: closing, seen: seen, log: log, skipping: make(chan struct{}, 1)}
	u.requests = batch.New(batch.Config[*idRequest]{
		MaxItems: maxIDRequests,
		Process:  u.answer,
		Discard:  func(r *idRequest) { r.result <- idResult{err: batch.ErrClosed} },
		Closing:  closing.Done(),
		Stopped:  stopped,
	})
	return u
}

// Work takes ids for the calls of Next.
func (u *UserIDs) Work() { u.requests.Work() }

// CountLeft counts the ids that are left, for Left.
func (u *UserIDs) CountLeft(ctx context.Context) error {
	left, err := userrows.CountLeft(ctx, u.pool)
	if err != nil {
		return fmt.Errorf("reading the sequence of user ids: %w", err)
	}
	u.left.Store(&left)
	return nil
}

// Left returns how many ids the sequence could still return when CountLeft was called last;
// nil: it has not been called.
func (u *UserIDs) Left() *int64 { return u.left.Load() }

// TakeReserved returns a user id that needs no round trip, or 0 if there is none.
func (u *UserIDs) TakeReserved() int64 { return u.reserved.take() }

// Return reserves an id that TakeReserved or Next has returned, here or elsewhere, and that no
// create uses.
func (u *UserIDs) Return(id int64) { u.reserved.put([]int64{id}) }

// Next returns a user id that no other call returns. If the create need not be carried out, it
// returns why instead: the create wants what a user has or, if the reason is NoReplay, a
// request with its id was decided before.
func (u *UserIDs) Next(ctx context.Context, create *actor.Write) (id int64, refusal *actor.Refusal, err error) {
	for range maxStaleDraws {
		if id, refusal, err = u.draw(ctx, create); err != nil || refusal != nil || !u.reserved.isTaken(id) {
			return id, refusal, err
		}
	}
	u.reserved.resetTaken() // if a user has the id, the create finds that out
	return id, nil, nil
}

// draw takes an id from the sequence.
func (u *UserIDs) draw(ctx context.Context, create *actor.Write) (id int64, refusal *actor.Refusal, err error) {
	err = u.pool.Retry(ctx, func(ctx context.Context) error {
		request := &idRequest{create: create, result: make(chan idResult, 1)}
		r, err := batch.Submit(ctx, u.requests, request, request.result)
		if err != nil {
			return err
		}
		id, refusal = r.id, r.refusal
		return r.err
	})
	return id, refusal, err
}

// answer takes an id for each request that needs one, in one round trip.
func (u *UserIDs) answer(group []*idRequest) {
	ctx, cancel := context.WithTimeout(u.closing, postgres.AttemptTimeout)
	defer cancel()
	var c creates
	for _, request := range group {
		c.add(request.create)
	}
	results, err := u.next(ctx, &c)
	if changelog.IsWrongDay(err) {
		u.days.Forget()
		results, err = u.next(ctx, &c)
	}
	for i, request := range group {
		r := idResult{err: err}
		if err == nil {
			r = results[i]
			u.seen.UserID(r.id)
		}
		request.result <- r
	}
}

func (u *UserIDs) next(ctx context.Context, c *creates) ([]idResult, error) {
	tables, err := u.days.Tables(ctx)
	if err != nil {
		return nil, err
	}
	replay := tables.Union("SELECT l.user_id FROM %s l WHERE l.request = c.request")
	rows, _ := u.pool.Query(ctx, fmt.Sprintf(nextIDsFor, replay), c.requests, c.emails, c.githubs, c.facebooks)
	return pgx.CollectRows(rows, scanIDResult)
}

func scanIDResult(row pgx.CollectableRow) (r idResult, err error) {
	var replay, email, account bool
	var id *int64
	if err := row.Scan(&replay, &email, &account, &id); err != nil {
		return r, err
	}
	switch {
	case replay:
		r.refusal = NoReplay
	case email:
		r.refusal = userrows.EmailTaken
	case account:
		r.refusal = userrows.AccountTaken
	case id == nil:
		return r, errNoSequence
	default:
		r.id = *id
	}
	return r, nil
}

// creates are the keys of creates, column by column.
type creates struct {
	requests           uuids
	emails             []*string
	githubs, facebooks []*int64
}

// add adds the keys of a create. For nil it adds keys that nothing has.
func (c *creates) add(create *actor.Write) {
	var request actor.RequestID
	var email *string
	var github, facebook *int64
	if create != nil {
		user := create.NewUser()
		request, email = create.RequestID, &user.Email
		if user.GitHub != nil {
			github = &user.GitHub.ID
		}
		if user.Facebook != nil {
			facebook = &user.Facebook.ID
		}
	}
	c.requests = append(c.requests, uuidOf(request))
	c.emails = append(c.emails, email)
	c.githubs, c.facebooks = append(c.githubs, github), append(c.facebooks, facebook)
}

package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/batch"
	"github.com/glotpod/ident/store/internal/postgres"
)

// maxFinds is the greatest number of look-ups that share a round trip.
const maxFinds = 64

// A find is a look-up that waits for its turn.
type find struct {
	lookup *actor.Lookup
	result chan findResult
}

type findResult struct {
	user *storedUser // nil: nobody
	err  error
}

// Find implements [actor.Store].
func (s *Store) Find(ctx context.Context, l *actor.Lookup) (*actor.User, error) {
	if l.NoMatch {
		return nil, nil
	}
	var found *storedUser
	err := s.pool.Retry(ctx, func(ctx context.Context) (err error) {
		found, err = s.find(ctx, l)
		return err
	})
	if err != nil {
		return nil, s.logged(ctx, "reading a user", err)
	}
	if found == nil {
		return nil, nil
	}
	user, err := s.unseal(found)
	if err != nil {
		s.logSealed(found.user.ID, err)
		return nil, err
	}
	return user, nil
}

func (s *Store) find(ctx context.Context, l *actor.Lookup) (*storedUser, error) {
	f := &find{lookup: l, result: make(chan findResult, 1)}
	r, err := batch.Submit(ctx, s.finds, f, f.result)
	if err != nil {
		return nil, err
	}
	return r.user, r.err
}

func (s *Store) batchFinds() *batch.Batcher[*find] {
	return batch.New(batch.Config[*find]{
		MaxItems:   maxFinds,
		Process:    s.findGroup,
		Discard:    func(f *find) { f.result <- findResult{err: batch.ErrClosed} },
		OneAtATime: true,
		Closing:    s.ctx.Done(),
		Stopped:    s.stopped,
	})
}

// findGroup does look-ups in one round trip.
func (s *Store) findGroup(group []*find) {
	ctx, cancel := context.WithTimeout(s.ctx, postgres.AttemptTimeout)
	defer cancel()
	s.metrics.finds.Observe(float64(len(group)))
	users, err := s.readFinds(ctx, group)
	for _, f := range group {
		r := findResult{err: err}
		for _, u := range users {
			if matches(&u.user, f.lookup) {
				r.user = u
				break
			}
		}
		f.result <- r
	}
}

// matches says whether all that l asks for holds of u.
func matches(u *actor.User, l *actor.Lookup) bool {
	has := func(a *actor.Account, id *int64) bool { return id == nil || a != nil && a.ID == *id }
	return (l.UserID == nil || u.ID == *l.UserID) && (l.Email == nil || u.Email == *l.Email) &&
		has(u.GitHub, l.GitHubID) && has(u.Facebook, l.FacebookID)
}

// What finds users by one key each. A user has a row for each account, or one
// row without any.
const (
	findUsers = `SELECT u.id, u.name, u.email_address, u.picture_url, u.xmin, s.sv_name::text, s.sv_id, s.access_token, s.xmin
		FROM users u LEFT JOIN services s ON s.user_id = u.id WHERE `
	findByID      = findUsers + "u.id = ANY($1::int[])"
	findByEmail   = findUsers + "u.email_address = ANY($1::text[])"
	findByService = findUsers + `u.id = ANY(ARRAY(
		SELECT user_id FROM services WHERE sv_name = $2::text::svc_type AND sv_id = ANY($1::bigint[])))`
)

// readFinds reads each user whom a look-up of the group may mean: by the first
// of its keys alone, there is at most one.
func (s *Store) readFinds(ctx context.Context, group []*find) ([]*storedUser, error) {
	var ids, githubs, facebooks []int64
	var emails []string
	for _, f := range group {
		switch l := f.lookup; {
		case l.UserID != nil:
			ids = append(ids, *l.UserID)
		case l.Email != nil:
			emails = append(emails, *l.Email)
		case l.GitHubID != nil:
			githubs = append(githubs, *l.GitHubID)
		case l.FacebookID != nil:
			facebooks = append(facebooks, *l.FacebookID)
		}
	}

	var users []*storedUser
	read := func(rows pgx.Rows) error { return readUsers(rows, &users) }
	statements := new(pgx.Batch)
	if len(ids) > 0 {
		statements.Queue(findByID, ids).Query(read)
	}
	if len(emails) > 0 {
		statements.Queue(findByEmail, emails).Query(read)
	}
	if len(githubs) > 0 {
		statements.Queue(findByService, githubs, "gh").Query(read)
	}
	if len(facebooks) > 0 {
		statements.Queue(findByService, facebooks, "fb").Query(read)
	}
	if statements.Len() == 0 {
		return nil, errors.New("a look-up without a key")
	}
	return users, s.pool.SendBatch(ctx, statements).Close()
}

// readUsers adds the users whom the rows of findUsers show.
func readUsers(rows pgx.Rows, users *[]*storedUser) error {
	byID := make(map[int64]*storedUser)
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
			u = &storedUser{user: row}
			byID[row.ID] = u
			*users = append(*users, u)
		}
		if service != nil {
			u.setAccount(*service, *id, token, *version)
		}
	}
	return rows.Err()
}

package reads

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"golang.org/x/text/unicode/norm"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/batch"
	"github.com/glotpod/ident/store/internal/postgres"
)

// maxListBytes bounds the texts of a page, so that the reply can be sent. A page has at
// least one user.
const maxListBytes = 4 << 20

const (
	// maxListWait bounds how long a list waits for others. Meanwhile it counts among the
	// requests in flight, of which the instance receives a limited number.
	maxListWait = 10 * time.Second

	// crowdedLogInterval is the minimum time between two log lines about pages that have
	// waited too long: callers can cause any number of them.
	crowdedLogInterval = 10 * time.Second
)

var errCrowded = fmt.Errorf("other lists were in the way for more than %v", maxListWait)

// shareOfLists returns how many of n connections lists use at a time: a quarter, so that
// they delay no other request. If there is only one, they share it with all others.
func shareOfLists(n int) int { return (n + 3) / 4 }

// enterList waits until a list may use a connection. leave must be called after it.
func (r *Reader) enterList(ctx context.Context) (leave func(), err error) {
	timer := time.NewTimer(maxListWait)
	defer timer.Stop()
	select {
	case r.lists <- struct{}{}:
		return func() { <-r.lists }, nil
	case <-timer.C:
		r.crowded.Log(1)
		return nil, errCrowded
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-r.closing.Done():
		return nil, batch.ErrClosed
	}
}

// pageOf selects a page of the users for which a condition (%s) holds, of $2 users and $3 bytes at most.
const pageOf = `WITH page AS (
			SELECT id, row_number() OVER w AS position,
				sum(octet_length(name) + coalesce(octet_length(picture_url), 0)) OVER w AS bytes
			FROM users WHERE %s
			WINDOW w AS (ORDER BY id ROWS UNBOUNDED PRECEDING) ORDER BY id LIMIT $2 + 1
		), shown AS (
			SELECT id, (SELECT count(*) FROM page) AS found
			FROM page WHERE position = 1 OR position <= $2 AND bytes <= $3
		)
		SELECT shown.found, u.id, u.name, u.email_address, u.picture_url, g.sv_id, f.sv_id
		FROM shown, LATERAL (SELECT * FROM users WHERE id = shown.id OFFSET 0) AS u
		LEFT JOIN LATERAL (SELECT sv_id FROM services WHERE user_id = u.id AND sv_name::text = 'gh' OFFSET 0) AS g ON true
		LEFT JOIN LATERAL (SELECT sv_id FROM services WHERE user_id = u.id AND sv_name::text = 'fb' OFFSET 0) AS f ON true
		ORDER BY u.id`

// List implements [actor.Store].
func (r *Reader) List(ctx context.Context, page *actor.Page) (actor.UserPage, error) {
	condition, args := "id > $1", []any{page.AfterID, page.Size, maxListBytes}
	switch {
	case page.IDs != nil:
		condition, args[0] = "id = ANY($1::bigint[])", page.IDs
	case page.Name == "":
	case isTooMuch(page.Name):
		condition += " AND false"
	default:
		// The planner computes the tsquery. It is NULL if there are no words.
		condition += ` AND (ident_words(name) @@ ident_search($4) OR ident_search($4) IS NULL)`
		args = append(args, page.Name)
	}
	query := fmt.Sprintf(pageOf, condition)

	leave, err := r.enterList(ctx)
	if err != nil {
		return actor.UserPage{}, err
	}
	defer leave()
	var listed *listing
	err = r.retryOnWrongDay(ctx, func(ctx context.Context) (err error) {
		listed, err = r.list(ctx, page, query, args)
		return err
	})
	if err != nil {
		return actor.UserPage{}, postgres.LogError(ctx, r.log, "listing users", err)
	}
	result := actor.UserPage{Users: listed.users}
	if page.First {
		result.After = listed.position.String()
	}
	if n := len(listed.users); n < listed.found {
		result.NextAfterID = listed.users[n-1].ID
	}
	return result, nil
}

// A listing is what List reads.
type listing struct {
	users    []actor.User
	found    int         // users, including the first one of the next page
	position logPosition // before the users were read, if it is wanted
}

// collect reads the users in the rows of pageOf.
func (l *listing) collect(rows pgx.Rows) (err error) {
	l.users, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (actor.User, error) {
		var u actor.User
		var github, facebook *int64
		err := row.Scan(&l.found, &u.ID, &u.Name, &u.Email, &u.PictureURL, &github, &facebook)
		u.GitHub, u.Facebook = accountWithoutToken(github), accountWithoutToken(facebook)
		return u, err
	})
	return err
}

func (r *Reader) list(ctx context.Context, page *actor.Page, query string, args []any) (*listing, error) {
	l := new(listing)
	statements := new(pgx.Batch)
	if page.First {
		tables, err := r.days.Tables(ctx)
		if err != nil {
			return nil, err
		}
		l.position.first = firstDay(tables)
		statements.Queue(fmt.Sprintf(currentPosition, tables.Yesterday, tables.Today)).Query(func(rows pgx.Rows) (err error) {
			l.position.partitions, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		})
	}
	if page.IDs == nil {
		// The best plan depends on how rare the words are.
		statements.Queue("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)")
	}
	statements.Queue(query, args...).Query(l.collect)
	return l, r.pool.SendBatch(ctx, statements).Close()
}

func accountWithoutToken(id *int64) *actor.Account {
	if id == nil {
		return nil
	}
	return &actor.Account{ID: *id}
}

const (
	// maxSearchWords bounds the words of a search. A name has no more words, because only
	// its first 1,000 characters are searched.
	maxSearchWords = 1000

	// maxSearchBytes bounds the words of a search, folded. The words of a name have fewer
	// bytes, unless it consists of the rarest characters.
	maxSearchBytes = 64 << 10

	// maxWordBytes is the maximum length of a word of a tsvector. PostgreSQL leaves longer
	// words out.
	maxWordBytes = 2046
)

// isTooMuch reports whether no name has as many words as text, or as long ones. Its words
// are nearly those that the database finds in it.
func isTooMuch(text string) bool {
	folded := strings.ToLower(norm.NFKC.String(text))
	words := strings.FieldsFunc(folded, func(r rune) bool { return !unicode.In(r, unicode.L, unicode.M, unicode.N) })
	slices.Sort(words)
	words = slices.Compact(words)
	size := 0
	for _, word := range words {
		if size += len(word); len(word) > maxWordBytes {
			return true
		}
	}
	return len(words) > maxSearchWords || size > maxSearchBytes
}

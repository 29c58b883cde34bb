package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
)

// maxPageBytes bounds a page of list beside its size, so that its answer can be
// sent. A page has one user at least.
const maxPageBytes = 4 << 20

// List implements [actor.Store].
func (s *Store) List(ctx context.Context, page *actor.Page) ([]actor.User, int64, error) {
	filter, args := "", []any{page.AfterID, page.Size, maxPageBytes}
	words := searchWords(page.Name)
	search := searchQuery(words)
	if len(words) > maxSearchWords || len(search) > maxSearchBytes || slices.ContainsFunc(words, isTooLong) {
		return nil, 0, nil
	}
	if len(words) > 0 {
		// The planner computes the query, which is empty where none of the words counts.
		filter = ` AND (ident_words(name) @@ to_tsquery('pg_catalog.simple', $4)
			OR numnode(to_tsquery('pg_catalog.simple', $4)) = 0)`
		args = append(args, search)
	}
	query := `WITH page AS (
			SELECT id, row_number() OVER w AS position,
				sum(octet_length(name) + coalesce(octet_length(picture_url), 0)) OVER w AS bytes
			FROM users WHERE id > $1` + filter + `
			WINDOW w AS (ORDER BY id ROWS UNBOUNDED PRECEDING) ORDER BY id LIMIT $2 + 1
		), shown AS (
			SELECT id, (SELECT count(*) FROM page) AS found
			FROM page WHERE position = 1 OR position <= $2 AND bytes <= $3
		)
		SELECT shown.found, u.id, u.name, u.email_address, u.picture_url, g.sv_id, f.sv_id
		FROM shown JOIN users u USING (id)
		LEFT JOIN services g ON g.user_id = u.id AND g.sv_name = 'gh'
		LEFT JOIN services f ON f.user_id = u.id AND f.sv_name = 'fb'
		ORDER BY u.id`

	var users []actor.User
	var found int
	err := s.pool.Retry(ctx, func(ctx context.Context) error {
		batch := new(pgx.Batch)
		// How to find the users depends on how rare the words are.
		batch.Queue("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)")
		batch.Queue(query, args...).Query(func(rows pgx.Rows) (err error) {
			users, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (actor.User, error) {
				var u actor.User
				var github, facebook *int64
				err := r.Scan(&found, &u.ID, &u.Name, &u.Email, &u.PictureURL, &github, &facebook)
				u.GitHub, u.Facebook = tokenless(github), tokenless(facebook)
				return u, err
			})
			return err
		})
		return s.pool.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return nil, 0, s.logged(ctx, "listing users", err)
	}
	if len(users) == found {
		return users, 0, nil
	}
	return users, users[len(users)-1].ID, nil
}

func tokenless(id *int64) *actor.Account {
	if id == nil {
		return nil
	}
	return &actor.Account{ID: *id}
}

const (
	// maxSearchWords is how many words can each be the beginning of a word of one
	// name, of which 1,000 characters count.
	maxSearchWords = 1000

	// maxSearchBytes is the most that those words have as a tsquery, which can hold
	// twice as much: in lower case they may have more.
	maxSearchBytes = 512 << 10

	// maxWordBytes is the most that a word of a tsvector has. Longer ones are left out
	// of it, and of a tsquery.
	maxWordBytes = 2046
)

// searchWords returns each word of text once, divided as ident_words divides names.
// Some may be none to PostgreSQL, which knows what is a letter or a digit in this
// database, and which is lower case of which.
func searchWords(text string) []string {
	words := strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || r < unicode.MaxASCII && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	slices.Sort(words)
	return slices.Compact(words)
}

// isTooLong says that a word cannot be the beginning of a word of any name.
func isTooLong(word string) bool {
	if len(word) <= maxWordBytes/2 { // in lower case it has half as many again at most
		return false
	}
	parts := strings.FieldsFunc(word, func(r rune) bool { return !unicode.In(r, unicode.L, unicode.M, unicode.N) })
	return slices.ContainsFunc(parts, func(part string) bool {
		return max(len(part), len(strings.ToLower(part))) > maxWordBytes
	})
}

// searchQuery returns a tsquery for names that have, for each word, one that begins
// with it.
func searchQuery(words []string) string {
	operands := make([]string, len(words))
	for i, word := range words {
		operands[i] = "'" + word + "':*"
		// A sigma has another lower case at the end of a word, where this may be.
		if last, size := utf8.DecodeLastRuneInString(word); strings.ContainsRune("Σσς", last) {
			stem := word[:len(word)-size]
			operands[i] = "('" + stem + "σ':* | '" + stem + "ς':*)"
		}
	}
	return strings.Join(operands, " & ")
}

// logged logs an error, unless it is the caller who gave up, and wraps it.
func (s *Store) logged(ctx context.Context, doing string, err error) error {
	if ctx.Err() == nil {
		s.log.Error("database", zap.String("doing", doing), zap.Error(err))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func (s *Store) logSealed(userID int64, err error) {
	s.metrics.unopened.Inc()
	s.log.Error("access token cannot be read", zap.Int64("user_id", userID), zap.Error(err))
}

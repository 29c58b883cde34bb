package reads

import (
	"context"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/postgres"
)

// maxListBytes bounds the texts of a page, so that the reply can be sent. A page has at
// least one user.
const maxListBytes = 4 << 20

// List implements [actor.Store].
func (r *Reader) List(ctx context.Context, page *actor.Page) ([]actor.User, int64, error) {
	filter, args := "", []any{page.AfterID, page.Size, maxListBytes}
	words := searchWords(page.Name)
	search := searchQuery(words)
	if len(words) > maxSearchWords || len(search) > maxSearchBytes || slices.ContainsFunc(words, isTooLong) {
		return nil, 0, nil
	}
	if len(words) > 0 {
		// The planner computes the query. It is empty if PostgreSQL ignores all words.
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
		FROM shown, LATERAL (SELECT * FROM users WHERE id = shown.id OFFSET 0) AS u
		LEFT JOIN LATERAL (SELECT sv_id FROM services WHERE user_id = u.id AND sv_name::text = 'gh' OFFSET 0) AS g ON true
		LEFT JOIN LATERAL (SELECT sv_id FROM services WHERE user_id = u.id AND sv_name::text = 'fb' OFFSET 0) AS f ON true
		ORDER BY u.id`

	var users []actor.User
	var found int
	err := r.pool.Retry(ctx, func(ctx context.Context) error {
		batch := new(pgx.Batch)
		// The best plan depends on how rare the words are.
		batch.Queue("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)")
		batch.Queue(query, args...).Query(func(rows pgx.Rows) (err error) {
			users, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (actor.User, error) {
				var u actor.User
				var github, facebook *int64
				err := row.Scan(&found, &u.ID, &u.Name, &u.Email, &u.PictureURL, &github, &facebook)
				u.GitHub, u.Facebook = accountWithoutToken(github), accountWithoutToken(facebook)
				return u, err
			})
			return err
		})
		return r.pool.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return nil, 0, postgres.LogError(ctx, r.log, "listing users", err)
	}
	if len(users) == found {
		return users, 0, nil
	}
	return users, users[len(users)-1].ID, nil
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

	// maxSearchBytes bounds the words as a tsquery, which can hold twice as much: words may
	// become longer in lower case.
	maxSearchBytes = 512 << 10

	// maxWordBytes is the maximum length of a word of a tsvector. PostgreSQL leaves longer
	// words out of a tsvector and of a tsquery.
	maxWordBytes = 2046
)

// searchWords returns each word of text once, divided as ident_words divides names. For
// PostgreSQL some of them may not be words: what a letter, a digit or lower case is depends
// on the database.
func searchWords(text string) []string {
	words := strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || r < unicode.MaxASCII && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	slices.Sort(words)
	return slices.Compact(words)
}

// isTooLong reports whether no word of any name can begin with this word.
func isTooLong(word string) bool {
	if len(word) <= maxWordBytes/2 { // lower case is longer by half at most
		return false
	}
	parts := strings.FieldsFunc(word, func(r rune) bool { return !unicode.In(r, unicode.L, unicode.M, unicode.N) })
	return slices.ContainsFunc(parts, func(part string) bool {
		return max(len(part), len(strings.ToLower(part))) > maxWordBytes
	})
}

// searchQuery returns a tsquery for names in which, for each word, a word begins with it.
func searchQuery(words []string) string {
	operands := make([]string, len(words))
	for i, word := range words {
		operands[i] = "'" + word + "':*"
		// A sigma at the end of a word has another lower case. The word of the name may end
		// here or not.
		if last, size := utf8.DecodeLastRuneInString(word); strings.ContainsRune("Σσς", last) {
			stem := word[:len(word)-size]
			operands[i] = "('" + stem + "σ':* | '" + stem + "ς':*)"
		}
	}
	return strings.Join(operands, " & ")
}

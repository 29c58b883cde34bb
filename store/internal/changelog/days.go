package changelog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/glotpod/ident/store/internal/postgres"
)

const (
	// day is the length of a day in UTC.
	day = 24 * time.Hour

	// nearMidnight is the time before and after midnight in which transactions of both days
	// may be under way. It is much longer than a transaction takes, and than the difference
	// between the clock of Days and that of the database.
	nearMidnight = 10 * time.Minute
)

// Tables are the tables of the log that a transaction uses. Their names need no quotes.
type Tables struct {
	Date      time.Time // the beginning of today
	Today     string
	Yesterday string
	Tomorrow  string // has rows if the clock of the database has gone back

	// Recent are the tables that may have requests and changes of the last 24 hours, also of
	// transactions under way: yesterday's, today's and, shortly before midnight or if the clock
	// of the database has gone back, tomorrow's.
	Recent []string

	// NearMidnight says that transactions under way may use other tables.
	NearMidnight bool
}

// Union returns a query that selects what the given one selects from each recent table. The
// table stands in the place of %s.
func (t Tables) Union(query string) string {
	all := make([]string, len(t.Recent))
	for i, name := range t.Recent {
		all[i] = strings.ReplaceAll(query, "%s", name)
	}
	return strings.Join(all, " UNION ALL ")
}

// Days says which day it is by the clock of the database, and makes sure that the tables of
// that day, of the day before and of the day after exist. It is safe for concurrent use.
type Days struct {
	pool *postgres.Pool

	mu       sync.Mutex // guards the following fields
	database time.Time  // the time of the database when this process had the time local
	local    time.Time  // zero: not known
	made     time.Time  // the day whose tables exist
	wentBack bool       // the table of the day after has rows
}

// NewDays returns the days of a database.
func NewDays(pool *postgres.Pool) *Days { return &Days{pool: pool} }

// Tables returns the tables of today, yesterday and tomorrow. The first call of a day takes
// two round trips, and so does the first one after Forget.
func (d *Days) Tables(ctx context.Context) (Tables, error) {
	if t, ok := d.known(); ok {
		return t, nil
	}
	if err := d.read(ctx); err != nil {
		return Tables{}, fmt.Errorf("reading the day of the log: %w", err)
	}
	t, _ := d.known()
	return t, nil
}

// known returns the tables if they exist for certain.
func (d *Days) known() (t Tables, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.local.IsZero() {
		return Tables{}, false
	}
	now := d.database.Add(time.Since(d.local))
	if !now.Truncate(day).Equal(d.made) {
		return Tables{}, false
	}
	t = Tables{Date: d.made, Today: TableOf(d.made), Yesterday: TableOf(d.made.Add(-day)), Tomorrow: TableOf(d.made.Add(day))}
	t.Recent = []string{t.Yesterday, t.Today}
	if d.wentBack || d.made.Add(day).Sub(now) < nearMidnight {
		t.Recent = append(t.Recent, t.Tomorrow)
	}
	t.NearMidnight = len(t.Recent) > 2 || now.Sub(d.made) < nearMidnight
	return t, true
}

// read reads the clock of the database and creates the tables of today, yesterday and tomorrow,
// unless they exist. If tomorrow's has rows, the clock was already further: a standby with
// another clock may have become the primary.
func (d *Days) read(ctx context.Context) error {
	var now time.Time
	err := d.pool.QueryRow(ctx, `SELECT now(), ident_log_day(today.day - 1), ident_log_day(today.day), ident_log_day(today.day + 1)
		FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS day) AS today`).Scan(&now, nil, nil, nil)
	if err != nil {
		return err
	}
	local, made := time.Now(), now.UTC().Truncate(day)
	var wentBack bool
	if err := d.pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+TableOf(made.Add(day))+")", pgx.QueryExecModeExec).Scan(&wentBack); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.database, d.local, d.made, d.wentBack = now.UTC(), local, made, wentBack
	return nil
}

// Today returns the beginning of a day that is today by the clock of the database, or was not
// long ago; zero: none is known.
func (d *Days) Today() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.made
}

// Forget makes the next call of Tables ask the database.
func (d *Days) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.local = time.Time{}
}

// IsWrongDay reports whether a transaction failed because it used the table of another day than
// the day on which it began, or a table that was dropped. After Forget, the transaction may be
// repeated.
func IsWrongDay(err error) bool {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return false
	}
	return e.Code == "23514" && strings.HasPrefix(e.TableName, tablePrefix) || e.Code == "42P01"
}

// Since returns the tables of the days from first to the today of t, in order. It takes a round
// trip, unless first is yesterday or later.
func (d *Days) Since(ctx context.Context, first time.Time, t Tables) (names []string, err error) {
	switch from := TableOf(first); {
	case from >= t.Today:
		return []string{t.Today}, nil
	case from == t.Yesterday:
		return []string{t.Yesterday, t.Today}, nil
	}
	rows, _ := d.pool.Query(ctx, `SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'ident_log'::regclass AND c.relname BETWEEN $1 AND $2 ORDER BY c.relname`, TableOf(first), t.Today)
	names, err = pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading the days of the log: %w", err)
	}
	return names, nil
}

const tablePrefix = "ident_log_"

const dateFormat = "20060102"

// TableOf returns the name of the table of a day.
func TableOf(t time.Time) string { return tablePrefix + t.UTC().Format(dateFormat) }

// DateOf returns the beginning of the day of a table. For the name of any other table it
// returns the zero time.
func DateOf(table string) time.Time {
	date, _ := time.Parse(tablePrefix+dateFormat, table)
	return date
}

package reads

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/postgres"
)

// maxDaysPerPage bounds the days of the log that a page of changes reads, and so its round
// trips.
const maxDaysPerPage = 32

const (
	// laterChanges reads changes of the partitions $1, in this order, after the positions $2: at
	// most $3 of them and one, and of these at most $4 bytes and one. found says how many there are without the
	// last limit. %s are the changes of a partition. Each part has a limit of its own, so that no
	// plan reads more: the planner does not know how many there are.
	laterChanges = `SELECT partition, position, user_id, sequence, at, operation, change, found FROM (
			SELECT *, row_number() OVER w AS number, sum(coalesce(octet_length(change::text), 0)) OVER w AS bytes, count(*) OVER () AS found
			FROM (
				SELECT v.n, v.partition, l.* FROM unnest($1::int[], $2::bigint[]) WITH ORDINALITY AS v (partition, after, n) CROSS JOIN LATERAL (
					%s ORDER BY position LIMIT $3::bigint + 1) AS l LIMIT $3::bigint + 1) AS l
			WINDOW w AS (ORDER BY n, position ROWS UNBOUNDED PRECEDING)) AS l
		WHERE number = 1 OR number <= $3::bigint AND bytes <= $4::bigint ORDER BY n, position`

	changesOf = `(SELECT position, user_id, sequence, at, operation, change FROM %s
		WHERE partition = v.partition AND position > v.after%s ORDER BY position LIMIT $3::bigint + 1)`

	// beforeLastOf is a condition of changesOf.
	beforeLastOf = ` AND position < (SELECT position FROM %s WHERE partition = v.partition AND position > v.after ORDER BY position DESC LIMIT 1)`

	// currentPosition selects for each partition a position up to which all changes are visible.
	// It is the last one, unless the clock of the database has gone back, or that change is older
	// than yesterday and was not notified.
	currentPosition = `SELECT greatest(p.notified, p.pruned,
			(SELECT l.position FROM %s AS l WHERE l.partition = p.partition AND l.position > p.notified ORDER BY l.position DESC LIMIT 1),
			(SELECT l.position FROM %s AS l WHERE l.partition = p.partition AND l.position > p.notified ORDER BY l.position DESC LIMIT 1))
		FROM ident_partitions AS p ORDER BY p.partition`

	// partitionStates selects what is known about each partition, and whether the position $1 of it was lost.
	partitionStates = `SELECT p.pruned, p.epoch, coalesce((SELECT l.after FROM ident_lost AS l
				WHERE l.partition = p.partition AND l.before > v.position ORDER BY l.before LIMIT 1) < v.position, false),
			p.first, p.ended_at, p.notified
		FROM ident_partitions AS p, LATERAL (SELECT ($1::bigint[])[p.partition + 1] AS position) AS v ORDER BY p.partition`
)

// Statements on yesterday, today and tomorrow are executed again and again. Those on earlier days
// would only take the places of others among the prepared statements of a connection.
const (
	prepared    = pgx.QueryExecModeCacheStatement
	notPrepared = pgx.QueryExecModeExec
)

// Changes implements [actor.Store].
func (r *Reader) Changes(ctx context.Context, page *actor.ChangesPage) (changes actor.ChangePage, refusal *actor.Refusal, err error) {
	var after *logPosition
	if page.After != "" {
		if after, refusal = parsePosition(page.After); refusal != nil {
			return actor.ChangePage{}, refusal, nil
		}
	}
	leave, err := r.enterList(ctx)
	if err != nil {
		return actor.ChangePage{}, nil, err
	}
	defer leave()
	err = r.retryOnWrongDay(ctx, func(ctx context.Context) (err error) {
		changes, refusal, err = r.changesAfter(ctx, after, page.Size)
		return err
	})
	if err != nil {
		return actor.ChangePage{}, nil, postgres.LogError(ctx, r.log, "reading changes", err)
	}
	return changes, refusal, nil
}

// retryOnWrongDay retries what has used a table that was dropped, or that does not exist yet.
func (r *Reader) retryOnWrongDay(ctx context.Context, read func(context.Context) error) error {
	return r.pool.Retry(ctx, func(ctx context.Context) error {
		err := read(ctx)
		if changelog.IsWrongDay(err) {
			r.days.Forget()
			err = read(ctx)
		}
		return err
	})
}

func (r *Reader) changesAfter(ctx context.Context, after *logPosition, limit int) (actor.ChangePage, *actor.Refusal, error) {
	fail := func(err error) (actor.ChangePage, *actor.Refusal, error) { return actor.ChangePage{}, nil, err }
	tables, err := r.days.Tables(ctx)
	if err != nil {
		return fail(err)
	}
	first := time.Time{}
	if after != nil {
		if first = firstDay(tables); after.first.Before(first) {
			first = after.first
		}
	}
	names, err := r.days.Since(ctx, first, tables)
	if err != nil {
		return fail(err)
	}
	// What is pruned is read after the names: a table that has none of them was dropped before.
	states, err := r.readPartitions(ctx, after)
	switch {
	case err != nil:
		return fail(err)
	case after == nil:
		after = oldestPosition(states)
	default:
		after = &logPosition{first: after.first, next: after.next, partitions: slices.Clone(after.partitions)} // another attempt begins with after
		if after.extend(states); after.isGone(states) {
			return actor.ChangePage{}, actor.ChangesMissing, nil
		}
	}
	c := &changesReader{position: *after, limit: limit}
	if err := c.readGenerations(ctx, r.pool, append(names, tables.Tomorrow), states); err != nil {
		return fail(err)
	}
	c.page.After = c.position.String()
	return c.page, nil, nil
}

func (r *Reader) readPartitions(ctx context.Context, after *logPosition) ([]partitionState, error) {
	var positions []int64
	if after != nil {
		positions = after.partitions
	}
	rows, _ := r.pool.Query(ctx, partitionStates, positions)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[partitionState])
}

// A changesReader reads a page of changes.
type changesReader struct {
	position   logPosition // after the page
	partitions []int       // in the order in which they fill the page
	limit      int
	bytes      int // of the page
	page       actor.ChangePage
}

// readGenerations reads one generation after the other, until the page is full: a user's changes in a
// later one follow those in an earlier one. The log of an earlier one does not grow.
func (c *changesReader) readGenerations(ctx context.Context, pool *postgres.Pool, days []string, states []partitionState) error {
	for {
		first, end := c.position.unread(states)
		c.partitions = make([]int, end-first)
		for i := range c.partitions {
			c.partitions[i] = first + (max(0, c.position.next-first)+i)%len(c.partitions)
		}
		if err := c.read(ctx, pool, days); err != nil || end == len(states) {
			return err
		}
		if c.page.More {
			// The next generation may have changes from the day on which this one has ended, or the
			// day before, since the clock of the database may go back.
			if ended := states[first].EndedAt.UTC().Truncate(day).Add(-day); ended.Before(c.position.first) {
				c.position.first = ended
			}
			return nil
		}
		for i := first; i < end; i++ {
			c.position.partitions[i] = max(c.position.partitions[i], states[i].Notified)
		}
	}
}

// read reads the logs of days in order, until the page is full. The last three days are
// yesterday, today and tomorrow.
//
// The clock of the database may go back over midnight, by less than a day. Then some positions
// of a day are between those of the next day. So read takes together the changes of a day, and
// those of the next day before its last one; at the end, all changes of the last three days.
func (c *changesReader) read(ctx context.Context, pool *postgres.Pool, days []string) error {
	for read := 0; len(days) > 3; read++ {
		if c.isFull() || read == maxDaysPerPage {
			c.page.More = true
		} else if err := c.readDays(ctx, pool, notPrepared, fmt.Sprintf(changesOf, days[0], "")+
			" UNION ALL "+fmt.Sprintf(changesOf, days[1], fmt.Sprintf(beforeLastOf, days[0]))); err != nil {
			return err
		}
		if c.page.More {
			c.position.first = changelog.DateOf(days[0])
			return nil
		}
		days = days[1:]
	}
	c.position.first = changelog.DateOf(days[0])
	if c.isFull() {
		c.page.More = true
		return nil
	}
	parts := make([]string, len(days))
	for i, name := range days {
		parts[i] = fmt.Sprintf(changesOf, name, "")
	}
	return c.readDays(ctx, pool, prepared, strings.Join(parts, " UNION ALL "))
}

func (c *changesReader) isFull() bool {
	return len(c.page.Changes) == c.limit || c.bytes >= maxListBytes
}

// readDays adds changes to the page, which is not full. If not all of them fit, the page has
// more.
func (c *changesReader) readDays(ctx context.Context, pool *postgres.Pool, mode pgx.QueryExecMode, changes string) error {
	after := make([]int64, len(c.partitions))
	for i, p := range c.partitions {
		after[i] = c.position.partitions[p]
	}
	rows, _ := pool.Query(ctx, fmt.Sprintf(laterChanges, changes), mode,
		c.partitions, after, c.limit-len(c.page.Changes), maxListBytes-c.bytes)
	var number, found, read int
	var position int64
	var change actor.Change
	var content []byte
	_, err := pgx.ForEachRow(rows, []any{&number, &position, &change.UserID, &change.Sequence, &change.CommittedAt, &change.Operation, &content, &found}, func() (err error) {
		if c.page.More || c.bytes > 0 && c.bytes+len(content) > maxListBytes {
			c.page.More = true
			return nil
		}
		if position <= c.position.partitions[number] {
			return fmt.Errorf("position %d of partition %d was read after %d", position, number, c.position.partitions[number])
		}
		if change.Content, err = actor.ContentOf(change.Operation, content); err != nil {
			return fmt.Errorf("position %d of partition %d: %w", position, number, err)
		}
		c.page.Changes = append(c.page.Changes, change)
		c.position.partitions[number], c.position.next = position, (number+1)%len(c.position.partitions)
		c.bytes += len(content)
		read++
		return nil
	})
	c.page.More = c.page.More || read < found
	return err
}

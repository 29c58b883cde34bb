package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// A sealedRow is a row with something sealed in it.
type sealedRow struct {
	sealedKey
	userID int64
	sealed []byte
}

// A sealedKey tells the rows of a sealedColumn apart.
type sealedKey struct {
	service string // as the database names it; "" where there is none
	id      int64
}

// A sealedColumn is where what is sealed is stored. All that is are accessTokens
// and notificationBodies.
type sealedColumn struct {
	// page selects service, id, user id and what is sealed of the rows of service
	// $1 with ids from $2 to $3, by id: up to $4 of them, fewer if they have more
	// than $5 bytes, but one at least.
	page string

	// replace puts $4 in the place of $3 in the rows ($1, $2), arrays all of them,
	// where it is still there. It leaves out a row that another transaction has
	// locked, so that it waits for nobody and cannot be part of a deadlock.
	replace string
}

var accessTokens = &sealedColumn{
	// The comparison of pairs can only be answered by the primary key. By the
	// other index a rare service would be searched for among all accounts.
	page: `SELECT sv_name::text, user_id, user_id, access_token FROM (
			SELECT sv_name, user_id, access_token,
				sum(octet_length(access_token)) OVER (ORDER BY sv_name, user_id ROWS UNBOUNDED PRECEDING) AS bytes
			FROM services WHERE (sv_name, user_id) >= ($1::text::svc_type, $2::int) AND (sv_name, user_id) <= ($1::text::svc_type, $3::int)
			ORDER BY sv_name, user_id LIMIT $4) AS page
		WHERE bytes - octet_length(access_token) < $5 ORDER BY page.sv_name, page.user_id`,
	replace: `UPDATE services s SET access_token = n.new FROM (
			SELECT s.sv_name, s.user_id, n.new
			FROM unnest($1::text[]::svc_type[], $2::int[], $3::bytea[], $4::bytea[]) AS n (sv_name, user_id, old, new)
			JOIN services s USING (sv_name, user_id)
			WHERE s.access_token = n.old FOR NO KEY UPDATE OF s SKIP LOCKED) AS n
		WHERE s.sv_name = n.sv_name AND s.user_id = n.user_id`,
}

var notificationBodies = &sealedColumn{
	page: `SELECT $1::text, id, user_id, body FROM (
			SELECT id, user_id, body, sum(octet_length(body)) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) AS bytes
			FROM ident_outbox WHERE id BETWEEN $2 AND $3 AND sealed ORDER BY id LIMIT $4) AS page
		WHERE bytes - octet_length(body) < $5 ORDER BY id`,
	replace: `UPDATE ident_outbox o SET body = n.new FROM (
			SELECT o.id, n.new
			FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[]) AS n (service, id, old, new)
			JOIN ident_outbox o USING (id)
			WHERE o.body = n.old FOR NO KEY UPDATE OF o SKIP LOCKED) AS n
		WHERE o.id = n.id`,
}

// A sealedRange is some of the rows of a column, as ids go.
type sealedRange struct {
	column      *sealedColumn
	service     string
	first, last int64 // last < first: there are none
}

func (r *sealedRange) size() int64 { return max(0, r.last-r.first+1) }

// accountRanges returns where the access tokens are, service by service.
func (s *Store) accountRanges(ctx context.Context) ([]sealedRange, error) {
	return s.ranges(ctx, accessTokens, `SELECT e::text,
			coalesce((SELECT CASE WHEN s.sv_name = e THEN s.user_id END FROM services s
				WHERE (s.sv_name, s.user_id) >= (e, '-2147483648'::int) ORDER BY s.sv_name, s.user_id LIMIT 1), 0),
			coalesce((SELECT CASE WHEN s.sv_name = e THEN s.user_id END FROM services s
				WHERE (s.sv_name, s.user_id) <= (e, 2147483647) ORDER BY s.sv_name DESC, s.user_id DESC LIMIT 1), -1)
		FROM unnest(enum_range(NULL::svc_type)) AS e ORDER BY e`)
}

// sealedRanges returns where all is that is sealed.
func (s *Store) sealedRanges(ctx context.Context) ([]sealedRange, error) {
	tokens, err := s.accountRanges(ctx)
	if err != nil {
		return nil, err
	}
	notifications, err := s.ranges(ctx, notificationBodies, "SELECT '', coalesce(min(id), 0), coalesce(max(id), -1) FROM ident_outbox")
	return append(tokens, notifications...), err
}

func (s *Store) ranges(ctx context.Context, column *sealedColumn, sql string) ([]sealedRange, error) {
	rows, err := s.pool.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (sealedRange, error) {
		r := sealedRange{column: column}
		err := row.Scan(&r.service, &r.first, &r.last)
		return r, err
	})
}

// sealedPage reads the rows of a range whose ids are from on.
func (s *Store) sealedPage(ctx context.Context, r *sealedRange, from int64, limit int) ([]sealedRow, error) {
	rows, err := s.pool.Query(ctx, r.column.page, r.service, from, r.last, limit, maxPageBytes)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanSealed)
}

func scanSealed(row pgx.CollectableRow) (r sealedRow, err error) {
	err = row.Scan(&r.service, &r.id, &r.userID, &r.sealed)
	return r, err
}

// A replacement is what is to take the place of what is sealed in a row.
type replacement struct {
	row sealedRow
	new []byte
}

// replaceSealed makes replacements where nothing else has taken the place, and
// says how many it made.
func (s *Store) replaceSealed(ctx context.Context, c *sealedColumn, all []replacement) (made int, err error) {
	if len(all) == 0 {
		return 0, nil
	}
	var services []string
	var ids []int64
	var olds, news [][]byte
	for _, r := range all {
		services, ids = append(services, r.row.service), append(ids, r.row.id)
		olds, news = append(olds, r.row.sealed), append(news, r.new)
	}
	tag, err := s.pool.Exec(ctx, c.replace, services, ids, olds, news)
	return int(tag.RowsAffected()), err
}

package rekey

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/store/internal/postgres"
)

// A sealedRow is a row with an encrypted value.
type sealedRow struct {
	rowKey
	userID int64
	sealed []byte
}

// A rowKey identifies a row of a column.
type rowKey struct {
	service string // the database's name; "" for notifications
	id      int64
}

// A column holds encrypted values. There are two: accessTokens and notificationBodies.
type column struct {
	// page selects service, id, user id and encrypted value of the rows of service $1 with
	// ids from $2 to $3, by id: at most $4 rows, and no more once they have $5 bytes.
	page string

	// replace sets the rows ($1, $2) to $4 if they still have the value $3; all are
	// arrays. It leaves out rows that another transaction has locked. So it waits for no
	// transaction and cannot be part of a deadlock.
	replace string
}

var accessTokens = &column{
	// These statements read the index services_by_service in its order. With another one
	// they would search all accounts for those of a rare service.
	page: `SELECT sv_name::text, user_id, user_id, access_token FROM (
			SELECT sv_name, user_id, access_token,
				sum(octet_length(access_token)) OVER (ORDER BY sv_name, (user_id + 0) ROWS UNBOUNDED PRECEDING) AS bytes
			FROM services WHERE (sv_name, (user_id + 0)) >= ($1::text::svc_type, $2::bigint) AND (sv_name, (user_id + 0)) <= ($1::text::svc_type, $3::bigint)
			ORDER BY sv_name, (user_id + 0) LIMIT $4) AS page
		WHERE bytes - octet_length(access_token) < $5 ORDER BY page.sv_name, page.user_id`,
	replace: `UPDATE services s SET access_token = n.new FROM (
			SELECT locked.ctid, n.new
			FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[]) AS n (sv_name, user_id, old, new), LATERAL (
				SELECT ctid FROM services WHERE user_id = n.user_id AND services.sv_name::text = n.sv_name AND access_token = n.old
				FOR NO KEY UPDATE SKIP LOCKED) AS locked) AS n
		WHERE s.ctid = n.ctid`,
}

var notificationBodies = &column{
	page: `SELECT $1::text, id, user_id, body FROM (
			SELECT id, user_id, body, sum(octet_length(body)) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) AS bytes
			FROM ident_sealed WHERE id BETWEEN $2 AND $3 ORDER BY id LIMIT $4) AS page
		WHERE bytes - octet_length(body) < $5 ORDER BY id`,
	replace: `UPDATE ident_sealed o SET body = n.new FROM (
			SELECT locked.ctid, n.new
			FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[]) AS n (service, id, old, new), LATERAL (
				SELECT ctid FROM ident_sealed o WHERE o.id = n.id AND body = n.old FOR NO KEY UPDATE SKIP LOCKED) AS locked) AS n
		WHERE o.ctid = n.ctid`,
}

// An idRange is the rows of a column with an id in a range.
type idRange struct {
	column      *column
	service     string
	first, last int64 // last < first means that there are no rows
}

func (r *idRange) size() int64 { return max(0, r.last-r.first+1) }

// tokenRanges returns the range of the access tokens of each service.
func (k *Rekeyer) tokenRanges(ctx context.Context) ([]idRange, error) {
	return k.queryRanges(ctx, accessTokens, `SELECT e::text,
			coalesce((SELECT CASE WHEN s.sv_name = e THEN s.user_id END FROM services s
				WHERE (s.sv_name, (s.user_id + 0)) >= (e, '-9223372036854775808'::bigint) ORDER BY s.sv_name, (s.user_id + 0) LIMIT 1), 0),
			coalesce((SELECT CASE WHEN s.sv_name = e THEN s.user_id END FROM services s
				WHERE (s.sv_name, (s.user_id + 0)) <= (e, 9223372036854775807) ORDER BY s.sv_name DESC, (s.user_id + 0) DESC LIMIT 1), -1)
		FROM unnest(enum_range(NULL::svc_type)) AS e ORDER BY e`)
}

// allRanges returns the ranges of everything that is encrypted.
func (k *Rekeyer) allRanges(ctx context.Context) ([]idRange, error) {
	tokens, err := k.tokenRanges(ctx)
	if err != nil {
		return nil, err
	}
	notifications, err := k.queryRanges(ctx, notificationBodies, "SELECT '', coalesce(min(id), 0), coalesce(max(id), -1) FROM ident_sealed")
	return append(tokens, notifications...), err
}

func (k *Rekeyer) queryRanges(ctx context.Context, c *column, sql string) ([]idRange, error) {
	rows, err := k.pool.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (idRange, error) {
		r := idRange{column: c}
		err := row.Scan(&r.service, &r.first, &r.last)
		return r, err
	})
}

// readPage reads the rows of a range with ids from from on.
func (k *Rekeyer) readPage(ctx context.Context, r *idRange, from int64, limit int) ([]sealedRow, error) {
	rows, err := k.pool.Query(ctx, r.column.page, r.service, from, r.last, limit, postgres.MaxPageBytes)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanSealed)
}

func scanSealed(row pgx.CollectableRow) (r sealedRow, err error) {
	err = row.Scan(&r.service, &r.id, &r.userID, &r.sealed)
	return r, err
}

// A replacement is a new encrypted value for a row.
type replacement struct {
	row sealedRow
	new []byte
}

// replace writes replacements to rows that have not changed since they were read. It
// returns the number of rows written.
func (k *Rekeyer) replace(ctx context.Context, c *column, all []replacement) (written int, err error) {
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
	tag, err := k.pool.Exec(ctx, c.replace, services, ids, olds, news)
	return int(tag.RowsAffected()), err
}

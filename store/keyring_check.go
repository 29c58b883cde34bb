package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/store/internal/keyring"
)

const (
	// Of each service, tokens are looked at of this many users of the lowest
	// ids, as many of the highest, and some in between.
	sampledAtEnds  = 32
	sampledBetween = 128

	// maxSampledBytes is how large a token may be to be looked at.
	maxSampledBytes = 16 << 10

	// sampledAtOnce is how many are read at once. In between others get the
	// connection, where there is just one.
	sampledAtOnce = 32

	sampleTimeout = 10 * time.Second

	maxUsersLogged = 10
)

// CheckKeyring looks at a sample of the access tokens: some hundred, however many
// there are. It logs an error if there are such that no key opens, so that a key
// that was lost is known of before the token is asked for; and it logs if there
// are such as another key than the first has sealed, which is to say that [Store.Rekey]
// is still to be done. It takes 10 s at the most; Rekey with DryRun looks at all.
func (s *Store) CheckKeyring(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	rows, err := s.sampleTokens(limited)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("access tokens not checked", zap.Error(err))
		}
		return
	}
	stale := 0
	var unreadable []int64 // whose
	for _, row := range rows {
		switch _, by := s.keyring.OpenWithKey(row.sealed); by {
		case keyring.NoKey:
			unreadable = append(unreadable, row.userID)
		case keyring.LaterKey:
			stale++
		}
	}
	if lost := len(unreadable); lost > 0 {
		slices.Sort(unreadable)
		unreadable = slices.Compact(unreadable)
		s.log.Error("no key opens some access tokens: their users cannot be read",
			zap.Int("unreadable", lost), zap.Int("sampled", len(rows)),
			zap.Int64s("user_ids", unreadable[:min(len(unreadable), maxUsersLogged)]))
	}
	if stale > 0 {
		s.log.Info("some access tokens are not sealed by the first key: glotpod-ident rekey is to be run",
			zap.Int("stale", stale), zap.Int("sampled", len(rows)))
	}
}

// sampleTokens reads the tokens that CheckKeyring looks at.
func (s *Store) sampleTokens(ctx context.Context) (rows []sealedRow, err error) {
	ranges, err := s.accountRanges(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading between which users they are: %w", err)
	}
	seen := make(map[sealedKey]bool)
	for points := range slices.Chunk(samplePoints(ranges), sampledAtOnce) {
		found, err := s.tokensFrom(ctx, points)
		if err != nil {
			return nil, fmt.Errorf("reading a sample: %w", err)
		}
		for _, row := range found {
			if !seen[row.sealedKey] {
				seen[row.sealedKey] = true
				rows = append(rows, row)
			}
		}
	}
	return rows, nil
}

// samplePoints draws where to look for tokens.
func samplePoints(ranges []sealedRange) (points []sealedKey) {
	for _, of := range ranges {
		n := of.size()
		if n == 0 {
			continue
		}
		for i := range min(n, sampledAtEnds) {
			points = append(points, sealedKey{of.service, of.first + i}, sealedKey{of.service, of.last - i})
		}
		for range sampledBetween {
			points = append(points, sealedKey{of.service, of.first + rand.Int64N(n)})
		}
	}
	return points
}

// tokensFrom reads the first token from each point on.
func (s *Store) tokensFrom(ctx context.Context, points []sealedKey) ([]sealedRow, error) {
	var services []string
	var ids []int64
	for _, p := range points {
		services, ids = append(services, p.service), append(ids, p.id)
	}
	rows, err := s.pool.Query(ctx, `SELECT s.sv_name::text, s.user_id, s.user_id, s.access_token
		FROM unnest($1::text[]::svc_type[], $2::int[]) AS p (sv_name, user_id), LATERAL (
			SELECT sv_name, user_id, access_token FROM services
			WHERE (services.sv_name, services.user_id) >= (p.sv_name, p.user_id) ORDER BY services.sv_name, services.user_id LIMIT 1) AS s
		WHERE octet_length(s.access_token) <= $3`, services, ids, maxSampledBytes)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanSealed)
}

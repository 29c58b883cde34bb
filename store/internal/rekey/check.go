package rekey

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
	// The sample has, of each service, the tokens of this many users with the lowest ids,
	// as many with the highest, and some in between.
	sampledAtEnds  = 32
	sampledBetween = 128

	// maxSampledBytes bounds the size of a token in the sample.
	maxSampledBytes = 16 << 10

	// sampleBatch is the number of tokens per statement. If the pool has one connection,
	// other work gets it in between.
	sampleBatch = 32

	sampleTimeout = 10 * time.Second

	maxUsersLogged = 10
)

// A Sample says what a sample of the access tokens shows.
type Sample struct {
	Tokens     int
	Unreadable int     // tokens that no key decrypts
	Users      []int64 // ids of users with unreadable tokens
	Stale      int     // tokens that a later key decrypts: Run is still to be done
}

// Check decrypts a sample of the access tokens and logs what it finds: an error if no key decrypts
// some of them, so that a lost key is noticed before callers need the token, and a message if a
// later key decrypts some of them. Check takes 10 s at most. Run with DryRun reads all tokens.
func (k *Rekeyer) Check(ctx context.Context) {
	s, err := k.Sample(ctx)
	if err != nil {
		if ctx.Err() == nil {
			k.log.Warn("access tokens not checked", zap.Error(err))
		}
		return
	}
	if s.Unreadable > 0 {
		k.log.Error("no key decrypts some access tokens: their users cannot be read",
			zap.Int("unreadable", s.Unreadable), zap.Int("sampled", s.Tokens),
			zap.Int64s("user_ids", s.Users[:min(len(s.Users), maxUsersLogged)]))
	}
	if s.Stale > 0 {
		k.log.Info("some access tokens are not encrypted with the first key: glotpod-ident rekey is to be run",
			zap.Int("stale", s.Stale), zap.Int("sampled", s.Tokens))
	}
}

// Sample decrypts a sample of the access tokens: some hundred, however many there are. It takes
// 10 s at most.
func (k *Rekeyer) Sample(ctx context.Context) (s Sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	rows, err := k.sample(ctx)
	if err != nil {
		return s, err
	}
	s.Tokens = len(rows)
	for _, row := range rows {
		switch _, by := k.keyring.OpenWithKey(row.sealed); by {
		case keyring.NoKey:
			s.Unreadable++
			s.Users = append(s.Users, row.userID)
		case keyring.LaterKey:
			s.Stale++
		}
	}
	slices.Sort(s.Users)
	s.Users = slices.Compact(s.Users)
	return s, nil
}

// sample reads the rows of the sample.
func (k *Rekeyer) sample(ctx context.Context) (rows []sealedRow, err error) {
	ranges, err := k.tokenRanges(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the range of user ids: %w", err)
	}
	seen := make(map[rowKey]bool)
	for points := range slices.Chunk(samplePoints(ranges), sampleBatch) {
		found, err := k.tokensFrom(ctx, points)
		if err != nil {
			return nil, fmt.Errorf("reading a sample: %w", err)
		}
		for _, row := range found {
			if !seen[row.rowKey] {
				seen[row.rowKey] = true
				rows = append(rows, row)
			}
		}
	}
	return rows, nil
}

// samplePoints chooses the rows from which tokensFrom reads.
func samplePoints(ranges []idRange) (points []rowKey) {
	for _, of := range ranges {
		n := of.size()
		if n == 0 {
			continue
		}
		for i := range min(n, sampledAtEnds) {
			points = append(points, rowKey{of.service, of.first + i}, rowKey{of.service, of.last - i})
		}
		for range sampledBetween {
			points = append(points, rowKey{of.service, of.first + rand.Int64N(n)})
		}
	}
	return points
}

// tokensFrom reads, for each point, the first token at or after it.
func (k *Rekeyer) tokensFrom(ctx context.Context, points []rowKey) ([]sealedRow, error) {
	var services []string
	var ids []int64
	for _, p := range points {
		services, ids = append(services, p.service), append(ids, p.id)
	}
	rows, err := k.pool.Query(ctx, `SELECT s.sv_name::text, s.user_id, s.user_id, s.access_token
		FROM unnest($1::text[]::svc_type[], $2::bigint[]) AS p (sv_name, user_id), LATERAL (
			SELECT sv_name, user_id, access_token FROM services
			WHERE (services.sv_name, (services.user_id + 0)) >= (p.sv_name, p.user_id) ORDER BY services.sv_name, (services.user_id + 0) LIMIT 1) AS s
		WHERE octet_length(s.access_token) <= $3`, services, ids, maxSampledBytes)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanSealed)
}

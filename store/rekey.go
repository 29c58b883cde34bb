package store

import (
	"context"
	"fmt"
	"time"

	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/postgres"
)

// RekeyOptions say how [Store.Rekey] goes about it.
type RekeyOptions struct {
	DryRun bool // only look

	// Batch is how many rows are read, and locked for a moment, at a time; at
	// least 1.
	Batch int

	// Rate is how many rows are re-sealed a second at the most; ten times as many
	// are read. 0 is no limit.
	Rate int

	// Progress is told after each batch how far it is. It may be nil.
	Progress func(RekeyProgress)
}

// A RekeyProgress is how far [Store.Rekey] is.
type RekeyProgress struct {
	RekeyReport
	Fraction float64 // of the present pass, 0 to 1
}

// A RekeyReport is what [Store.Rekey] did, and what it found in its last pass.
type RekeyReport struct {
	// Done: all that a key opens is sealed by the first.
	Done          bool
	Passes        int
	Tokens        RekeyCount
	Notifications RekeyCount
	Unreadable    []UnreadableToken // the first 1,000
}

// A RekeyCount counts rows.
type RekeyCount struct {
	Read       int64 // in the last pass
	Resealed   int64 // in all passes
	Stale      int64 // of those read in the last pass: sealed by another key than the first, still
	Unreadable int64 // of those: no key opens them
}

// An UnreadableToken is where something is stored that no key opens.
type UnreadableToken struct {
	UserID         int64
	Service        string // whose access token it is: "github" or "facebook"; "" for a notification
	NotificationID int64  // 0 for an access token
}

const (
	// maxPasses bounds Rekey where somebody seals by another key all the time.
	maxPasses = 5

	maxUnreadableListed = 1000

	// passPause is the least time between two passes, in which those who held locks
	// or had begun to write come to an end.
	passPause = time.Second

	// readsPerWrite is how many rows may be read in the time in which one may be
	// written.
	readsPerWrite = 10
)

// Rekey seals all access tokens by the first key of the keyring, and the
// notifications in the outbox that hold any, as far as another key of it opens
// them; what no key opens it leaves as it is. It may be ended at any time, and
// called again: what is sealed by the first key is only read.
//
// The service may run meanwhile, and any other program. What they write is never
// overwritten, and no row is locked for longer than it takes to write a batch.
// Rows that others have locked, or that are added while it is at work, are left to
// the next pass; it ends with a pass that has found nothing to do, or after the
// fifth, which means that some program still seals by another key. DryRun makes
// one pass.
//
// When ctx is done, the batch that is under way is finished. The report is good
// also with an error.
func (s *Store) Rekey(ctx context.Context, o RekeyOptions) (RekeyReport, error) {
	r := &rekeying{store: s, RekeyOptions: o}
	if r.Rate > 0 {
		r.Batch = min(r.Batch, r.Rate)
	}
	passes := maxPasses
	if r.DryRun {
		passes = 1
	}
	for n := range passes {
		if n > 0 {
			pause(ctx, passPause)
		}
		if err := r.pass(ctx); err != nil {
			return r.report, fmt.Errorf("re-sealing: %w", err)
		}
		if r.report.Done {
			break
		}
	}
	return r.report, nil
}

// pause waits for d, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// A rekeying is one call of Rekey.
type rekeying struct {
	store *Store
	RekeyOptions
	report RekeyReport
	todo   int           // rows of the present pass that were found to be stale
	ranges []sealedRange // of the present pass, which leaves what is added later to the next
}

// pass goes through everything once.
func (r *rekeying) pass(ctx context.Context) error {
	p := &r.report
	p.Passes++
	p.Tokens = RekeyCount{Resealed: p.Tokens.Resealed}
	p.Notifications = RekeyCount{Resealed: p.Notifications.Resealed}
	p.Unreadable, r.todo = nil, 0
	err := r.store.pool.Retry(ctx, func(ctx context.Context) (err error) {
		r.ranges, err = r.store.sealedRanges(ctx)
		return err
	})
	if err != nil {
		return err
	}
	for i := range r.ranges {
		if err := r.through(ctx, &r.ranges[i]); err != nil {
			return err
		}
	}
	p.Done = r.todo == 0
	return nil
}

// through goes through a range, batch by batch.
func (r *rekeying) through(ctx context.Context, of *sealedRange) error {
	for from := of.first; from <= of.last; {
		begun := time.Now()
		var b rekeyBatch
		err := r.store.pool.Retry(ctx, func(context.Context) (err error) {
			attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), postgres.AttemptTimeout)
			defer cancel()
			b, err = r.batch(attempt, of, from)
			return err
		})
		if err != nil {
			return err
		}
		from = of.last + 1
		if len(b.rows) > 0 {
			from = b.rows[len(b.rows)-1].id + 1
		}
		r.add(of.column, &b)
		if r.Progress != nil {
			r.Progress(RekeyProgress{r.report, r.fraction(of, from)})
		}
		pause(ctx, time.Until(begun.Add(r.cost(len(b.rows), b.resealed))))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// A rekeyBatch is some rows, and what became of them.
type rekeyBatch struct {
	rows       []sealedRow
	stale      int // of the rows, sealed by another key than the first
	resealed   int // of these
	unreadable []sealedRow
}

// batch reads a batch, and writes what is to be written.
func (r *rekeying) batch(ctx context.Context, of *sealedRange, from int64) (b rekeyBatch, err error) {
	if b.rows, err = r.store.sealedPage(ctx, of, from, r.Batch); err != nil {
		return b, fmt.Errorf("reading: %w", err)
	}
	var stale []replacement
	for _, row := range b.rows {
		plain, by := r.store.keyring.OpenWithKey(row.sealed)
		switch by {
		case keyring.NoKey:
			b.unreadable = append(b.unreadable, row)
		case keyring.LaterKey:
			b.stale++
			if r.DryRun {
				continue
			}
			sealed, err := r.store.keyring.Seal(plain)
			if err != nil {
				return b, err
			}
			stale = append(stale, replacement{row, sealed})
		}
	}
	if b.resealed, err = r.store.replaceSealed(ctx, of.column, stale); err != nil {
		return b, fmt.Errorf("writing: %w", err)
	}
	return b, nil
}

func (r *rekeying) add(c *sealedColumn, b *rekeyBatch) {
	count := &r.report.Tokens
	if c == notificationBodies {
		count = &r.report.Notifications
	}
	count.Read += int64(len(b.rows))
	count.Resealed += int64(b.resealed)
	count.Stale += int64(b.stale - b.resealed)
	count.Unreadable += int64(len(b.unreadable))
	r.todo += b.stale
	for _, row := range b.unreadable[:min(len(b.unreadable), maxUnreadableListed-len(r.report.Unreadable))] {
		u := UnreadableToken{UserID: row.userID, Service: serviceNames[row.service]}
		if c == notificationBodies {
			u.NotificationID = row.id
		}
		r.report.Unreadable = append(r.report.Unreadable, u)
	}
}

// cost is how long a batch has to take at the least.
func (r *rekeying) cost(read, written int) time.Duration {
	if r.Rate == 0 {
		return 0
	}
	return max(time.Duration(read)*time.Second/readsPerWrite, time.Duration(written)*time.Second) / time.Duration(r.Rate)
}

// fraction is how much of the pass is done where that much of a range is.
func (r *rekeying) fraction(at *sealedRange, from int64) float64 {
	done, all := int64(0), int64(0)
	for i := range r.ranges {
		of := &r.ranges[i]
		if of == at {
			done = all + from - of.first
		}
		all += of.size()
	}
	return float64(done) / float64(all)
}

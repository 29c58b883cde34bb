// Package rekey finds what is encrypted in the database, encrypts it with the first key of the
// keyring ([Rekeyer.Run]), and checks a sample of it ([Rekeyer.Check]).
//
// # Design decisions and what they cost
//
//   - A batch is read without locks, and each row is replaced only if it still has the value
//     that was read. So nothing that other programs write is lost, and no row is locked
//     for longer than one statement. The price: rows that change at the same moment, or
//     that others have locked, are left to another pass.
//   - There is no record of the progress in the database. A run that is interrupted
//     begins again, and only reads what is encrypted with the first key already.
package rekey

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/schema"
)

// Options say how [Rekeyer.Run] works.
type Options struct {
	DryRun bool // read only

	// Batch is the number of rows that are read, and locked for a moment, at a time; at
	// least 1.
	Batch int

	// Rate is the maximum number of rows that are encrypted again per second. Ten times as many
	// are read. 0 means no limit.
	Rate int

	// Progress is called after each batch. It may be nil.
	Progress func(Progress)
}

// Progress says how far [Rekeyer.Run] is.
type Progress struct {
	Report
	Fraction float64 // of the current pass, 0 to 1
}

// A Report says what [Rekeyer.Run] did, and what it found in its last pass.
type Report struct {
	Done          bool // everything that a key decrypts is encrypted with the first key
	Passes        int
	Tokens        Count
	Notifications Count
	Unreadable    []UnreadableToken // the first 1,000
}

// A Count counts rows.
type Count struct {
	Read       int64 // in the last pass
	Resealed   int64 // in all passes
	Stale      int64 // of those read in the last pass: still encrypted with a later key
	Unreadable int64 // of those read in the last pass: no key decrypts them
}

// An UnreadableToken is the place of an encrypted value that no key decrypts.
type UnreadableToken struct {
	UserID         int64
	Service        string // of an access token: "github" or "facebook"; "" for a notification
	NotificationID int64  // 0 for an access token
}

const (
	// maxPasses bounds a run while another program keeps encrypting with a later key.
	maxPasses = 5

	maxUnreadableListed = 1000

	// passPause is the minimum time between two passes. In it, transactions that have
	// locked rows or have begun to write end.
	passPause = time.Second

	// readsPerWrite is the number of rows that may be read in the time in which one may be
	// written.
	readsPerWrite = 10
)

// A Rekeyer works on the encrypted values of one database.
type Rekeyer struct {
	pool    *postgres.Pool
	keyring *keyring.Keyring
	log     *zap.Logger
}

// New returns a Rekeyer.
func New(pool *postgres.Pool, keys *keyring.Keyring, log *zap.Logger) *Rekeyer {
	return &Rekeyer{pool: pool, keyring: keys, log: log}
}

// Run encrypts all access tokens, and the notifications to be sent that contain any, with
// the first key of the keyring, if another key decrypts them. It leaves what no key decrypts. It
// may be interrupted and repeated at any time: what is encrypted with the first key is only
// read.
//
// The service and any other program may run at the same time. Run never overwrites what
// they write and locks no row for longer than it takes to write a batch. Rows that others
// have locked, or add meanwhile, are left to the next pass. Run ends with a pass that finds
// nothing to do, or after the fifth pass: then some program still encrypts with a later key.
// DryRun makes one pass.
//
// When ctx is done, Run finishes the current batch. The report is valid also with an error.
func (k *Rekeyer) Run(ctx context.Context, o Options) (Report, error) {
	r := &run{rekeyer: k, options: o, batchSize: o.Batch}
	if o.Rate > 0 {
		r.batchSize = min(r.batchSize, o.Rate)
	}
	passes := maxPasses
	if o.DryRun {
		passes = 1
	}
	for n := range passes {
		if n > 0 {
			wait.For(ctx, passPause)
		}
		if err := r.pass(ctx); err != nil {
			return r.report, fmt.Errorf("encrypting again: %w", err)
		}
		if r.report.Done {
			break
		}
	}
	return r.report, nil
}

// A run is one call of Run.
type run struct {
	rekeyer   *Rekeyer
	options   Options
	batchSize int
	report    Report
	stale     int       // rows of the current pass that a later key decrypts
	ranges    []idRange // of the current pass. Rows that are added later are left to the next
}

// pass processes everything once.
func (r *run) pass(ctx context.Context) error {
	p := &r.report
	p.Passes++
	p.Tokens = Count{Resealed: p.Tokens.Resealed}
	p.Notifications = Count{Resealed: p.Notifications.Resealed}
	p.Unreadable, r.stale = nil, 0
	err := r.rekeyer.pool.Retry(ctx, func(ctx context.Context) (err error) {
		r.ranges, err = r.rekeyer.allRanges(ctx)
		return err
	})
	if err != nil {
		return err
	}
	for i := range r.ranges {
		if err := r.processRange(ctx, &r.ranges[i]); err != nil {
			return err
		}
	}
	p.Done = r.stale == 0
	return nil
}

func (r *run) processRange(ctx context.Context, of *idRange) error {
	for from := of.first; from <= of.last; {
		begun := time.Now()
		var b batch
		err := r.rekeyer.pool.Retry(ctx, func(context.Context) (err error) {
			attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), postgres.AttemptTimeout)
			defer cancel()
			b, err = r.processBatch(attempt, of, from)
			return err
		})
		if err != nil {
			return err
		}
		from = of.last + 1
		if len(b.rows) > 0 {
			from = b.rows[len(b.rows)-1].id + 1
		}
		r.count(of.column, &b)
		if r.options.Progress != nil {
			r.options.Progress(Progress{r.report, r.fraction(of, from)})
		}
		wait.For(ctx, time.Until(begun.Add(r.minDuration(len(b.rows), b.resealed))))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// A batch is some rows and what was done with them.
type batch struct {
	rows       []sealedRow
	stale      int // rows that a later key decrypts
	resealed   int // of these
	unreadable []sealedRow
}

// processBatch reads the next rows of a range and encrypts them again.
func (r *run) processBatch(ctx context.Context, of *idRange, from int64) (b batch, err error) {
	if b.rows, err = r.rekeyer.readPage(ctx, of, from, r.batchSize); err != nil {
		return b, fmt.Errorf("reading: %w", err)
	}
	var replacements []replacement
	for _, row := range b.rows {
		plain, by := r.rekeyer.keyring.OpenWithKey(row.sealed)
		switch by {
		case keyring.NoKey:
			b.unreadable = append(b.unreadable, row)
		case keyring.LaterKey:
			b.stale++
			if r.options.DryRun {
				continue
			}
			sealed, err := r.rekeyer.keyring.Seal(plain)
			if err != nil {
				return b, err
			}
			replacements = append(replacements, replacement{row, sealed})
		}
	}
	if b.resealed, err = r.rekeyer.replace(ctx, of.column, replacements); err != nil {
		return b, fmt.Errorf("writing: %w", err)
	}
	return b, nil
}

// count adds a batch to the report.
func (r *run) count(c *column, b *batch) {
	count := &r.report.Tokens
	if c == notificationBodies {
		count = &r.report.Notifications
	}
	count.Read += int64(len(b.rows))
	count.Resealed += int64(b.resealed)
	count.Stale += int64(b.stale - b.resealed)
	count.Unreadable += int64(len(b.unreadable))
	r.stale += b.stale
	for _, row := range b.unreadable[:min(len(b.unreadable), maxUnreadableListed-len(r.report.Unreadable))] {
		u := UnreadableToken{UserID: row.userID, Service: schema.ServiceNames[row.service]}
		if c == notificationBodies {
			u.NotificationID = row.id
		}
		r.report.Unreadable = append(r.report.Unreadable, u)
	}
}

// minDuration returns how long a batch must take because of Options.Rate.
func (r *run) minDuration(read, written int) time.Duration {
	if r.options.Rate == 0 {
		return 0
	}
	return max(time.Duration(read)*time.Second/readsPerWrite, time.Duration(written)*time.Second) / time.Duration(r.options.Rate)
}

// fraction returns how much of the pass is done when the run is at an id of a range.
func (r *run) fraction(at *idRange, from int64) float64 {
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

package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/generations"
	"github.com/glotpod/ident/store/internal/leases"
	"github.com/glotpod/ident/store/internal/outbox"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/rekey"
	"github.com/glotpod/ident/store/internal/userrows"
)

const (
	// maxPrepared bounds the connections that PrepareConnections prepares: as many as read
	// and write at the same time under a usual load.
	maxPrepared = 4

	prepareTimeout = 5 * time.Second
)

// PrepareConnections opens connections and has the server plan the statements of a
// take-over, a hand-over, look-ups by id, and patches of name, email and picture. On a new
// connection their first execution costs the database a hundred times as much as later
// ones. That must not happen when requests of a partition already wait. Connections that
// are opened later prepare their statements as they need them.
//
// PrepareConnections changes nothing in the database. It logs a failure, which has no other
// consequence. It takes about 5 s at most.
func (s *Store) PrepareConnections(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	if err := s.prepareConnections(limited); err != nil && ctx.Err() == nil {
		s.log.Warn("database connections not prepared", zap.Error(err))
	}
}

func (s *Store) prepareConnections(ctx context.Context) error {
	if err := s.leases.PrepareReserved(ctx); err != nil {
		return fmt.Errorf("planning statements: %w", err)
	}
	for range min(maxPrepared, s.pool.Config().MaxConns) {
		conn, err := s.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release() // at the end, so that each is another connection
		for _, prepare := range []func(context.Context, *pgx.Conn) error{s.leases.Prepare, s.prepareReads, s.committer.Prepare} {
			if err := prepare(ctx, conn.Conn()); err != nil {
				postgres.Rollback(conn.Conn())
				return fmt.Errorf("planning statements: %w", err)
			}
		}
	}
	return nil
}

// prepareReads finds no user, no lease and no notification.
func (s *Store) prepareReads(ctx context.Context, conn *pgx.Conn) error {
	tables, err := s.days.Tables(ctx)
	if err != nil {
		return err
	}
	batch := new(pgx.Batch)
	batch.Queue(userrows.FindByID, []int64{})
	leases.QueueHoldsNone(batch, tables)
	outbox.QueueNoPage(batch, tables)
	return conn.SendBatch(ctx, batch).Close()
}

type (
	// RekeyOptions say how [Store.Rekey] works: whether it only reads (DryRun), how many
	// rows it processes at a time (Batch, at least 1) and per second (Rate; 0 means no
	// limit), and what it calls after each batch (Progress).
	RekeyOptions = rekey.Options

	// RekeyProgress says how far [Store.Rekey] is.
	RekeyProgress = rekey.Progress

	// A RekeyReport says what [Store.Rekey] did, and what it found in its last pass.
	RekeyReport = rekey.Report

	// A RekeyCount counts rows of a RekeyReport.
	RekeyCount = rekey.Count

	// An UnreadableToken is the place of an encrypted value that no key decrypts.
	UnreadableToken = rekey.UnreadableToken
)

// Rekey encrypts all access tokens, and the notifications in the outbox that contain any, with
// the first key of the keyring, if another key decrypts them. It leaves what no key decrypts. It
// may be interrupted and repeated at any time: what is encrypted with the first key is only
// read.
//
// The service and any other program may run at the same time. Rekey never overwrites what
// they write and locks no row for longer than it takes to write a batch. Rows that others
// have locked, or add meanwhile, are left to the next pass. Rekey ends with a pass that
// finds nothing to do, or after the fifth pass: then some program still encrypts with a later
// key. DryRun makes one pass.
//
// When ctx is done, Rekey finishes the current batch. The report is valid also with an
// error.
func (s *Store) Rekey(ctx context.Context, o RekeyOptions) (RekeyReport, error) {
	return newRekeyer(s).Run(ctx, o)
}

// CheckKeyring decrypts a sample of the access tokens: some hundred, however many there are.
// It logs an error if no key decrypts some of them, so that a lost key is noticed before
// callers need the token. It logs a message if a later key decrypts some of them: then Rekey
// is still to be done. CheckKeyring takes 10 s at most. Rekey with DryRun reads all tokens.
func (s *Store) CheckKeyring(ctx context.Context) { newRekeyer(s).Check(ctx) }

// A KeyringSample says what a sample of the access tokens shows.
type KeyringSample = rekey.Sample

// SampleKeyring decrypts the same sample as CheckKeyring, and returns what it shows.
func (s *Store) SampleKeyring(ctx context.Context) (KeyringSample, error) {
	return newRekeyer(s).Sample(ctx)
}

func newRekeyer(s *Store) *rekey.Rekeyer { return rekey.New(s.pool, s.keyring, s.log) }

// Generations returns the record of the generations of partitions and of repartitions.
func Generations(s *Store) *generations.Table { return generations.New(s.pool, s.log) }

// CommitStatus returns a function that says what a store does for a user of a partition.
func CommitStatus(s *Store) func(partition int, userID int64) actor.CommitStatus {
	return s.committer.Status
}

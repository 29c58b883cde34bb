package store

import (
	"context"

	"github.com/glotpod/ident/store/internal/rekey"
)

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

	// An UnreadableToken is the place of a sealed value that no key opens.
	UnreadableToken = rekey.UnreadableToken
)

// Rekey seals all access tokens, and the notifications in the outbox that contain any, with
// the first key of the keyring, if another key opens them. It leaves what no key opens. It
// may be interrupted and repeated at any time: what is sealed with the first key is only
// read.
//
// The service and any other program may run at the same time. Rekey never overwrites what
// they write and locks no row for longer than it takes to write a batch. Rows that others
// have locked, or add meanwhile, are left to the next pass. Rekey ends with a pass that
// finds nothing to do, or after the fifth pass: then some program still seals with a later
// key. DryRun makes one pass.
//
// When ctx is done, Rekey finishes the current batch. The report is valid also with an
// error.
func (s *Store) Rekey(ctx context.Context, o RekeyOptions) (RekeyReport, error) {
	return s.rekeyer().Run(ctx, o)
}

// CheckKeyring opens a sample of the access tokens: some hundred, however many there are.
// It logs an error if no key opens some of them, so that a lost key is noticed before
// callers need the token. It logs a message if a later key opens some of them: then Rekey
// is still to be done. CheckKeyring takes 10 s at most. Rekey with DryRun reads all tokens.
func (s *Store) CheckKeyring(ctx context.Context) { s.rekeyer().Check(ctx) }

func (s *Store) rekeyer() *rekey.Rekeyer { return rekey.New(s.pool, s.keyring, s.log) }

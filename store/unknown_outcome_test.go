package store_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

// TestUnknownOutcome: the outcome of an attempt is found out after its connection was lost.
func TestUnknownOutcome(t *testing.T) {
	t.Run("the database refuses the write", testUnknownOutcomeRefused)
	t.Run("the lease has ended", testUnknownOutcomeFenced)
	t.Run("each connection breaks", testUnknownOutcomeSwept)
}

// testUnknownOutcomeSwept: a write is done once, whichever reply of the database is lost.
func testUnknownOutcomeSwept(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	s, p := h.OpenThroughProxy()
	writes := int64(1)
	for reply := range 4 {
		for range 3 {
			p.LoseReply(reply)
			if err := h.RenameUser(s, h.Lease, id, fmt.Sprint(writes)); err != nil {
				t.Errorf("reply %d is lost: %v", reply, err)
			}
			writes++
		}
	}
	if n := h.Value("SELECT count(*) FROM ident_audit"); n != writes {
		t.Errorf("%v changes are on record, want %d", n, writes)
	}
}

// testUnknownOutcomeRefused: a write fails, but not before the lost attempt is certain to
// have ended.
func testUnknownOutcomeRefused(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	patience := 2 * time.Second
	if storetest.Long {
		patience = 20 * time.Second
	}
	store.SetPatience(&h.Options, patience)
	s, p := h.OpenThroughProxy()
	letGo := h.HoldUpdates()
	h.Exec("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$")
	h.Exec("CREATE TRIGGER refuse AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse()")
	failed := make(chan error, 1)
	go func() { failed <- h.RenameUser(s, h.Lease, id, "second") }()
	h.WaitUntil(storetest.OneWaitsForLock)
	lost := time.Now()
	p.Cut()
	letGo()
	select {
	case err := <-failed:
		if waited := time.Since(lost); err == nil || waited < patience {
			t.Errorf("%v after %v", err, waited)
		}
	case <-time.After(time.Minute):
		t.Error("attempted forever")
	}
}

// testUnknownOutcomeFenced: a write that was committed under its lease has its outcome, even
// after the lease has ended.
func testUnknownOutcomeFenced(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	s, p := h.OpenThroughProxy()
	if err := h.RenameUser(s, h.Lease, id, "first"); err != nil {
		t.Fatal(err)
	}
	// This delays the write before its commit, until its answer cannot come back.
	letGo := h.HoldUpdates()
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := h.RenameUser(s, h.Lease, id, "second"); err != nil {
			t.Error(err)
		}
	})
	h.WaitUntil(storetest.OneWaitsForLock)
	p.FallSilent()
	letGo()
	h.WaitUntil("SELECT name = 'second' FROM users WHERE id = $1", id)
	h.ClaimPartition(0, h.Lease.Epoch)
	p.Cut()
	writing.Wait()
	if n := h.Value("SELECT count(DISTINCT identity) FROM ident_requests"); n != int64(3) {
		t.Errorf("%v requests, want 3", n)
	}
	if n := h.Value("SELECT count(*) FROM ident_audit"); n != int64(3) {
		t.Errorf("%v changes are on record, want 3", n)
	}
}

package readlease

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

var lease = partition.Lease{Partition: 3, Epoch: 7}

// A bench is a Renewer of one lease, and the database that it asks.
type bench struct {
	*Renewer
	lease *partition.ReadLease
	asked atomic.Int64
	ended []partition.Lease // the reply
	takes time.Duration

	badUntil time.Time // until then, the reply takes badTakes and is an error
	badTakes time.Duration

	told []partition.Lease // leases that onEnded was called for
}

// bubble runs a test with a bench in a synctest bubble.
func bubble(t *testing.T, name string, test func(*testing.T, *bench)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := new(bench)
			b.Renewer = NewRenewer(
				func(ctx context.Context, _ []partition.Lease) ([]partition.Lease, error) {
					b.asked.Add(1)
					takes, err := b.takes, error(nil)
					if time.Now().Before(b.badUntil) {
						takes, err = b.badTakes, errors.New("down")
					}
					select {
					case <-time.After(takes):
						return b.ended, err
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				},
				func() map[partition.Lease]*partition.ReadLease {
					return map[partition.Lease]*partition.ReadLease{lease: b.lease}
				},
				func(l partition.Lease) { b.told = append(b.told, l) },
			)
			b.lease = partition.NewReadLease(b.Renew)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go b.Run(ctx)
			test(t, b)
		})
	})
}

// read reads for some time, each 10 ms. It returns how many reads found no read lease.
func (b *bench) read(d time.Duration) (none int) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if !b.lease.Stands() {
			none++
		}
		synctest.Wait()
	}
	return none
}

func TestRenewer(t *testing.T) {
	bubble(t, "only_the_first_read_finds_no_lease", func(t *testing.T, b *bench) {
		b.takes = 5 * time.Millisecond
		if none := b.read(10 * time.Second); none != 1 {
			t.Errorf("%d reads have found no read lease", none)
		}
		if most := int(10*time.Second/(partition.ReadFor/2)) + 1; int(b.asked.Load()) > most {
			t.Errorf("the database was asked %d times, and %d are enough", b.asked.Load(), most)
		}
	})

	bubble(t, "without_reads_nothing_is_asked", func(t *testing.T, b *bench) {
		b.read(time.Second)
		before := b.asked.Load()
		time.Sleep(time.Hour)
		if b.asked.Load() != before {
			t.Errorf("the database was asked %d times", b.asked.Load()-before)
		}
		if b.lease.Stands() {
			t.Error("memory may be read an hour after the last question")
		}
	})

	bubble(t, "counts_from_the_question", func(t *testing.T, b *bench) {
		b.takes = partition.ReadFor - time.Millisecond
		b.lease.Stands()
		time.Sleep(b.takes)
		synctest.Wait()
		if !b.lease.Stands() {
			t.Error("a reply in time does not count")
		}
		if time.Sleep(time.Millisecond); b.lease.Stands() {
			t.Error("memory may be read too long")
		}
	})

	bubble(t, "a_late_reply_does_not_count", func(t *testing.T, b *bench) {
		b.takes = partition.ReadFor
		if none := b.read(time.Second); none != 100 {
			t.Errorf("memory was read %d times", 100-none)
		}
	})

	bubble(t, "an_ended_lease_is_reported_and_not_extended", func(t *testing.T, b *bench) {
		b.ended = []partition.Lease{lease}
		if none := b.read(50 * time.Millisecond); none != 5 {
			t.Errorf("memory was read %d times", 5-none)
		}
		if len(b.told) != 1 || b.told[0] != lease {
			t.Errorf("reported were %v", b.told)
		}
	})

	for name, takes := range map[string]time.Duration{"failures_are_limited": 0, "a_silent_database_is_asked_again": time.Hour} {
		bubble(t, name, func(t *testing.T, b *bench) {
			b.badUntil, b.badTakes = time.Now().Add(10*time.Second), takes
			b.read(10 * time.Second)
			least, most := int64(10*time.Second/(askTimeout+askEvery)), int64(10*time.Second/askEvery)+1
			if asked := b.asked.Load(); asked < least || asked > most {
				t.Errorf("the database was asked %d times", asked)
			}
			time.Sleep(askTimeout + askEvery)
			if b.read(time.Second) > 1 {
				t.Error("memory is not read, though the database replies again")
			}
		})
	}
}

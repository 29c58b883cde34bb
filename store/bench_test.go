package store_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"

	"github.com/glotpod/ident/store"
)

// BenchmarkCommit renames users, so many at a time, and reports beside the time
// what a write adds to the write-ahead log, by which replicas and the disk are
// loaded. What others write to the same server meanwhile is counted as well.
func BenchmarkCommit(b *testing.B) {
	for _, concurrent := range []int{1, 128} {
		b.Run(fmt.Sprintf("concurrent=%d", concurrent), func(b *testing.B) {
			h := start(b, func(o *store.Options) { o.Log = zap.NewNop() })
			ids := make([]int64, concurrent)
			for i := range ids {
				ids[i] = h.create(i)
			}
			rename := func(n int) error {
				w := request(b, "patch", fmt.Sprint("m", n), args{"user_id": ids[n%concurrent], "ops": replace("/name", fmt.Sprint("name ", n))})
				_, err := h.Commit(b.Context(), h.lease, w)
				return err
			}
			h.exec("CHECKPOINT")
			before := h.one("SELECT pg_current_wal_insert_lsn()::text")
			var next atomic.Int64
			var committing sync.WaitGroup
			b.ResetTimer()
			for range concurrent {
				committing.Go(func() {
					for {
						n := int(next.Add(1)) - 1
						if n >= b.N {
							return
						}
						if err := rename(n); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			committing.Wait()
			b.StopTimer()
			written := h.one("SELECT (pg_current_wal_insert_lsn() - $1::text::pg_lsn)::float8", before).(float64)
			b.ReportMetric(written/float64(b.N), "WAL-B/op")
		})
	}
}

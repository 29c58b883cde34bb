package store_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store"
)

// BenchmarkCommit renames users, which are cached or have to be read. It also reports how
// many bytes a write adds to the write-ahead log, which load replicas and the disk. That
// includes what other programs write to the same server meanwhile.
func BenchmarkCommit(b *testing.B) {
	for _, c := range []struct {
		concurrent int
		cached     bool
	}{{1, false}, {1, true}, {128, false}, {128, true}} {
		b.Run(fmt.Sprintf("concurrent=%d/cached=%t", c.concurrent, c.cached), func(b *testing.B) {
			concurrent := c.concurrent
			h := start(b, func(o *store.Options) { o.Log = zap.NewNop() })
			users := make([]*actor.User, concurrent)
			for i := range users {
				users[i] = h.get(h.create(i))
			}
			rename := func(n, user int) error {
				w := request(b, "patch", fmt.Sprint("m", n), args{"user_id": users[user].ID, "ops": replace("/name", fmt.Sprint("name ", n))})
				if c.cached {
					w.Cached = users[user]
				}
				o, err := commit(b.Context(), h, h.lease, w)
				users[user] = o.After
				return err
			}
			h.exec("CHECKPOINT")
			before := h.one("SELECT pg_current_wal_insert_lsn()::text")
			var next atomic.Int64
			var committing sync.WaitGroup
			b.ResetTimer()
			for user := range concurrent {
				committing.Go(func() {
					for {
						n := int(next.Add(1)) - 1
						if n >= b.N {
							return
						}
						if err := rename(n, user); err != nil {
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

// BenchmarkFind looks users up by id.
func BenchmarkFind(b *testing.B) {
	for _, concurrent := range []int{1, 128} {
		b.Run(fmt.Sprint("concurrent=", concurrent), func(b *testing.B) {
			h := start(b, func(o *store.Options) { o.Log = zap.NewNop() })
			ids := make([]int64, concurrent)
			for i := range ids {
				ids[i] = h.create(i)
			}
			var next atomic.Int64
			var reading sync.WaitGroup
			b.ResetTimer()
			for _, id := range ids {
				reading.Go(func() {
					for next.Add(1) <= int64(b.N) {
						if u, err := h.Find(b.Context(), &actor.Lookup{UserID: &id}); u == nil || err != nil {
							b.Error(u, err)
							return
						}
					}
				})
			}
			reading.Wait()
		})
	}
}

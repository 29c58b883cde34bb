package store_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

// grownUsers is the number of users that are added when the statements are planned, without
// the planner learning that.
const grownUsers = 20_000

// blocksRead selects how many blocks of tables and indexes were read so far.
const blocksRead = "SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()"

// BenchmarkCommit renames users, which are cached or have to be read. It also reports how
// many bytes a write adds to the write-ahead log, which load replicas and the disk, and how
// many blocks it reads. That includes what other programs write to the same server meanwhile.
func BenchmarkCommit(b *testing.B) {
	for _, c := range []struct {
		concurrent int
		cached     bool
	}{{1, false}, {1, true}, {128, false}, {128, true}} {
		b.Run(fmt.Sprintf("concurrent=%d/cached=%t", c.concurrent, c.cached), func(b *testing.B) {
			concurrent := c.concurrent
			h := storetest.Start(b, func(o *store.Options) { o.Log = zap.NewNop() })
			users := make([]*actor.User, concurrent)
			for i := range users {
				users[i] = h.User(h.CreateUser(i))
			}
			rename := func(n, user int) error {
				w := storetest.Request(b, "patch", fmt.Sprint("m", n), storetest.Args{"user_id": users[user].ID, "ops": storetest.Replace("/name", fmt.Sprint("name ", n))})
				if c.cached {
					w.Cached = users[user]
				}
				o, err := storetest.Commit(b.Context(), h, h.Lease, w)
				users[user] = o.After
				return err
			}
			for user := range users {
				if err := rename(-1-user, user); err != nil {
					b.Fatal(err)
				}
			}
			grow(h, grownUsers)
			h.WaitUntil("SELECT n_tup_ins > $1 FROM pg_stat_user_tables WHERE relname = 'users'", grownUsers) // the work is counted
			h.Exec("CHECKPOINT")
			before := h.Value("SELECT pg_current_wal_insert_lsn()::text")
			blocks := h.Value(blocksRead).(int64)
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
			written := h.Value("SELECT (pg_current_wal_insert_lsn() - $1::text::pg_lsn)::float8", before).(float64)
			b.ReportMetric(written/float64(b.N), "WAL-B/op")
			h.Store.Close() // the server counts its work at the latest when it is closed
			b.ReportMetric(float64(h.Value(blocksRead).(int64)-blocks)/float64(b.N), "blocks/op")
		})
	}
}

// BenchmarkFind looks users up by id.
func BenchmarkFind(b *testing.B) {
	for _, concurrent := range []int{1, 128} {
		b.Run(fmt.Sprint("concurrent=", concurrent), func(b *testing.B) {
			h := storetest.Start(b, func(o *store.Options) { o.Log = zap.NewNop() })
			ids := make([]int64, concurrent)
			for i := range ids {
				ids[i] = h.CreateUser(i)
			}
			h.User(ids[0])
			grow(h, grownUsers)
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

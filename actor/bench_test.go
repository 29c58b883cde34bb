package actor

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster/partition"
)

// instantStore needs no time.
type instantStore struct{ Store }

func (instantStore) Commit(_ context.Context, _ partition.Lease, writes []*Write) ([]Outcome, error) {
	outcomes := make([]Outcome, len(writes))
	for i, w := range writes {
		outcomes[i] = Outcome{UserID: w.UserID, Applied: true, After: ada}
	}
	return outcomes, nil
}

func (instantStore) Find(context.Context, *Lookup) (*User, error) { return ada, nil }

var ada = &User{ID: 3, Name: "Ada Lovelace", Email: "ada@example.org", GitHub: &Account{ID: 7, AccessToken: "0123456789012345678901234567890123456789"}}

// benchmarkPartitions returns partitions with a cache that is large enough for all users.
func benchmarkPartitions(b *testing.B, n int, cached bool) ([]*Partition, *Cache) {
	var c *Cache
	if cached {
		c = testCache(b, CacheOptions{Users: 1 << 20, Bytes: 1 << 32, Idle: roomy.Idle})
	}
	list := make([]*Partition, n)
	for i := range list {
		list[i] = testPartition(b, instantStore{}, c, 1<<20)
	}
	return list, c
}

func BenchmarkGetCached(b *testing.B) {
	partitions, c := benchmarkPartitions(b, 64, true)
	const users = 64 * 1000
	for user := range int64(users) {
		c.put(partitions[user%64], &User{ID: user}, UserReply(ada), c.generation())
	}
	var completed, seed atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		n := 0
		done := func([]byte, error) { n++ }
		for user := seed.Add(7919); pb.Next(); user += 31 {
			partitions[user%64].Get(user%users, done)
		}
		completed.Add(int64(n))
	})
	if completed.Load() != int64(b.N) {
		b.Errorf("%d of %d were cached", completed.Load(), b.N)
	}
}

func BenchmarkGetNotCached(b *testing.B) {
	partitions, _ := benchmarkPartitions(b, 1, true)
	b.ReportAllocs()
	user := int64(0)
	done := make(chan struct{})
	for b.Loop() {
		user++
		partitions[0].Get(user, func([]byte, error) { done <- struct{}{} })
		<-done
	}
}

// BenchmarkWrite measures a write without the store: the mailbox, the actor and the update
// of the cache.
func BenchmarkWrite(b *testing.B) {
	for name, cached := range map[string]bool{"cache": true, "no cache": false} {
		b.Run(name, func(b *testing.B) {
			partitions, _ := benchmarkPartitions(b, 1, cached)
			var done sync.WaitGroup
			b.ReportAllocs()
			w := make([]Write, 1000)
			for i := range w {
				w[i].UserID = int64(i)
			}
			i := 0
			for b.Loop() {
				i++
				done.Add(1)
				partitions[0].Write(&w[i%1000], func(Outcome, error) { done.Done() })
			}
			done.Wait()
		})
	}
}

func BenchmarkCachedUser(b *testing.B) {
	partitions, c := benchmarkPartitions(b, 1, true)
	const users = 100_000
	size := len(UserReply(ada))
	var bytes int64
	for b.Loop() {
		c.SetTrusted(false)
		c.SetTrusted(true)
		before := heap()
		cacheMany(c, partitions[0], users, size)
		bytes = heap() - before
		runtime.KeepAlive(c)
	}
	b.ReportMetric(float64(bytes)/users, "B/user")
	b.ReportMetric(float64(size), "B/reply")
}

var benchLimits = msgpack.Limits{Bytes: 1 << 20, Depth: 32, Values: 100_000}

func benchBody(b *testing.B, args map[string]any) []byte {
	body, err := msgp.AppendMapStrIntf(nil, args)
	if err != nil {
		b.Fatal(err)
	}
	return body
}

var benchRename = map[string]any{"user_id": 7, "ops": []any{map[string]any{"op": "replace", "path": "/name", "value": "Ada Lovelace"}}}

// BenchmarkParse parses requests, including request id and digest.
func BenchmarkParse(b *testing.B) {
	for operation, args := range map[string]map[string]any{
		"get":    {"user_id": 7},
		"patch":  benchRename,
		"create": {"name": "Ada", "email": "ada@example.org", "github": map[string]any{"id": 1, "access_token": "0123456789abcdef0123456789abcdef"}},
	} {
		body := benchBody(b, args)
		b.Run(operation, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, refusal := Parse(operation, body, RequestIDOf("0123456789abcdef", "", ""), benchLimits); refusal != nil {
					b.Fatal(refusal)
				}
			}
		})
	}
}

// BenchmarkDecide applies a patch to a user and makes the notification.
func BenchmarkDecide(b *testing.B) {
	r, refusal := Parse("patch", benchBody(b, benchRename), RequestID{}, benchLimits)
	if refusal != nil {
		b.Fatal(refusal)
	}
	b.ReportAllocs()
	for b.Loop() {
		if d := r.Write.Decide(ada, false); d.Refusal != nil {
			b.Fatal(d.Refusal)
		}
	}
}

// BenchmarkNotification makes only the notification of a patch.
func BenchmarkNotification(b *testing.B) {
	next := *ada
	next.Name = "Ada Lovelace"
	b.ReportAllocs()
	for b.Loop() {
		patchNotification(ada, &next, false)
	}
}

func BenchmarkUserReply(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		UserReply(ada)
	}
}

// BenchmarkUserInReply decodes a cached user, as a write does.
func BenchmarkUserInReply(b *testing.B) {
	reply := UserReply(ada)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := userInReply(reply); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPatch(b *testing.B) {
	body := encode(b, m{"user_id": 3, "ops": []any{m{"op": "replace", "path": "/name", "value": "Grace"}}})
	stored := &User{ID: 3, Name: "Ada", Email: "a", GitHub: &Account{ID: 7, AccessToken: "t"}}
	b.ReportAllocs()
	for b.Loop() {
		r, _ := Parse("patch", body, RequestID{1}, testLimits)
		r.Write.Decide(stored, false)
		r.Write.Reply(Outcome{UserID: 3})
	}
}

package handover

import (
	"bufio"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/client"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/systemtest/harness"
)

const (
	memoryUsers = 1_000_000
	memoryIdle  = 5 * time.Minute

	// memoryLimit bounds the resident memory after a million users were idle.
	memoryLimit = 256 << 20

	// memoryPatience is how long the Go runtime may take to give back to the
	// system what is not used any more: it collects garbage every two minutes
	// where nothing is asked for.
	memoryPatience = 6 * time.Minute

	memorySteady = 10 * time.Minute
	memoryCalls  = 64 // in flight
)

// BenchmarkMemory measures what memory an instance has resident: with a million
// users kept in memory, after all of them are idle, and, with the default bounds,
// under a steady load for ten minutes.
func BenchmarkMemory(b *testing.B) {
	b.Run("million", func(b *testing.B) {
		for b.Loop() {
			harness.AsTest(b, func(t *testing.T) {
				s := newMemorySite(t, harness.Settings{
					"actor.idle":       memoryIdle.String(),
					"actor.warm_users": strconv.Itoa(memoryUsers),
					"actor.warm_bytes": strconv.Itoa(4 << 30),
				})
				tables := s.Count(t, "SELECT pg_total_relation_size('users') + pg_total_relation_size('services')")
				b.ReportMetric(float64(tables)/memoryUsers, "table-B/user")
				before := s.resident(t)
				var next atomic.Int64
				s.load(t, func() (string, int64, bool) {
					id := next.Add(1)
					return "get", id, id <= memoryUsers
				})
				warm := s.resident(t)
				begun := time.Now()
				left := s.resident(t)
				for left > memoryLimit && time.Since(begun) < memoryPatience {
					wait.For(t.Context(), time.Second) // between two samples
					left = s.resident(t)
				}
				t.Logf("a million users have %d MiB resident beside %d MiB, and leave %d MiB", (warm-before)>>20, before>>20, left>>20)
				b.ReportMetric(float64(warm-before)/memoryUsers, "warm-B/user")
				b.ReportMetric(float64(left>>20), "left-MiB")
				b.ReportMetric(time.Since(begun).Seconds(), "left-after-s")
				if left > memoryLimit {
					t.Errorf("%d MiB are resident after the users were idle", left>>20)
				}
			})
		}
	})
	b.Run("steady", func(b *testing.B) {
		for b.Loop() {
			harness.AsTest(b, func(t *testing.T) {
				s := newMemorySite(t, nil)
				begun := time.Now()
				var early, late int64 // the most in the third and the last fifth
				var n atomic.Int64
				var watching sync.WaitGroup
				watching.Go(func() {
					for lasted := time.Duration(0); lasted < memorySteady; lasted = time.Since(begun) {
						switch fifth := lasted / (memorySteady / 5); fifth {
						case 2:
							early = max(early, s.resident(t))
						case 4:
							late = max(late, s.resident(t))
						}
						wait.For(t.Context(), time.Second) // between two samples
					}
				})
				s.load(t, func() (string, int64, bool) {
					i := n.Add(1)
					operation := "get"
					if i%10 == 0 {
						operation = "patch"
					}
					return operation, i*7919%memoryUsers + 1, time.Since(begun) < memorySteady
				})
				watching.Wait()
				t.Logf("%d requests; at most %d MiB resident in the third fifth, and %d MiB in the last", n.Load(), early>>20, late>>20)
				b.ReportMetric(float64(early>>20), "early-MiB")
				b.ReportMetric(float64(late>>20), "late-MiB")
				if late > early+early/10 {
					t.Errorf("it grows: %d MiB, then %d MiB", early>>20, late>>20)
				}
			})
		}
	})
}

// A memorySite has a million users, and one instance.
type memorySite struct {
	*harness.Site
	instance *harness.Instance
}

func newMemorySite(t *testing.T, changed harness.Settings) *memorySite {
	s := &memorySite{Site: harness.NewSite(t)}
	s.Settings["log.level"] = "info"
	s.Settings["cluster.partitions"] = "64"
	s.instance = s.Serve(t, changed)
	// All users have the token of a user that was created, which the key decrypts.
	s.NewCaller(t).Call(t, "create", map[string]any{"name": "s3cret", "email": "memory@secret.example",
		"github": map[string]any{"id": 1, "access_token": "s3cret-0123456789abcdef0123456789abcdef"}}).Result(t)
	s.Exec(t, `INSERT INTO users (id, name, email_address, picture_url)
		SELECT n, 'Bench user ' || n, 'bench-' || n || '@bench.invalid', 'https://bench.invalid/picture.png'
		FROM generate_series(1, $1::int) AS n ON CONFLICT DO NOTHING`, memoryUsers)
	s.Exec(t, `INSERT INTO services (user_id, sv_name, sv_id, access_token)
		SELECT n, 'gh', 1000 + n, (SELECT access_token FROM services LIMIT 1) FROM generate_series(1, $1::int) AS n
		ON CONFLICT DO NOTHING`, memoryUsers)
	s.Exec(t, "SELECT setval(pg_get_serial_sequence('users', 'id'), $1)", memoryUsers)
	wait.For(t.Context(), memoryCalm) // nothing signals that users are cached again
	return s
}

// memoryCalm is how long after a foreign write no user is cached.
const memoryCalm = 32 * time.Second

// load has requests made until there are no more.
func (s *memorySite) load(t *testing.T, next func() (operation string, user int64, more bool)) {
	t.Helper()
	users, err := client.Dial(t.Context(), client.Options{
		Addresses: []string{net.JoinHostPort(s.Settings["amqp.host"], s.Settings["amqp.port"])},
		VHost:     s.Settings["amqp.vhost"], Login: s.Settings["amqp.login"], Password: s.Settings["amqp.password"],
	})
	if err != nil {
		t.Fatal(err)
	}
	defer users.Close()
	var calling sync.WaitGroup
	for range memoryCalls {
		calling.Go(func() {
			for {
				operation, user, more := next()
				if !more {
					return
				}
				var err error
				if operation == "patch" {
					err = users.Patch(t.Context(), user, client.Replace("/name", strconv.FormatInt(time.Now().UnixNano(), 36)))
				} else {
					_, err = users.Get(t.Context(), client.Query{UserID: user})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	calling.Wait()
}

// resident returns how many bytes of the instance are in memory.
func (s *memorySite) resident(t *testing.T) int64 {
	t.Helper()
	file, err := os.Open("/proc/" + strconv.Itoa(s.instance.Cmd.Process.Pid) + "/status")
	if err != nil {
		t.Error(err)
		return 0
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kilobytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Error(err)
			}
			return kilobytes << 10
		}
	}
	t.Error("the kernel does not tell what is resident")
	return 0
}

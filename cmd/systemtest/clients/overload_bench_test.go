package clients

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/client"
	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

// BenchmarkOverload measures how long the requests of a caller take while another caller sends far more
// than the service can carry out, and while one user gets far more requests than can be carried out for
// it. The service and both callers are processes. The measurements alternate with those without
// the load. The metrics are the 99th percentiles in milliseconds, and how many of the load's requests are
// carried out per second.
func BenchmarkOverload(b *testing.B) {
	database := testservers.OwnPostgres(b, localserver.PostgresOptions{Durable: true})
	for _, load := range []struct {
		name     string
		underWay int
		hot      bool
	}{{"flood/256", 256, false}, {"flood/1000", 1000, false}, {"hot_user/256", 256, true}} {
		for _, inFlight := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/%d", load.name, inFlight), func(b *testing.B) {
				var alone, beside []time.Duration
				var carriedOut, elapsed float64
				harness.AsTest(b, func(t *testing.T) {
					s := newOverloadSite(t, database)
					hot := s.users
					if load.hot {
						hot = hot[:1]
					}
					for range max(3, b.N) {
						alone = append(alone, s.ask(t, inFlight, 2*time.Second)...)
						begun, stop := time.Now(), s.flood(t, flood{URL: s.login(t, "flood").URL, UnderWay: load.underWay, Users: hot})
						s.ask(t, inFlight, 2*time.Second) // until the service has noticed it
						beside = append(beside, s.ask(t, inFlight, 4*time.Second)...)
						carriedOut, elapsed = carriedOut+stop(), elapsed+time.Since(begun).Seconds()
						s.ask(t, 1, time.Second) // until nothing waits
					}
				})
				p99 := func(all []time.Duration) float64 {
					slices.Sort(all)
					return all[len(all)*99/100].Seconds() * 1000
				}
				b.ReportMetric(p99(alone), "ms-alone")
				b.ReportMetric(p99(beside), "ms-beside")
				b.ReportMetric(carriedOut/elapsed, "load/s")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// An overloadSite has an instance, some users, and a caller.
type overloadSite struct {
	*harness.Site
	users  []int64
	broker *testservers.Broker
	caller *client.Client
}

func newOverloadSite(t *testing.T, database *localserver.Postgres) *overloadSite {
	s := &overloadSite{Site: harness.NewEmptySite(t), broker: testservers.RabbitMQ(t)}
	s.UsePostgres(t, database)
	s.AMQPURL = s.broker.URL()
	s.Settings = s.Settings.With(harness.Settings{"amqp.vhost": s.broker.VHost, "amqp.login": s.broker.User, "amqp.password": s.broker.Password,
		"cluster.partitions": "64", "cluster.queue_type": "classic", "log.level": "info"})
	s.Serve(t)
	var err error
	if s.caller, err = dial(t.Context(), s.login(t, "caller").URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.caller.Close)
	for n := range 300 {
		id, err := s.caller.Create(t.Context(), &client.User{Name: "Ada", Email: fmt.Sprint("ada", n), GitHub: &client.Account{ID: int64(n + 1), AccessToken: "secret.example"}})
		if err != nil {
			t.Fatal(err)
		}
		s.users = append(s.users, id)
	}
	return s
}

// login returns a login that may do everything. Callers with the same login take turns as one.
func (s *overloadSite) login(t *testing.T, kind string) testservers.Login {
	t.Helper()
	return s.broker.NewLogin(t, kind, ".*", ".*", ".*")
}

// ask has requests under way for a time, and returns how long each took.
func (s *overloadSite) ask(t *testing.T, underWay int, lasting time.Duration) (all []time.Duration) {
	var mu sync.Mutex
	var asking sync.WaitGroup
	for range underWay {
		asking.Go(func() {
			for end := time.Now().Add(lasting); time.Now().Before(end); {
				begun := time.Now()
				if err := rename(t.Context(), s.caller, s.users); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				all = append(all, time.Since(begun))
				mu.Unlock()
			}
		})
	}
	asking.Wait()
	return all
}

var renamed atomic.Int64

// rename gives the next one of some users a new name.
func rename(ctx context.Context, c *client.Client, users []int64) error {
	n := renamed.Add(1)
	return c.Patch(ctx, users[int(n)%len(users)], client.Op{Op: "replace", Path: "/name", Value: fmt.Sprint("Ada ", os.Getpid(), " ", n)})
}

// A flood is what a process of its own sends.
type flood struct {
	URL      string
	UnderWay int // requests
	Users    []int64
}

// floodVariable has a flood, as JSON, in the environment of a process that is to send it.
const floodVariable = "GLOTPOD_IDENT_TEST_FLOOD"

// flood starts a flood. stop ends it, and returns how many of its requests were carried out.
func (s *overloadSite) flood(t *testing.T, f flood) (stop func() float64) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	p := harness.LaunchProgram(t, self, append(os.Environ(), floodVariable+"="+string(spec)))
	return func() float64 {
		p.Terminate(t)
		status, stdout, stderr := p.AwaitOutput(t)
		carriedOut, err := strconv.ParseFloat(strings.TrimSpace(stdout), 64)
		if status != 0 || err != nil {
			t.Fatalf("status %d, %s%s", status, stdout, stderr)
		}
		return carriedOut
	}
}

// playFlood sends a flood, and exits.
func playFlood(spec string) {
	var f flood
	err := json.Unmarshal([]byte(spec), &f)
	if err == nil {
		err = f.send()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// send sends the flood until SIGTERM comes, and prints how many requests were carried out.
func (f *flood) send() (err error) {
	terminated, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var carriedOut atomic.Int64
	var c *client.Client
	for n := range f.UnderWay {
		if n%100 == 0 { // as many as a client has under way
			if c, err = dial(context.Background(), f.URL); err != nil {
				return err
			}
		}
		go func(c *client.Client) {
			for {
				if rename(context.Background(), c, f.Users) == nil {
					carriedOut.Add(1)
				}
			}
		}(c)
	}
	<-terminated.Done()
	fmt.Println(carriedOut.Load())
	return nil
}

package faults

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/cmd/systemtest/workload"
	"github.com/glotpod/ident/deploy/testservers"
)

// Faults strike instances, broker and database while many callers send requests about
// the same users. Each request gets a reply and is carried out once, reads return what
// was written, and each change is notified in order.
//
// GLOTPOD_IDENT_CHAOS_SEED repeats the faults of a run; when exactly they strike, and
// what is requested then, is chance. GLOTPOD_IDENT_CHAOS_DURATION is how long faults
// strike.
func TestChaos(t *testing.T) {
	t.Parallel()
	for _, seed := range chaosSeeds(t) {
		t.Run(fmt.Sprintf("seed_%d", seed), func(t *testing.T) { testChaos(t, seed, chaosDuration(t)) })
	}
}

func testChaos(t *testing.T, seed uint64, duration time.Duration) {
	random := rand.New(rand.NewPCG(seed, 0))
	queueType := []string{"quorum", "classic"}[random.IntN(2)]
	size := fleetMin + random.IntN(fleetMax-fleetMin+1)
	mailbox := []string{"1", "256"}[random.IntN(2)]
	t.Logf("seed %d: %d instances, %s queues, mailboxes for %s, faults for %v", seed, size, queueType, mailbox, duration)

	f := newFleet(t, random, queueType)
	f.site.Settings["actor.mailbox"] = mailbox
	c := &calamity{fleet: f}
	c.kinds = []kind{
		{5, c.kill}, {5, c.freeze}, {3, c.cutOff}, {6, c.cutFromBroker}, {6, c.cutFromDatabase},
		{3, c.roll}, {3, c.comeOrGo}, {1, c.killAll}, {1, c.restartBroker}, {3, c.restartDatabase},
		{2, c.repartition},
	}
	c.run(seed, size, duration)
}

// run starts members, lets faults strike them under load, and checks what they did.
func (c *calamity) run(seed uint64, size int, duration time.Duration) {
	t, f := c.t, c.fleet
	for range size {
		f.join().start()
	}
	f.awaitReady()
	f.declared = time.Now()
	l := workload.Start(t, f.site.AMQPURL, workload.ManyCallers, seed)
	harness.Eventually(t, "there are replies", l.Progress())
	c.drawn = make(map[string]int)
	stopWatching := c.silences.watch(l)
	if c.script == nil {
		c.happen(duration)
	} else {
		c.begun = time.Now()
		c.script()
	}
	stopWatching()
	f.site.DB = f.connect(f.primary())
	harness.Eventually(t, "no repartition is under way", func() bool { return f.latestRepartition().ended() })
	harness.Eventually(t, "there are replies after all faults", l.Progress())
	operations := l.Finish()

	harness.Eventually(t, "all changes are notified", func() bool { return f.site.Unnotified(t) == 0 })
	for _, m := range f.members {
		m.stop()
	}
	f.checkQueues()
	heard := f.heard()
	users, repeats, problems := workload.CheckNotifications(heard, operations)
	problems = append(problems, workload.CheckAnswered(operations)...)
	problems = append(problems, f.checkLog(len(heard)-repeats)...)
	problems = append(problems, workload.Differences(f.users(), users)...)
	begun := time.Now()
	problems = append(problems, workload.CheckHistories(operations)...)
	workload.Report(t, problems)
	t.Logf("%s; %d notifications and %d repeats; histories checked in %.1f s",
		workload.Summary(l, operations), len(heard)-repeats, repeats, time.Since(begun).Seconds())
	for _, name := range slices.Sorted(maps.Keys(c.drawn)) {
		t.Logf("%2d × %s: without a reply for %s", c.drawn[name], name, c.silences.summary(name))
	}
}

// spareQueues returns the queues that repartitions which were given up have left for the next one.
func (f *fleet) spareQueues() map[string]bool {
	f.t.Helper()
	spare := make(map[string]bool)
	rows, _ := f.site.DB.Query(f.t.Context(), "SELECT generate_series(to_first, to_first + to_partitions - 1) FROM ident_repartition WHERE phase = 'given up'")
	numbers, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		f.t.Fatal(err)
	}
	for _, n := range numbers {
		spare[partitionQueue(n)] = true
	}
	for _, name := range f.partitionQueues() {
		delete(spare, name)
	}
	return spare
}

// partitionQueues returns the names of the present partitions' queues.
func (f *fleet) partitionQueues() (names []string) {
	f.t.Helper()
	first, partitions := f.site.Count(f.t, "SELECT first FROM ident_cluster"), f.site.Count(f.t, "SELECT partitions FROM ident_cluster")
	for partition := first; partition < first+partitions; partition++ {
		names = append(names, partitionQueue(partition))
	}
	return names
}

// chaosSeeds returns the seeds of the runs: the given one, or random ones.
func chaosSeeds(t *testing.T) []uint64 {
	t.Helper()
	text := os.Getenv("GLOTPOD_IDENT_CHAOS_SEED")
	switch {
	case text == "" && harness.Long():
		return []uint64{uint64(rand.Uint32()), uint64(rand.Uint32()), uint64(rand.Uint32())}
	case text == "":
		return []uint64{uint64(rand.Uint32())}
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return []uint64{seed}
}

// shortChaos is how long faults strike in the short form of the tests.
const shortChaos = 8 * time.Second

func chaosDuration(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("GLOTPOD_IDENT_CHAOS_DURATION")
	switch {
	case text == "" && harness.Long():
		return 40 * time.Second
	case text == "":
		return shortChaos
	}
	duration, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return duration
}

// checkLog returns what is wrong with the log, after so many changes.
func (f *fleet) checkLog(changes int) (problems []string) {
	f.t.Helper()
	rows := f.site.Count(f.t, "SELECT count(position) FROM ident_log")
	requests := f.site.Count(f.t, "SELECT count(DISTINCT request) FROM ident_log WHERE position IS NOT NULL")
	positions := f.site.Count(f.t, "SELECT count(DISTINCT (partition, position)) FROM ident_log WHERE position IS NOT NULL")
	if rows != changes || requests != changes || positions != changes {
		problems = append(problems, fmt.Sprintf("of %d changes, the log has %d rows, by %d requests, at %d positions", changes, rows, requests, positions))
	}
	disordered := f.site.Count(f.t, `SELECT count(*) FROM (
			SELECT sequence, row_number() OVER (PARTITION BY user_id ORDER BY p.first, position) AS n
			FROM ident_log JOIN ident_partitions AS p USING (partition) WHERE position IS NOT NULL) AS l
		WHERE sequence <> n`)
	if disordered > 0 {
		problems = append(problems, fmt.Sprintf("%d changes do not follow those of the same user before them", disordered))
	}
	return problems
}

// users returns all users in the database, as notifications show them.
func (f *fleet) users() map[int64]workload.View {
	f.t.Helper()
	rows, err := f.site.DB.Query(f.t.Context(), `SELECT id, name, email_address, coalesce(picture_url, ''), gh.sv_id, coalesce(fb.sv_id, 0)
		FROM users
		LEFT JOIN services gh ON gh.user_id = id AND gh.sv_name = 'gh'
		LEFT JOIN services fb ON fb.user_id = id AND fb.sv_name = 'fb'`)
	if err != nil {
		f.t.Fatal(err)
	}
	defer rows.Close()
	all := make(map[int64]workload.View)
	for rows.Next() {
		var v workload.View
		if err := rows.Scan(&v.ID, &v.Name, &v.Email, &v.Picture, &v.Github, &v.Facebook); err != nil {
			f.t.Fatal(err)
		}
		all[v.ID] = v
	}
	if err := rows.Err(); err != nil {
		f.t.Fatal(err)
	}
	return all
}

// checkQueues fails unless exactly the queues exist that outlive instances, and no
// request is left in them.
func (f *fleet) checkQueues() {
	f.t.Helper()
	want := append([]string{chaosSubscriber, harness.RequestQueue}, f.partitionQueues()...)
	spare := f.spareQueues()
	var names []string
	harness.Eventually(f.t, "the queues of callers and instances are gone", func() bool {
		var queues []testservers.Queue
		path := "/api/queues/" + url.PathEscape(f.site.Settings["amqp.vhost"])
		if err := f.running().Management.Call(f.t.Context(), http.MethodGet, path, nil, &queues); err != nil {
			f.t.Fatal(err)
		}
		names = nil
		for _, q := range queues {
			names = append(names, q.Name)
		}
		slices.Sort(names)
		return slices.Equal(slices.DeleteFunc(slices.Clone(names), func(name string) bool { return spare[name] }), want)
	})
	channel := f.channel()
	for _, name := range names {
		q, err := channel.QueueDeclarePassive(name, true, false, false, false, nil)
		if err != nil {
			f.t.Fatal(err)
		}
		if name != chaosSubscriber && q.Messages > 0 {
			f.t.Errorf("%d requests are left in %s", q.Messages, name)
		}
	}
}

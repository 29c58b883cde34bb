package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/glotpod/ident/cluster/wait"
)

const (
	// turnLength is how long a side is measured before the next one, if the duration of
	// the run allows it.
	turnLength = 500 * time.Millisecond

	// minPairs is the minimum number of turns of each side.
	minPairs = 5

	// statisticsLag is how long sessions of PostgreSQL delay their statistics. A
	// session publishes them at the end of its next transaction after this time.
	statisticsLag = 1050 * time.Millisecond

	// askTimeout bounds the wait for the reports of the instances.
	askTimeout = 5 * time.Second
)

// A measuredSide is the service or a baseline while it is measured.
type measuredSide struct {
	name    string
	subject *subject // that is measured, or whose servers the baseline uses
	run     func(ctx context.Context, lasting time.Duration) (*loadResult, error)
	sum     loadResult // of all turns
	cpu     cpuTicks   // likewise
	turns   []point
	counted int // requests between the two readings of the lagging counters
}

// usesDatabase says whether the side works for its requests in the database.
func (s *measuredSide) usesDatabase() bool { return s.name == serviceSide || s.name == plainSide }

// turns returns how many turns each side gets, and how long a turn is.
func turns(duration time.Duration, sides int) (pairs int, slice time.Duration) {
	pairs = max(minPairs, int(duration/(time.Duration(sides)*turnLength)))
	return pairs, duration / time.Duration(pairs*sides)
}

// measure measures a case and its baselines in turn. It returns a cell for each subject.
func (b *bench) measure(ctx context.Context, c benchCase, inFlight int) (cells []cell, err error) {
	sides := b.sides(c, inFlight)
	pairs, length := turns(b.duration, len(sides))
	for _, s := range sides { // to fill caches and make plans
		if _, err := s.run(ctx, length); err != nil {
			return nil, err
		}
	}
	m := measurement{sides: sides, length: length, lag: min(statisticsLag, b.duration/5)}
	before, err := m.countLagging(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range sides {
		s.counted = 0
	}
	for pair := range pairs {
		b.progress.Show("%s: %s, %d in flight, pair %d of %d", b.part, c.name, inFlight, pair+1, pairs)
		for _, s := range sides {
			if err := m.turn(ctx, s); err != nil {
				return nil, err
			}
		}
	}
	after, err := m.countLagging(ctx)
	if err != nil {
		return nil, err
	}
	var results []sideResult
	for _, s := range sides {
		r := s.result()
		if s.subject.database != nil && s.usesDatabase() {
			r.Database = s.databaseWork(before[s.subject], after[s.subject])
		}
		if s.name == serviceSide {
			x, y := before[s.subject].relayed, after[s.subject].relayed
			r.Relayed = perUnit(y.requests-x.requests, int(y.messages-x.messages))
		}
		results = append(results, r)
	}
	return b.cells(c, inFlight, results), nil
}

// cells returns a cell for each subject. The results are those of the subjects, in order, and
// those of the baselines. The first subject is a baseline of the others.
func (b *bench) cells(c benchCase, inFlight int, results []sideResult) (cells []cell) {
	services, baselines := results[:len(b.subjects)], results[len(b.subjects):]
	for i, s := range b.subjects {
		cell := cell{Case: c.name, InFlight: inFlight, Instances: s.instances, Sides: []sideResult{services[i]}}
		if i > 0 {
			first := services[0]
			first.Name = instancesSide(b.subjects[0].instances)
			cell.Sides = append(cell.Sides, first)
		}
		cell.Sides = append(cell.Sides, baselines...)
		cell.compareSides()
		cell.judge(c.targets)
		cells = append(cells, cell)
	}
	return cells
}

// sides returns the service of each subject, and the baselines of a case.
func (b *bench) sides(c benchCase, inFlight int) (sides []*measuredSide) {
	add := func(name string, subject *subject, way route, onReply func(request, []byte) error) {
		w := work{way: way, persistent: c.writes, onReply: onReply, byClient: c.client && name == serviceSide, likeClient: name == rawSide,
			next: func() (request, bool) { return c.next(subject.users), true }}
		sides = append(sides, &measuredSide{name: name, subject: subject, run: func(ctx context.Context, lasting time.Duration) (*loadResult, error) {
			slice, err := subject.load.run(ctx, w, inFlight, lasting)
			if err != nil {
				return nil, fmt.Errorf("%s, %d in flight, %s: %w", c.name, inFlight, name, err)
			}
			if name == plainSide {
				subject.database.own += int64(slice.latencies.total)
			}
			return slice, nil
		}})
	}
	way := sharedRoute
	if c.direct {
		way = directRoute
	}
	for _, s := range b.subjects {
		add(serviceSide, s, way, s.users.onReply)
	}
	routes := map[string]route{
		echoSide:       echoRoute(b.name),
		rawSide:        sharedRoute,
		directEchoSide: directEchoRoute(b.name),
		spreadEchoSide: spreadEchoRoute(b.name),
		plainSide:      plainRoute(b.name),
	}
	for _, name := range c.baselines(b.subjects[0].database != nil) {
		add(name, b.subjects[0], routes[name], nil)
	}
	return sides
}

// A measurement is the measurement of one case.
type measurement struct {
	sides  []*measuredSide
	length time.Duration // of a turn
	lag    time.Duration // of the statistics of the database
}

// turn measures one turn of a side. What the processes and the database do in this time is
// the work of this side.
func (m *measurement) turn(ctx context.Context, s *measuredSide) error {
	counts, err := s.subject.count(ctx)
	if err != nil {
		return err
	}
	cpu := s.subject.cpu()
	slice, err := s.run(ctx, m.length)
	if err != nil {
		return err
	}
	cpu = s.subject.cpu().since(cpu)
	after, err := s.subject.count(ctx)
	if err != nil {
		return err
	}
	s.add(slice, cpu, after.since(counts))
	return nil
}

// add adds a turn.
func (s *measuredSide) add(slice *loadResult, cpu cpuTicks, counts counters) {
	s.cpu = s.cpu.plus(cpu)
	s.counted += slice.latencies.total
	s.sum.lasted += slice.lasted
	s.sum.inTime += slice.inTime
	s.sum.writes += slice.writes
	s.sum.latencies.merge(&slice.latencies)
	p := point{
		PerSecond: float64(slice.inTime) / slice.lasted.Seconds(),
		P50:       milliseconds(slice.latencies.quantile(0.5)),
	}
	if s.usesDatabase() {
		p.Work = turnWork{
			Requests: slice.latencies.total, Writes: slice.writes,
			ServerCPU: seconds(cpu.server(s.name)), BrokerCPU: seconds(cpu.broker), DatabaseCPU: seconds(cpu.database),
			WAL: counts.wal, Commits: counts.commits, Statements: counts.statements,
		}
	}
	s.turns = append(s.turns, p)
}

// A laggingReading holds the counters of a subject of which only the difference over a whole
// measurement is known.
type laggingReading struct {
	laggingCounters
	roundTrips int64
	tripsKnown bool
	relayed    relayCount
}

// countLagging reads the lagging counters of each subject. Before that, it waits until the
// sessions of the database have published most of their statistics.
func (m *measurement) countLagging(ctx context.Context) (readings map[*subject]laggingReading, err error) {
	if err := wait.For(ctx, m.lag); err != nil {
		return nil, err
	}
	for _, s := range m.sides {
		slice, err := s.run(ctx, m.length/10)
		if err != nil {
			return nil, err
		}
		s.counted += slice.latencies.total
	}
	readings = make(map[*subject]laggingReading)
	for _, s := range m.sides {
		if _, read := readings[s.subject]; read {
			continue
		}
		if readings[s.subject], err = s.subject.countLagging(ctx); err != nil {
			return nil, err
		}
	}
	return readings, nil
}

func (s *subject) countLagging(ctx context.Context) (r laggingReading, err error) {
	if r.relayed, err = s.relayed(ctx); err != nil || s.database == nil {
		return r, err
	}
	r.roundTrips, r.tripsKnown = s.roundTrips(ctx)
	r.laggingCounters, err = s.database.countLagging(ctx)
	return r, err
}

// databaseWork returns what the database does for the requests to a side, of which the
// lagging counters are known before and after.
func (s *measuredSide) databaseWork(before, after laggingReading) *databaseWork {
	var sum turnWork
	for _, p := range s.turns {
		sum = sum.plus(p.Work)
	}
	each := func(n int64) float64 { return max(0, perUnit(float64(n), s.counted)) }
	w := &databaseWork{
		CommitsPerSecond:    float64(sum.Commits) / s.sum.lasted.Seconds(),
		WritesPerCommit:     perUnit(float64(sum.Writes), int(sum.Commits)),
		StatementsPerCommit: statementsPerCommit.of(point{Work: sum}),
		Rows:                each(after.rows[s.name] - before.rows[s.name]),
		WAL:                 walBytes.of(point{Work: sum}),
	}
	if s.name != serviceSide {
		return w
	}
	transactions := each(after.transactions - before.transactions)
	w.Transactions = &transactions
	if before.tripsKnown && after.tripsKnown {
		trips := each(after.roundTrips - before.roundTrips)
		w.RoundTrips = &trips
	}
	return w
}

// result returns the result of a side.
func (s *measuredSide) result() sideResult {
	h := &s.sum.latencies
	r := sideResult{
		Name:      s.name,
		Requests:  h.total,
		PerSecond: float64(s.sum.inTime) / s.sum.lasted.Seconds(),
		P50:       milliseconds(h.quantile(0.5)),
		P99:       milliseconds(h.quantile(0.99)),
		P999:      milliseconds(h.quantile(0.999)),
		Slices:    s.turns,
	}
	if s.subject.family != nil && h.total > 0 {
		each := func(ticks int64) float64 { return seconds(ticks) / float64(h.total) * 1000 }
		r.CPU = &cpuCost{Server: each(s.cpu.server(s.name)), Broker: each(s.cpu.broker), Database: each(s.cpu.database)}
	}
	return r
}

// seconds returns a CPU time in seconds. The processes are read one after another: the CPU time
// of a process that ends at the same time may be missed in one reading and appear in the next.
func seconds(ticks int64) float64 { return float64(max(0, ticks)) / ticksPerSecond }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/glotpod/ident/cluster/membership"
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

// measure measures a case and its baselines in turn.
func (b *bench) measure(ctx context.Context, c benchCase, inFlight int) (*cell, error) {
	sides := b.sides(c, inFlight)
	pairs, length := turns(b.duration, len(sides))
	for _, s := range sides { // to fill caches and make plans
		if _, err := s.run(ctx, length); err != nil {
			return nil, err
		}
	}
	m := measurement{bench: b, sides: sides, length: length}
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
	cell := &cell{Case: c.name, InFlight: inFlight}
	for _, s := range sides {
		r := b.result(s)
		if b.database != nil && s.usesDatabase() {
			r.Database = s.databaseWork(before, after)
		}
		cell.Sides = append(cell.Sides, r)
	}
	cell.compareSides()
	cell.judge(c.targets)
	return cell, nil
}

// sides returns the service and the baselines of a case.
func (b *bench) sides(c benchCase, inFlight int) (sides []*measuredSide) {
	add := func(name string, way route, onReply func(request, []byte) error) {
		w := work{way: way, persistent: c.writes, onReply: onReply,
			next: func() (request, bool) { return c.next(b.users), true }}
		sides = append(sides, &measuredSide{name: name, run: func(ctx context.Context, lasting time.Duration) (*loadResult, error) {
			slice, err := b.load.run(ctx, w, inFlight, lasting)
			if err != nil {
				return nil, fmt.Errorf("%s, %d in flight, %s: %w", c.name, inFlight, name, err)
			}
			if name == plainSide {
				b.database.own += int64(slice.latencies.total)
			}
			return slice, nil
		}})
	}
	way := sharedRoute
	if c.direct {
		way = directRoute
	}
	add(serviceSide, way, b.users.onReply)
	routes := map[string]route{
		echoSide:       echoRoute(b.name),
		directEchoSide: directEchoRoute(b.name),
		spreadEchoSide: spreadEchoRoute(b.name),
		plainSide:      plainRoute(b.name),
	}
	for _, name := range c.baselines(b.database != nil) {
		add(name, routes[name], nil)
	}
	return sides
}

// count reads the exact counters of the database, if it is reachable.
func (b *bench) count(ctx context.Context) (counters, error) {
	if b.database == nil {
		return counters{}, nil
	}
	return b.database.count(ctx)
}

// roundTrips returns the number of round trips to the database of all instances so far.
// known is false if an instance does not reply.
func (b *bench) roundTrips(ctx context.Context) (sum int64, known bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	reports, err := membership.AskStatus(ctx, b.load.conns[0].conn)
	for _, r := range reports {
		sum += r.Counters.DatabaseRoundTrips
	}
	return sum, err == nil
}

// cpu reads the CPU time of the processes, if they are known.
func (b *bench) cpu() cpuTicks {
	if b.family == nil {
		return cpuTicks{}
	}
	sum, _ := b.family.cpu()
	return sum
}

// A measurement is the measurement of one case.
type measurement struct {
	bench  *bench
	sides  []*measuredSide
	length time.Duration // of a turn
}

// turn measures one turn of a side. What the processes and the database do in this time is
// the work of this side.
func (m *measurement) turn(ctx context.Context, s *measuredSide) error {
	counts, err := m.bench.count(ctx)
	if err != nil {
		return err
	}
	cpu := m.bench.cpu()
	slice, err := s.run(ctx, m.length)
	if err != nil {
		return err
	}
	cpu = m.bench.cpu().since(cpu)
	after, err := m.bench.count(ctx)
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
			Requests: slice.latencies.total, Writes: slice.writes, DatabaseCPU: float64(max(0, cpu.database)) / ticksPerSecond,
			WAL: counts.wal, Commits: counts.commits, Statements: counts.statements,
		}
	}
	s.turns = append(s.turns, p)
}

// A laggingReading holds the counters of which only the difference over a whole measurement
// is known.
type laggingReading struct {
	laggingCounters
	roundTrips int64
	tripsKnown bool
}

// countLagging reads the lagging counters, if the database is reachable. Before that, it
// waits until the sessions of the database have published most of their statistics.
func (m *measurement) countLagging(ctx context.Context) (r laggingReading, err error) {
	if m.bench.database == nil {
		return r, nil
	}
	lag := time.NewTimer(min(statisticsLag, m.bench.duration/5))
	defer lag.Stop()
	select {
	case <-lag.C:
	case <-ctx.Done():
		return r, ctx.Err()
	}
	for _, s := range m.sides {
		slice, err := s.run(ctx, m.length/10)
		if err != nil {
			return r, err
		}
		s.counted += slice.latencies.total
	}
	r.roundTrips, r.tripsKnown = m.bench.roundTrips(ctx)
	r.laggingCounters, err = m.bench.database.countLagging(ctx)
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
func (b *bench) result(s *measuredSide) sideResult {
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
	if b.family != nil && h.total > 0 {
		each := func(ticks int64) float64 {
			// The processes are read one after another: the CPU time of a process that
			// ends at the same time may be missed in one reading and appear in the
			// next.
			return max(0, float64(ticks)/ticksPerSecond/float64(h.total)*1000)
		}
		r.CPU = &cpuCost{Server: each(s.cpu.server(s.name)), Broker: each(s.cpu.broker), Database: each(s.cpu.database)}
	}
	return r
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

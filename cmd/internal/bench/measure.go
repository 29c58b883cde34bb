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
	name  string
	run   func(ctx context.Context, lasting time.Duration) (*loadResult, error)
	sum   loadResult // of all turns
	cpu   cpuTicks   // likewise
	turns []point
}

// turns returns how many turns each side gets, and how long a turn is.
func turns(duration time.Duration, sides int) (pairs int, slice time.Duration) {
	pairs = max(minPairs, int(duration/(time.Duration(sides)*turnLength)))
	return pairs, duration / time.Duration(pairs*sides)
}

// measure measures a case and its baselines in turn.
func (b *bench) measure(ctx context.Context, c benchCase, inFlight int) (_ *cell, err error) {
	sides, end, err := b.sides(ctx, c, inFlight)
	if err != nil {
		return nil, err
	}
	defer end()
	pairs, length := turns(b.duration, len(sides))
	for _, s := range sides { // to fill caches and make plans
		if _, err := s.run(ctx, length); err != nil {
			return nil, err
		}
	}
	m := measurement{bench: b, sides: sides, length: length}
	if _, err := m.settle(ctx); err != nil {
		return nil, err
	}
	before, err := b.count(ctx, true)
	if err != nil {
		return nil, err
	}
	trips, tripsKnown := b.roundTrips(ctx)
	for pair := range pairs {
		b.progress.Show("%s: %s, %d in flight, pair %d of %d", b.part, c.name, inFlight, pair+1, pairs)
		for _, s := range sides {
			if err := m.turn(ctx, s); err != nil {
				return nil, err
			}
		}
	}
	more, err := m.settle(ctx)
	if err != nil {
		return nil, err
	}
	tripsAfter, tripsKnownAfter := b.roundTrips(ctx)
	after, err := b.count(ctx, true)
	if err != nil {
		return nil, err
	}
	cell := &cell{Case: c.name, InFlight: inFlight}
	for _, s := range sides {
		cell.Sides = append(cell.Sides, b.result(s))
	}
	if b.database != nil {
		requests := sides[0].sum.latencies.total + more
		cell.Database = m.share(after.since(before), requests)
		if tripsKnown && tripsKnownAfter {
			each := max(0, float64(tripsAfter-trips)/float64(max(1, requests)))
			cell.Database.RoundTrips = &each
		}
	}
	cell.compareSides()
	cell.judge(c.targets)
	return cell, nil
}

// sides returns the service and the baselines of a case. The caller must call end.
func (b *bench) sides(ctx context.Context, c benchCase, inFlight int) (sides []*measuredSide, end func(), err error) {
	var ends []func()
	end = func() {
		for _, e := range ends {
			e()
		}
	}
	asks := func(name string, way route, onReply func(request, []byte) error) {
		w := work{way: way, persistent: c.writes, onReply: onReply,
			next: func() (request, bool) { return c.next(b.users), true }}
		sides = append(sides, &measuredSide{name: name, run: func(ctx context.Context, lasting time.Duration) (*loadResult, error) {
			slice, err := b.load.run(ctx, w, inFlight, lasting)
			if err != nil {
				return nil, fmt.Errorf("%s, %d in flight, %s: %w", c.name, inFlight, name, err)
			}
			return slice, nil
		}})
	}
	way := sharedRoute
	if c.direct {
		way = directRoute
	}
	asks(serviceSide, way, b.users.onReply)
	for _, name := range c.baselines(inFlight, b.database != nil) {
		switch name {
		case echoSide:
			asks(name, echoRoute(b.name), nil)
		case directEchoSide:
			asks(name, directEchoRoute(b.name), nil)
		case spreadEchoSide:
			asks(name, spreadEchoRoute(b.name), nil)
		default:
			clients, err := b.clients(ctx, name, inFlight)
			if err != nil {
				end()
				return nil, nil, err
			}
			ends = append(ends, clients.close)
			sides = append(sides, &measuredSide{name: name, run: clients.run})
		}
	}
	return sides, end, nil
}

func (b *bench) clients(ctx context.Context, name string, inFlight int) (*clientPool, error) {
	if name == commitSide {
		return b.database.clients(ctx, 1, b.database.updateRow)
	}
	return b.database.clients(ctx, inFlight, b.database.lockAndUpdate)
}

// count reads the counters of the database, if it is reachable.
func (b *bench) count(ctx context.Context, lagging bool) (counters, error) {
	if b.database == nil {
		return counters{}, nil
	}
	return b.database.count(ctx, lagging)
}

// roundTrips returns the number of round trips to the database of all instances so far.
// known is false if an instance does not reply.
func (b *bench) roundTrips(ctx context.Context) (sum int64, known bool) {
	if b.database == nil {
		return 0, false
	}
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
	exact  counters      // during the turns of the service
}

// turn measures one turn of a side.
func (m *measurement) turn(ctx context.Context, s *measuredSide) error {
	counts, err := m.bench.count(ctx, false)
	if err != nil {
		return err
	}
	cpu := m.bench.cpu()
	slice, err := s.run(ctx, m.length)
	if err != nil {
		return err
	}
	s.cpu = s.cpu.plus(m.bench.cpu().since(cpu))
	after, err := m.bench.count(ctx, false)
	if err != nil {
		return err
	}
	if s.name == serviceSide {
		m.exact = m.exact.plus(after.since(counts))
	}
	s.sum.lasted += slice.lasted
	s.sum.inTime += slice.inTime
	s.sum.latencies.merge(&slice.latencies)
	s.turns = append(s.turns, point{
		PerSecond: float64(slice.inTime) / slice.lasted.Seconds(),
		P50:       milliseconds(slice.latencies.quantile(0.5)),
	})
	return nil
}

// settle waits until the sessions of the database have published most of their
// statistics, and returns the number of requests to the service that this took.
func (m *measurement) settle(ctx context.Context) (requests int, err error) {
	if m.bench.database == nil {
		return 0, nil
	}
	lag := time.NewTimer(min(statisticsLag, m.bench.duration/5))
	defer lag.Stop()
	select {
	case <-lag.C:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for _, s := range m.sides {
		slice, err := s.run(ctx, m.length/10)
		if err != nil {
			return 0, err
		}
		if s.name == serviceSide {
			requests = slice.latencies.total
		}
	}
	return requests, nil
}

// share returns what the database does for each request. lagging is the difference between
// the counters at the end and at the start of the measurement; requests is the number of
// requests meanwhile.
func (m *measurement) share(lagging counters, requests int) *databaseShare {
	service := m.sides[0].sum
	each := float64(max(1, service.latencies.total))
	all := float64(max(1, requests))
	return &databaseShare{
		CommitsPerSecond: float64(m.exact.writes) / service.lasted.Seconds(),
		Commits:          float64(m.exact.writes) / each,
		Transactions:     max(0, float64(lagging.all)/all),
		Rows:             max(0, float64(lagging.rows)/all),
		WAL:              float64(m.exact.wal) / each,
	}
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
		server := s.cpu.service
		if s.name != serviceSide {
			server = s.cpu.echo
		}
		each := func(ticks int64) float64 {
			// The processes are read one after another: the CPU time of a process that
			// ends at the same time may be missed in one reading and appear in the
			// next.
			return max(0, float64(ticks)/ticksPerSecond/float64(h.total)*1000)
		}
		r.CPU = &cpuCost{Server: each(server), Broker: each(s.cpu.broker), Database: each(s.cpu.database)}
	}
	return r
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

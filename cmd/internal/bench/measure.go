package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/glotpod/ident/cluster/membership"
)

const (
	// turnLength is how long one side is measured before it is another
	// one's turn, where there is time for it.
	turnLength = 500 * time.Millisecond

	// minPairs is how often each side has its turn at least.
	minPairs = 5

	// statisticsLag is for how long PostgreSQL's sessions keep to themselves what
	// they have counted. Each tells it at the end of its next transaction.
	statisticsLag = 1050 * time.Millisecond

	// askTimeout bounds how long the instances may take to report.
	askTimeout = 5 * time.Second
)

// A measuredSide is a side while it is measured.
type measuredSide struct {
	name  string
	run   func(ctx context.Context, lasting time.Duration) (*loadResult, error)
	sum   loadResult // of all slices
	cpu   cpuTicks   // likewise
	slice []point
}

// turns returns how often each of some sides has its turn, and for how long.
func turns(duration time.Duration, sides int) (pairs int, slice time.Duration) {
	pairs = max(minPairs, int(duration/(time.Duration(sides)*turnLength)))
	return pairs, duration / time.Duration(pairs*sides)
}

// measure measures a case and what it is to be compared with, in turn.
func (b *bench) measure(ctx context.Context, c benchCase, inFlight int) (_ *cell, err error) {
	sides, end, err := b.sides(ctx, c, inFlight)
	if err != nil {
		return nil, err
	}
	defer end()
	pairs, length := turns(b.duration, len(sides))
	for _, s := range sides { // so that all is warm
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

// sides returns what is measured in turn, the service first, and what is to be
// done afterwards.
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
	for _, name := range c.beside(inFlight, b.database != nil) {
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

// count reads the database's counters, if there is one within reach.
func (b *bench) count(ctx context.Context, lagging bool) (counters, error) {
	if b.database == nil {
		return counters{}, nil
	}
	return b.database.count(ctx, lagging)
}

// roundTrips asks the instances how often they have asked the database so far. It
// is false where one of them does not answer.
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

// cpu reads what the processes have used so far, if they are known.
func (b *bench) cpu() cpuTicks {
	if b.family == nil {
		return cpuTicks{}
	}
	sum, _ := b.family.cpu()
	return sum
}

// A measurement is under way.
type measurement struct {
	*bench
	sides  []*measuredSide
	length time.Duration // of a slice
	exact  counters      // while it was the service's turn
}

// turn measures one side once.
func (m *measurement) turn(ctx context.Context, s *measuredSide) error {
	counts, err := m.count(ctx, false)
	if err != nil {
		return err
	}
	cpu := m.cpu()
	slice, err := s.run(ctx, m.length)
	if err != nil {
		return err
	}
	s.cpu = s.cpu.plus(m.cpu().since(cpu))
	after, err := m.count(ctx, false)
	if err != nil {
		return err
	}
	if s.name == serviceSide {
		m.exact = m.exact.plus(after.since(counts))
	}
	s.sum.lasted += slice.lasted
	s.sum.inTime += slice.inTime
	s.sum.latencies.merge(&slice.latencies)
	s.slice = append(s.slice, point{
		PerSecond: float64(slice.inTime) / slice.lasted.Seconds(),
		P50:       milliseconds(slice.latencies.quantile(0.5)),
	})
	return nil
}

// settle has the database's sessions tell what they have counted so far, but
// for little, and returns how many more requests that took of the service.
func (m *measurement) settle(ctx context.Context) (requests int, err error) {
	if m.database == nil {
		return 0, nil
	}
	lag := time.NewTimer(min(statisticsLag, m.duration/5))
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

// share returns the database's share in the service's requests. lagging is from
// the beginning to the end, in which there were so many requests.
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

// result returns what a side came to.
func (b *bench) result(s *measuredSide) sideResult {
	h := &s.sum.latencies
	r := sideResult{
		Name:      s.name,
		Requests:  h.total,
		PerSecond: float64(s.sum.inTime) / s.sum.lasted.Seconds(),
		P50:       milliseconds(h.quantile(0.5)),
		P99:       milliseconds(h.quantile(0.99)),
		P999:      milliseconds(h.quantile(0.999)),
		Slices:    s.slice,
	}
	if b.family != nil && h.total > 0 {
		server := s.cpu.service
		if s.name != serviceSide {
			server = s.cpu.echo
		}
		each := func(ticks int64) float64 {
			// Processes are read one after the other: the time of one that ends
			// meanwhile may be missed once, and is found again.
			return max(0, float64(ticks)/ticksPerSecond/float64(h.total)*1000)
		}
		r.CPU = &cpuCost{Server: each(server), Broker: each(s.cpu.broker), Database: each(s.cpu.database)}
	}
	return r
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

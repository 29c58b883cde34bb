package commit

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/batch"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/commitstate"
	"github.com/glotpod/ident/store/internal/history"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/outbox"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/userrows"
)

const (
	// maxGroup bounds how many writes are in one transaction. The writes to its last
	// user may exceed it. A larger group would gain little, and would hold the locks
	// of its users for longer.
	maxGroup = 128

	// maxGroupBytes bounds the size of the requests of a group in bytes, in the same
	// way. It also bounds what is written for them, which may be much more. A
	// transaction has to take only a fraction of postgres.AttemptTimeout.
	maxGroupBytes = 256 << 10

	// The pauses between attempts while the database is unreachable.
	firstAttemptPause   = 20 * time.Millisecond
	longestAttemptPause = time.Second
)

var (
	errBusy    = errors.New("other transactions were in the way for too long")
	errNoLease = errors.New("a write to a user has no lease")
)

// A Config has what a Committer needs.
type Config struct {
	Pool    *postgres.Pool
	Log     *zap.Logger
	Metrics Metrics
	Days    *changelog.Days
	Outbox  *outbox.Outbox
	UserIDs *UserIDs
	Seen    *history.Seen

	Keyring               *keyring.Keyring
	TokensInNotifications bool
	LogUnreadable         func(userID int64, err error) // logs that no key decrypts an access token
	MaxAlone              int                           // how many pending writes are committed alone at a time
	Patience              time.Duration                 // see commitstate.Progress

	Running *sync.WaitGroup // of goroutines that complete pending writes
	Closing context.Context // done when nothing new is to begin
	Working context.Context // done when attempts are to be cancelled
	Stopped <-chan struct{} // closed when the goroutines of Running and of Work have returned
}

// Metrics are the measurements of a Committer.
type Metrics struct {
	Transactions *prometheus.HistogramVec // seconds, by path
	Writes       prometheus.Histogram     // per transaction
	Misses       prometheus.Counter       // transactions in which a precondition did not hold
	Failures     *prometheus.CounterVec   // transactions, by postgres.Class
	Failed       prometheus.Counter       // writes
	Panics       prometheus.Counter       // of writes
}

// The values of the label path: how a group of writes was committed.
const (
	pathKnown = "known" // in one round trip, because all its users were cached
	pathRead  = "read"  // in two or three round trips, because users had to be read
)

// A Committer commits writes in groups. It is safe for concurrent use.
type Committer struct {
	pool      *postgres.Pool
	log       *zap.Logger
	metrics   Metrics
	planner   planner
	decider   decider
	reserved  *reservedIDs
	patience  time.Duration
	days      *changelog.Days
	outbox    *outbox.Outbox
	seen      *history.Seen
	turns     turns
	register  register
	abandoned abandoned

	queue     *batch.Batcher[*pending]
	soloSlots chan struct{} // has a value for each pending write that is committed alone
	running   *sync.WaitGroup
	closing   context.Context
	working   context.Context
}

// New returns a committer. It commits nothing until a goroutine runs Work.
func New(config Config) *Committer {
	c := &Committer{
		pool:      config.Pool,
		log:       config.Log,
		metrics:   config.Metrics,
		planner:   planner{keyring: config.Keyring},
		reserved:  &config.UserIDs.reserved,
		days:      config.Days,
		outbox:    config.Outbox,
		seen:      config.Seen,
		turns:     turns{partitions: make(map[int]*turn)},
		register:  register{users: make(map[userKey]registered)},
		abandoned: abandoned{writes: make(map[partition.Lease]int)},
		patience:  config.Patience,
		decider: decider{
			keyring:               config.Keyring,
			tokensInNotifications: config.TokensInNotifications,
			log:                   config.Log,
			panics:                config.Metrics.Panics,
			logUnreadable:         config.LogUnreadable,
		},
		soloSlots: make(chan struct{}, config.MaxAlone),
		running:   config.Running,
		closing:   config.Closing,
		working:   config.Working,
	}
	c.queue = batch.New(batch.Config[*pending]{
		MaxItems:   maxGroup,
		Weight:     (*pending).weight,
		MaxWeight:  maxGroupBytes,
		Process:    c.commitGroup,
		AtOnce:     (*pending).atOnce,
		Discard:    func(p *pending) { p.complete(nil, batch.ErrClosed) },
		OneAtATime: true,
		MustFinish: true,
		Closing:    config.Closing.Done(),
		Stopped:    config.Stopped,
	})
	return c
}

// SetNotificationCheck sets the function that reports whether a notification of so many
// bytes can be sent. A write whose notification cannot is refused. Without the function
// (nil) there is no limit. The function may block, but shortly: it is called while
// a transaction is open.
func (c *Committer) SetNotificationCheck(fits func(bytes int) bool) {
	if fits == nil {
		c.decider.notificationFits.Store(nil)
		return
	}
	c.decider.notificationFits.Store(&fits)
}

// Work commits groups until Config.Closing is done. Several goroutines may call it.
func (c *Committer) Work() { c.queue.Work() }

// Commit commits the first of the writes to a user, as many as share a transaction, and
// returns their outcomes. When an attempt has begun, Commit waits for its end even if ctx is
// done. A write that is refused whatever is stored belongs to no user and needs no lease.
func (c *Committer) Commit(ctx context.Context, lease partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
	writes = fitTransaction(writes)
	if w := writes[0]; w.Refusal() != nil {
		if writes = writes[:1]; !hasRequestID(w) {
			return []actor.Outcome{{Refusal: w.Refusal()}}, nil
		}
	} else if lease.Epoch == 0 {
		c.logFailure(w, errNoLease)
		return nil, errNoLease
	}
	p := newPending(ctx, lease, writes, c.patience)
	c.register.add(p)
	defer c.register.remove(p)
	r, err := batch.Submit(ctx, c.queue, p, p.result)
	if err != nil {
		return nil, err
	}
	return r.outcomes, r.err
}

// Status returns what is done for a user, and for its partition.
func (c *Committer) Status(partition int, userID int64) actor.CommitStatus {
	s := c.turns.status(partition)
	s.Stage, s.Since = c.register.status(partition, userID)
	return s
}

// fitTransaction returns the first writes that are not too large to be committed together.
func fitTransaction(writes []*actor.Write) []*actor.Write {
	size := 0
	for i, w := range writes {
		if size += w.Size; i > 0 && size > maxGroupBytes {
			return writes[:i]
		}
	}
	return writes
}

// Prepare has the server plan the statements of commits on a connection. It patches a user
// that cannot exist in a partition that cannot exist: first with reading the user, then as
// if the user were cached.
func (c *Committer) Prepare(ctx context.Context, conn *pgx.Conn) error {
	lease := partition.Lease{Partition: -1, Epoch: -1}
	write := &actor.Write{Operation: "patch", RequestID: actor.RequestID(uuid.New())}
	tables, err := c.days.Tables(ctx)
	if err != nil {
		return err
	}
	p := newPending(ctx, lease, []*actor.Write{write}, c.patience)
	p.turn = &turn{lease: lease, nextUnknown: true}
	a := c.newAttempt([]*pending{p}, commitstate.LeftOut, tables)
	if err := a.lock(ctx, conn); err != nil {
		return err
	}
	queue := func(batch *pgx.Batch, condition string) {
		userrows.QueueUpdateNone(batch, condition)
		changelog.QueueNone(batch, tables, condition)
	}
	batch := new(pgx.Batch)
	queue(batch, "true")
	batch.Queue("commit")
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}

	required := preconditions{leases: []partition.Lease{lease}, requests: uuids{uuidOf(write.RequestID)}, users: []int64{write.UserID}}
	for i := range required.versions {
		required.versions[i] = []uint32{0}
	}
	batch = new(pgx.Batch)
	a.queueLocks(batch)
	required.queue(batch, tables, new(bool))
	queue(batch, preconditionsHold)
	return conn.SendBatch(ctx, batch).Close()
}

package clusterview

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cmd/internal/connect"
	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// watchEvery is how often the cluster is asked at most, whoever wants to know.
	watchEvery = time.Second

	// watchInstances bounds how long the instances are waited for, and watchBroker
	// how long the broker, which is asked about each queue in turn. All of it ends
	// before who asks over HTTP would be left without an answer.
	watchInstances = 2 * time.Second
	watchBroker    = 6 * time.Second
	watchTimeout   = 9 * time.Second

	// watchIdle is how long the connection stays open that nobody asks by.
	watchIdle = 10 * time.Second

	// watchKeeps is how many of the latest changes are told.
	watchKeeps = 50
)

var errWatcherClosed = errors.New("the instance is ending")

// A Watcher looks at the whole cluster for those who want to see it, as many as
// they are: over a connection of its own, which is there while somebody wants to,
// so that whatever becomes of it costs no request anything.
type Watcher struct {
	self   string
	broker broker.Options
	ctx    context.Context // done when the watcher is closed
	cancel context.CancelFunc

	mu      sync.Mutex // guards the following fields, and is held while it looks
	conn    *amqp.Connection
	idle    *time.Timer // closes the connection
	latest  *view       // the last that there was
	encoded []byte      // the same, in JSON
	err     error       // why the last look has found none
	looked  time.Time
	changes []change
}

// NewWatcher returns a watcher that looks from the instance self.
func NewWatcher(self string, o broker.Options) *Watcher {
	w := &Watcher{self: self, broker: o}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// View returns how the cluster is, or was at most watchEvery ago: a view, in
// JSON, which is not to be changed.
func (w *Watcher) View(ctx context.Context) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := ctx.Err(); err != nil { // gone while waiting
		return nil, err
	}
	if time.Since(w.looked) >= watchEvery {
		w.lookAnewLocked()
	}
	if w.err != nil {
		return nil, w.err
	}
	return w.encoded, nil
}

func (w *Watcher) lookAnewLocked() {
	v, err := w.lookLocked()
	w.looked, w.err = time.Now(), err
	if err != nil {
		w.disconnectLocked()
		return
	}
	w.idle.Reset(watchIdle)
	w.changes = append(w.changes, v.since(w.latest)...)
	w.changes = w.changes[max(0, len(w.changes)-watchKeeps):]
	v.Changes = append([]change{}, w.changes...)
	w.latest = v
	w.encoded, w.err = json.Marshal(v)
}

func (w *Watcher) lookLocked() (*view, error) {
	if w.ctx.Err() != nil {
		return nil, errWatcherClosed
	}
	ctx, cancel := context.WithTimeout(w.ctx, watchTimeout)
	defer cancel()
	if w.conn == nil || w.conn.IsClosed() {
		conn, err := connect.DialWith(ctx, w.broker)
		if err != nil {
			return nil, err
		}
		w.conn = conn
		w.idle = time.AfterFunc(watchIdle, w.disconnect)
	}
	o, err := Survey(ctx, w.conn, watchInstances, watchBroker)
	if err != nil {
		return nil, err
	}
	return newView(w.self, o, time.Now()), nil
}

// Done is closed when the watcher is closed.
func (w *Watcher) Done() <-chan struct{} { return w.ctx.Done() }

func (w *Watcher) disconnect() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil || time.Since(w.looked) >= watchIdle {
		w.disconnectLocked()
	}
}

func (w *Watcher) disconnectLocked() {
	if w.conn != nil {
		w.idle.Stop()
		connect.Close(w.conn)
		w.conn = nil
	}
}

// Close ends what the watcher does. Who asks it now is told an error.
func (w *Watcher) Close() {
	w.cancel()
	w.disconnect()
}

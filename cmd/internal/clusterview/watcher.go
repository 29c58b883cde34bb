package clusterview

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cmd/internal/connect"
)

const (
	// surveyInterval is the minimum time between two surveys, however many requests
	// for the view there are.
	surveyInterval = time.Second

	// The timeouts of a survey. The broker is asked for each queue in turn. A survey
	// ends before the write timeout of the HTTP server (10 s).
	instanceTimeout = 2 * time.Second
	brokerTimeout   = 6 * time.Second
	surveyTimeout   = 9 * time.Second

	// idleTimeout is how long the connection stays open without a survey.
	idleTimeout = 10 * time.Second

	// maxQuestions bounds the questions what users wait for within questionInterval. Each has a
	// connection to the broker. questionWait bounds the wait of others.
	maxQuestions     = 4
	questionInterval = 500 * time.Millisecond
	questionWait     = time.Second

	// maxChanges is how many of the latest changes a view has.
	maxChanges = 50
)

var errWatcherClosed = errors.New("the instance is stopping")

// A Watcher surveys the cluster for the status page, when a client asks for a view. It
// has a connection of its own to the broker, so that a problem with a survey affects no
// request. The connection is open only while clients ask for views.
type Watcher struct {
	observer string
	broker   broker.Options

	questions chan struct{}   // has one element for each call of User, and for questionInterval after it
	ctx       context.Context // done when the watcher is closed
	cancel    context.CancelFunc

	mu       sync.Mutex // guards the following fields; held during a survey
	conn     *amqp.Connection
	idle     *time.Timer // closes the connection
	latest   *view       // of the last survey that succeeded
	encoded  []byte      // latest in JSON
	err      error       // of the last survey
	surveyed time.Time   // when the last survey ended
	changes  []change
}

// NewWatcher returns a watcher for the instance observer.
func NewWatcher(observer string, o broker.Options) *Watcher {
	w := &Watcher{observer: observer, broker: o, questions: make(chan struct{}, maxQuestions)}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// View returns a view of the cluster in JSON, at most surveyInterval old. The caller must
// not modify it.
func (w *Watcher) View(ctx context.Context) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := ctx.Err(); err != nil { // the client left during the survey of another one
		return nil, err
	}
	if time.Since(w.surveyed) >= surveyInterval {
		w.refreshLocked()
	}
	if w.err != nil {
		return nil, w.err
	}
	return w.encoded, nil
}

func (w *Watcher) refreshLocked() {
	v, err := w.surveyLocked()
	w.surveyed, w.err = time.Now(), err
	if err != nil {
		w.disconnectLocked()
		return
	}
	w.idle.Reset(idleTimeout)
	w.changes = append(w.changes, v.changesSince(w.latest)...)
	w.changes = w.changes[max(0, len(w.changes)-maxChanges):]
	v.Changes = append([]change{}, w.changes...)
	w.latest = v
	w.encoded, w.err = json.Marshal(v)
}

func (w *Watcher) surveyLocked() (*view, error) {
	if w.ctx.Err() != nil {
		return nil, errWatcherClosed
	}
	ctx, cancel := context.WithTimeout(w.ctx, surveyTimeout)
	defer cancel()
	if err := w.connectLocked(ctx); err != nil {
		return nil, err
	}
	o, err := Survey(ctx, w.conn, instanceTimeout, brokerTimeout)
	if err != nil {
		return nil, err
	}
	return newView(w.observer, o, time.Now()), nil
}

// connectLocked makes sure that there is a connection.
func (w *Watcher) connectLocked(ctx context.Context) error {
	if w.conn != nil && !w.conn.IsClosed() {
		return nil
	}
	conn, err := connect.DialWith(ctx, w.broker)
	if err != nil {
		return err
	}
	w.conn = conn
	w.idle = time.AfterFunc(idleTimeout, w.disconnect)
	return nil
}

// ErrBusy means that there are too many questions what users wait for.
var ErrBusy = errors.New("too many ask what users wait for; try again")

// User returns in JSON what a user waits for, as a [UserView]. It does not use the connection
// of the surveys, so that a slow reply or a client that leaves does not disturb them.
func (w *Watcher) User(ctx context.Context, userID int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	defer context.AfterFunc(w.ctx, cancel)()
	select {
	case w.questions <- struct{}{}:
		defer time.AfterFunc(questionInterval, func() { <-w.questions })
	case <-time.After(questionWait):
		return nil, ErrBusy
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	conn, err := connect.DialWith(ctx, w.broker)
	if err != nil {
		return nil, err
	}
	defer connect.Close(conn)
	v, err := SurveyUser(ctx, conn, userID, instanceTimeout)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// disconnect closes the connection if it is idle or the watcher is closed.
func (w *Watcher) disconnect() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil || time.Since(w.surveyed) >= idleTimeout {
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

// Done is closed when the watcher is closed.
func (w *Watcher) Done() <-chan struct{} { return w.ctx.Done() }

// Close cancels the survey that runs, and closes the connection. Later calls of View
// return an error.
func (w *Watcher) Close() {
	w.cancel()
	w.disconnect()
}

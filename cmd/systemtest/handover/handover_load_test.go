package handover

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// A steadyLoad sends requests by the direct way, to each partition one in each
// interval, three gets and then a patch, and does not wait for replies.
// A quarter of the partitions is at its patch at a time.
// The latency of a request counts from when it was due, so that a pause of the service
// shows in each partition at its full length.
type steadyLoad struct {
	users    [][]int64 // by partition
	interval time.Duration
	begun    time.Time

	conn      *amqp.Connection
	channel   *amqp.Channel
	ending    chan struct{} // closed by stop
	stop      func()        // sends no more
	sending   sync.WaitGroup
	receiving sync.WaitGroup

	mu    sync.Mutex // guards the following fields
	shots []shot
	open  int           // shots that are not answered
	late  time.Duration // by how much a request was sent after it was due, at most
	err   error         // why no more is sent
}

// answersWithin is how long a request may take: one without a reply by
// then never will be.
const answersWithin = 30 * time.Second

// startLoad starts a load on users by partition. The load ends with the test,
// if not before.
func startLoad(t *testing.T, s *harness.Site, users [][]int64, interval time.Duration) *steadyLoad {
	t.Helper()
	conn, err := amqp.Dial(s.AMQPURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseDeadline(time.Now().Add(harness.Timeout)) })
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	// Both end when the channel does.
	returned := channel.NotifyReturn(make(chan amqp.Return, 100))
	answers, err := channel.Consume(harness.DirectReplyTo, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	ending := make(chan struct{})
	l := &steadyLoad{
		users:    users,
		interval: interval,
		begun:    time.Now(),
		conn:     conn,
		channel:  channel,
		ending:   ending,
		stop:     sync.OnceFunc(func() { close(ending) }),
	}
	l.receiving.Go(func() { l.receive(answers, returned) })
	l.sending.Go(l.send)
	t.Cleanup(l.end)
	return l
}

// now returns the time since the load began.
func (l *steadyLoad) now() time.Duration { return time.Since(l.begun) }

func (l *steadyLoad) send() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; ; n++ {
		due := time.Duration(n) * l.interval / time.Duration(len(l.users))
		timer.Reset(due - l.now())
		select {
		case <-timer.C:
		case <-l.ending:
			return
		}
		p, round := n%len(l.users), n/len(l.users)
		user := l.users[p][round/4%len(l.users[p])]
		l.note(p, due)
		operation, args := "get", dict{"user_id": user}
		if (round+p)%4 == 3 {
			operation, args = "patch", dict{"user_id": user, "ops": list{op("replace", "/name", fmt.Sprintf("s3cret Ada %d", round))}}
		}
		err := l.channel.Publish("glotpod.ident", strconv.FormatInt(user, 10), true, false, amqp.Publishing{
			Type:          "rpc.user." + operation,
			ReplyTo:       harness.DirectReplyTo,
			CorrelationId: strconv.Itoa(n),
			MessageId:     uuid.NewString(),
			DeliveryMode:  amqp.Persistent,
			Body:          harness.Pack(args),
		})
		if err != nil {
			l.fail(err)
			return
		}
	}
}

// note notes that the next request is being sent.
func (l *steadyLoad) note(partition int, due time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shots = append(l.shots, shot{partition: partition, due: due})
	l.open++
	l.late = max(l.late, l.now()-due)
}

func (l *steadyLoad) receive(answers <-chan amqp.Delivery, returned <-chan amqp.Return) {
	for answers != nil || returned != nil {
		select {
		case d, ok := <-answers:
			if !ok {
				answers = nil
				continue
			}
			l.answered(d.CorrelationId, errorCode(d.Body))
		case r, ok := <-returned:
			if !ok {
				returned = nil
				continue
			}
			l.answered(r.CorrelationId, "returned: "+r.ReplyText)
		}
	}
}

// errorCode returns the code of an error reply, "" for a result.
func errorCode(body []byte) string {
	if bytes.HasPrefix(body, []byte("\x81\xa6result")) {
		return ""
	}
	tree, _, err := msgp.ReadIntfBytes(body)
	top, _ := tree.(dict)
	if code, ok := top["error"].(string); ok {
		return code
	}
	return fmt.Sprintf("neither result nor error: %v", err)
}

// answered records the reply to the request of that number. The first reply counts: an
// instance may die after a reply, and the next one then replies again.
func (l *steadyLoad) answered(number, code string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n >= len(l.shots) {
		l.failLocked(fmt.Errorf("an answer to %q, which was not asked", number))
		return
	}
	x := &l.shots[n]
	if x.answered {
		return
	}
	x.answered, x.took, x.code = true, l.now()-x.due, code
	l.open--
}

func (l *steadyLoad) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failLocked(err)
}

func (l *steadyLoad) failLocked(err error) {
	if l.err == nil {
		l.err = err
	}
}

// waitsFor returns how long the oldest request without a reply has waited, 0 if there is
// none.
func (l *steadyLoad) waitsFor() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == 0 {
		return 0
	}
	for _, x := range l.shots {
		if !x.answered {
			return l.now() - x.due
		}
	}
	return 0
}

// finish stops sending, waits for the replies, and returns all requests.
func (l *steadyLoad) finish(t *testing.T) []shot {
	t.Helper()
	l.stop()
	l.sending.Wait()
	// Nothing signals that all requests have replies, or that the time is up.
	for deadline := time.Now().Add(answersWithin); l.waitsFor() > 0 && time.Now().Before(deadline); {
		wait.For(context.Background(), 10*time.Millisecond)
	}
	l.end()
	if l.err != nil {
		t.Fatalf("the load has failed: %v", l.err)
	}
	for i := range l.shots {
		if x := &l.shots[i]; !x.answered {
			x.took = l.now() - x.due
		}
	}
	return l.shots
}

// end closes the connection and waits for the goroutines. It is idempotent.
func (l *steadyLoad) end() {
	l.stop()
	l.conn.CloseDeadline(time.Now().Add(harness.Timeout))
	l.sending.Wait()
	l.receiving.Wait()
}

// createUsersOf creates users until each partition has so many, and returns their ids.
func createUsersOf(t *testing.T, c *harness.Caller, partitions, each int) [][]int64 {
	t.Helper()
	users := make([][]int64, partitions)
	for wanting := partitions; wanting > 0; {
		batch := make([]*harness.Request, partitions)
		for i := range batch {
			batch[i] = c.NewRequest("create", harness.NewUser())
			c.Send(t, batch[i])
		}
		for _, m := range batch {
			id := c.AwaitReply(t, m).Result(t).(dict)["user_id"].(int64)
			p := partition.Of(id, partitions)
			if len(users[p]) == each {
				continue
			}
			if users[p] = append(users[p], id); len(users[p]) == each {
				wanting--
			}
		}
	}
	return users
}

package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestConnections stops the flow over the connections by which an instance publishes.
func TestConnections(t *testing.T) {
	t.Parallel()
	t.Run("a_silent_queue_delays_no_reply", testSilentQueue)
	t.Run("a_stalled_connection_delays_no_reply", testStalledConnection)
}

// testSilentQueue has the broker stop reading from the connection by which notifications
// are sent: a queue of a subscriber takes nothing in.
func testSilentQueue(t *testing.T) {
	s := newSetup(t)
	s.subscribe(amqp.Table{"x-queue-type": "quorum"})
	s.run()
	s.commit(1)
	caller := s.client()
	s.getDirect(caller, 1)
	resume := s.vhost.SuspendQueue(t, "subscriber")
	// The broker reads some 400 messages more.
	s.patchAll(caller, 900, "Ada")
	s.getDirect(caller, 1)
	resume()
	deliveries := s.consume()
	for range 901 {
		s.next(deliveries)
	}
	s.until("all changes are notified", func() bool { return s.stored() == 0 })
}

func testStalledConnection(t *testing.T) {
	s := newSetup(t)
	s.subscribe(nil)
	proxy := newStallingProxy(t, s.vhost.Address())
	s.options.Broker.Addresses = []string{proxy.listener.Addr().String()}
	s.options.Grace = time.Second // the notifications are not confirmed
	s.run()
	s.commit(1)
	caller := s.client()
	s.getDirect(caller, 1)
	proxy.stalled.Store(true)
	// The sockets take some megabytes.
	s.patchAll(caller, 40, strings.Repeat("Ada", 100_000))
	s.getDirect(caller, 1)
	s.result(caller.Call(t.Context(), "get", "", pack(map[string]any{"user_id": 1})))
}

// patchAll changes the name of user 1 many times, and requires a reply to each request.
func (s *setup) patchAll(caller *caller, n int, name string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	var requests sync.WaitGroup
	for i := range n {
		requests.Go(func() {
			_, err := caller.CallDirect(ctx, 1, "patch", fmt.Sprint("patch-", i), pack(map[string]any{"user_id": 1, "ops": []any{
				map[string]any{"op": "replace", "path": "/name", "value": fmt.Sprint(name, i)}}}))
			if err != nil {
				s.t.Errorf("patch %d: %v", i, err)
			}
		})
	}
	requests.Wait()
}

// A stallingProxy is between instances and the broker. While it is stalled, it reads
// nothing that instances send by their connections for notifications and forwards.
type stallingProxy struct {
	listener net.Listener
	target   string
	stalled  atomic.Bool
	running  sync.WaitGroup
	ended    chan struct{}
}

func newStallingProxy(t *testing.T, target string) *stallingProxy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &stallingProxy{listener: listener, target: target, ended: make(chan struct{})}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		close(p.ended)
		listener.Close()
		p.running.Wait()
	})
	return p
}

func (p *stallingProxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			near.Close()
			continue
		}
		context.AfterFunc(p.untilEnded(), func() { near.Close(); far.Close() })
		p.running.Go(func() {
			defer near.Close()
			io.Copy(near, far)
		})
		p.running.Go(func() {
			defer far.Close()
			p.send(far, near)
		})
	}
}

func (p *stallingProxy) untilEnded() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	p.running.Go(func() { <-p.ended; cancel() })
	return ctx
}

// send passes on what an instance sends.
func (p *stallingProxy) send(far io.Writer, near io.Reader) {
	var begin []byte // with the name of the connection
	for buffer := make([]byte, 32<<10); ; {
		n, err := near.Read(buffer)
		if err != nil {
			return
		}
		if len(begin) < 2048 {
			begin = append(begin, buffer[:n]...)
		}
		if p.stalled.Load() && (bytes.Contains(begin, []byte("(forwarding)")) || bytes.Contains(begin, []byte("(notifications)"))) {
			<-p.ended
			return
		}
		if _, err := far.Write(buffer[:n]); err != nil {
			return
		}
	}
}

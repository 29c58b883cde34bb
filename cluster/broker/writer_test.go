package broker

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestBatchWriter(t *testing.T) {
	t.Run("gathers_during_write", testBatchWriterGathersDuringWrite)
	t.Run("close_writes_the_rest", testBatchWriterCloseWritesTheRest)
	t.Run("bounded", testBatchWriterBounded)
	t.Run("close_is_bounded", testBatchWriterCloseIsBounded)
}

func testBatchWriterGathersDuringWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		o := newBatchWriter(ours)
		for _, s := range []string{"a", "b", "c"} {
			if n, err := o.Write([]byte(s)); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			synctest.Wait() // the first is being written from here on
		}
		p := make([]byte, 10)
		for _, want := range []string{"a", "bc"} {
			if n, err := theirs.Read(p); err != nil || string(p[:n]) != want {
				t.Errorf("read %q, %v, and not %q", p[:n], err, want)
			}
		}
		o.close()
	})
}

func testBatchWriterCloseWritesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		o := newBatchWriter(ours)
		var want []byte
		for i := range 100 {
			p := bytes.Repeat([]byte{byte(i)}, i)
			want = append(want, p...)
			if _, err := o.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		go o.close()
		got, err := io.ReadAll(theirs)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d arrived, %v", len(got), len(want), err)
		}
		if _, err := o.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after the close: %v", err)
		}
	})
}

func testBatchWriterBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		o := newBatchWriter(ours)
		p := make([]byte, maxWaiting)
		for range 2 { // one is being written, one waits
			o.Write(p)
			synctest.Wait()
		}
		var third error
		written := make(chan struct{})
		go func() {
			defer close(written)
			_, third = o.Write(p)
		}()
		synctest.Wait()
		select {
		case <-written:
			t.Error("the third did not wait")
		default:
		}
		io.ReadFull(theirs, make([]byte, 2*maxWaiting))
		<-written
		if third != nil {
			t.Error(third)
		}
		theirs.Close()
		synctest.Wait()
		if _, err := o.Write(p); err == nil {
			t.Error("a write to a lost connection succeeded")
		}
		o.close()
	})
}

func testBatchWriterCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, _ := net.Pipe()
		o := newBatchWriter(ours)
		o.Write([]byte{1})
		synctest.Wait()
		begun := time.Now()
		o.close()
		if took := time.Since(begun); took != closeTimeout {
			t.Errorf("the close took %v", took)
		}
		o.close() // once more changes nothing
	})
}

// heartbeats writes n heartbeats of the broker, one per interval.
func heartbeats(broker net.Conn, n int, interval time.Duration) {
	for range n {
		time.Sleep(interval)
		broker.Write(frame(frameHeartbeat, 0, nil))
	}
}

// A connection is lost if the broker was silent for as long as it may be, and only then.
func TestPatience(t *testing.T) {
	const limit = 3 * time.Second
	for name, test := range map[string]struct {
		play func(c *conn, broker net.Conn)
		want time.Duration // until the connection is lost
	}{
		"the_broker_says_nothing": {func(*conn, net.Conn) {}, limit},
		"the_broker_falls_silent": {func(_ *conn, broker net.Conn) { heartbeats(broker, 10, limit-time.Second) }, 10*(limit-time.Second) + limit},
		"the_library_sets_deadlines": {func(c *conn, broker net.Conn) {
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
			heartbeats(broker, 10, time.Second)
		}, 10*time.Second + limit},
		"the_connection_is_ended": {func(c *conn, broker net.Conn) {
			time.Sleep(time.Millisecond)
			c.SetDeadline(time.Now().Add(time.Millisecond))
		}, 2 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, broker := net.Pipe()
				c := newConn(ours, 0, nil)
				begun := time.Now()
				go func() {
					c.completeLogin(frameMax, limit) // while the connection is being read
					test.play(c, broker)
				}()
				_, err := io.Copy(io.Discard, struct{ io.Reader }{c})
				if took := time.Since(begun); took != test.want || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("lost after %v with %v, want %v", took, err, test.want)
				}
				c.Close()
			})
		})
	}
	t.Run("the_process_does_not_run", testPatienceTheProcessDoesNotRun)
}

// What the broker has sent while the process was frozen, starved or did not read is read.
func testPatienceTheProcessDoesNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 3 * time.Second
		ours, broker := net.Pipe()
		c := newConn(ours, 0, nil)
		c.completeLogin(frameMax, limit)
		sent := frame(frameHeartbeat, 0, nil)
		for range 3 {
			c.SetReadDeadline(time.Now().Add(limit)) // as the library does
			go broker.Write(sent)
			time.Sleep(10 * limit)
			if n, err := c.Read(make([]byte, len(sent))); n != len(sent) || err != nil {
				t.Fatalf("%d bytes were read: %v", n, err)
			}
		}
		c.Close()
	})
}

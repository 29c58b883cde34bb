package broker

import (
	"bytes"
	"errors"
	"io"
	"net"
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

// A deadlineConn notes the read deadline.
type deadlineConn struct {
	net.Conn
	deadline time.Time
}

func (c *deadlineConn) SetReadDeadline(t time.Time) error {
	c.deadline = t
	return nil
}

// The broker may be silent for as long as the options say, although heartbeats are sent more
// often.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, _ := net.Pipe()
		noted := &deadlineConn{Conn: ours}
		c := newConn(noted, 0, nil)
		c.patience = 4 * time.Second
		expect := func(ask, want time.Duration) {
			t.Helper()
			if c.SetReadDeadline(time.Now().Add(ask)); time.Until(noted.deadline) != want {
				t.Errorf("the deadline of %v is in %v, want %v", ask, time.Until(noted.deadline), want)
			}
		}
		expect(time.Second, 4*time.Second)
		expect(5*time.Second, 5*time.Second)
		if c.SetReadDeadline(time.Time{}); !noted.deadline.IsZero() {
			t.Error("a deadline that was removed is set")
		}
		c.Close()
	})
}

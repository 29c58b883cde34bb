package sizes_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/internal/sizes"
)

// A fakeBroker opens channels on which it accepts messages of up to max bytes.
type fakeBroker struct {
	max    atomic.Int64
	silent atomic.Bool  // it does not reply
	asked  atomic.Int64 // messages
	told   atomic.Int64 // the limit that was told
}

func (b *fakeBroker) open() (publish.Channel, error) { return &fakeChannel{broker: b}, nil }

type fakeChannel struct {
	publish.Channel // the other methods are not called
	broker          *fakeBroker
	closing         chan *amqp.Error
	confirms        bool
}

func (c *fakeChannel) NotifyClose(closing chan *amqp.Error) chan *amqp.Error {
	c.closing = closing
	return closing
}

func (c *fakeChannel) Confirm(bool) error {
	c.confirms = true
	return nil
}

func (c *fakeChannel) Ping(bytes int) error {
	if !c.confirms {
		return errors.New("the channel is not in confirm mode")
	}
	c.broker.asked.Add(1)
	if c.broker.silent.Load() {
		time.Sleep(time.Minute)
	}
	if int64(bytes) > c.broker.max.Load() {
		c.closing <- &amqp.Error{Code: amqp.PreconditionFailed}
		return amqp.ErrClosed
	}
	return nil
}

func (c *fakeChannel) Close() error { return nil }

func TestLimit(t *testing.T) {
	fits := func(t *testing.T, l *sizes.Limit, size int, want bool) {
		t.Helper()
		if got, err := l.Fits(t.Context(), size); got != want || err != nil {
			t.Errorf("%d bytes fit: %v, %v", size, got, err)
		}
	}
	newLimit := func(max int64) (*fakeBroker, *sizes.Limit) {
		b := new(fakeBroker)
		b.max.Store(max)
		return b, sizes.NewLimit(b.open, func(limit int) { b.told.Store(int64(limit)) })
	}

	t.Run("is_found_exactly", func(t *testing.T) {
		for _, max := range []int64{1, 2, 1000, 65535, 65536, 65537} {
			b, l := newLimit(max)
			fits(t, l, 100_000, false)
			fits(t, l, int(max), true)
			fits(t, l, int(max)+1, false)
			if b.told.Load() != max {
				t.Errorf("the limit is %d, told was %d", max, b.told.Load())
			}
		}
	})

	t.Run("growing_sizes_are_asked_about_a_few_times", func(t *testing.T) {
		b, l := newLimit(1 << 30)
		for size := 1; size < 1<<20; size += 1000 {
			fits(t, l, size, true)
		}
		if n := b.asked.Load(); n > 22 || b.told.Load() != 0 {
			t.Errorf("%d messages were sent, told was %d", n, b.told.Load())
		}
	})

	t.Run("one_asks_for_all", func(t *testing.T) {
		b, l := newLimit(1 << 30)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { fits(t, l, 1<<16, true) })
		}
		all.Wait()
		if n := b.asked.Load(); n != 1 {
			t.Errorf("%d messages were sent", n)
		}
	})

	t.Run("is_found_again_when_forgotten", func(t *testing.T) {
		b, l := newLimit(1 << 20)
		fits(t, l, 1<<16, true)
		b.max.Store(1000)
		l.Forget()
		fits(t, l, 1<<16, false)
		fits(t, l, 1000, true)
	})

	t.Run("a_silent_broker_is_not_awaited", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, l := newLimit(1 << 20)
			b.silent.Store(true)
			begun := time.Now()
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					if _, err := l.Fits(t.Context(), 1000); !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if took := time.Since(begun); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
			b.silent.Store(false)
			time.Sleep(time.Minute)
			fits(t, l, 1000, true)
		})
	})
}

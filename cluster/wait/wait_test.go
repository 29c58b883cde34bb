package wait_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/glotpod/ident/cluster/wait"
)

func TestFor(t *testing.T) {
	t.Run("the time passes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			if err := wait.For(t.Context(), time.Minute); err != nil || time.Since(start) != time.Minute {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	})
	t.Run("the context ends first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			if err := wait.For(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	})
}

func TestBackoff(t *testing.T) {
	t.Run("pauses double up to the longest, with jitter of up to half", func(t *testing.T) {
		for range 1000 {
			b := wait.Backoff{First: 10, Longest: 100}
			for i, longest := range []time.Duration{10, 20, 40, 80, 100, 100} {
				if pause := b.Next(); pause > longest || pause < longest/2 {
					t.Fatalf("pause %d is %v of %v", i, pause, longest)
				}
			}
		}
	})
	t.Run("reset begins with the first pause", func(t *testing.T) {
		b := wait.Backoff{First: 10, Longest: 1000}
		for range 5 {
			b.Next()
		}
		b.Reset()
		if pause := b.Next(); pause > 10 {
			t.Error(pause)
		}
	})
	t.Run("pauses differ", func(t *testing.T) {
		seen := make(map[time.Duration]bool)
		for range 100 {
			b := wait.Backoff{First: time.Second, Longest: time.Second}
			seen[b.Next()] = true
		}
		if len(seen) < 50 {
			t.Errorf("%d different pauses of 100", len(seen))
		}
	})
	t.Run("wait ends with the context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		b := wait.Backoff{First: time.Hour, Longest: time.Hour}
		if err := b.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestSignal(t *testing.T) {
	s := wait.NewSignal()
	for range 3 {
		s.Notify() // does not block
	}
	<-s
	select {
	case <-s:
		t.Error("three notifications before the first receive counted as more than one")
	default:
	}
}

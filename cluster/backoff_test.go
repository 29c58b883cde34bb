package cluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

var errDown = errors.New("down")

func TestPatienceEndsAtTheFirstFailureUnlessItInsists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := Patience{}
		err := p.Failed(t.Context(), errDown)
		if !errors.Is(err, ErrUnreachable) || !errors.Is(err, errDown) || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestInsistingPatienceTriesForFiveMinutesWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Patience{Insist: true}
		start, last, tries := time.Now(), time.Now(), 0
		var longest time.Duration
		err := p.Retry(t.Context(), func(error) {}, func(context.Context) error {
			longest = max(longest, time.Since(last))
			last = time.Now()
			tries++
			return errDown
		})
		total := time.Since(start)
		if !errors.Is(err, ErrUnreachable) || total > insistFor || total < insistFor-longPause {
			t.Errorf("%v after %v", err, total)
		}
		if longest > longPause || longest < longPause/2 || tries < 60 || tries > 130 {
			t.Errorf("%d tries, the longest pause %v", tries, longest)
		}
	})
}

func TestSuccessStartsPatienceAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Patience{Insist: true}
		for range 100 { // far more than five minutes in all
			for range 3 {
				if err := p.Failed(t.Context(), errDown); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
			p.Succeeded()
		}
	})
}

func TestPatienceEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p := Patience{Insist: true}
		err := p.Retry(ctx, func(error) {}, func(context.Context) error { return errDown })
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnreachable) {
			t.Error(err)
		}
	})
}

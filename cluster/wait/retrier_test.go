package wait

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestRetrier(t *testing.T) {
	errDown := errors.New("down")
	down := func(context.Context) error { return errDown }

	t.Run("first_failure_is_final_unless_it_insists", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			r := Retrier{}
			err := r.Failed(t.Context(), errDown)
			if !errors.Is(err, ErrUnreachable) || !errors.Is(err, errDown) || time.Since(start) != 0 {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	})

	t.Run("insists_for_five_minutes_with_growing_pauses", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := Retrier{Insist: true}
			start, last, attempts := time.Now(), time.Now(), 0
			var longest time.Duration
			err := r.Retry(t.Context(), func(error) {}, func(context.Context) error {
				longest = max(longest, time.Since(last))
				last = time.Now()
				attempts++
				return errDown
			})
			total := time.Since(start)
			if !errors.Is(err, ErrUnreachable) || total > insistFor || total < insistFor-longestReconnectPause {
				t.Errorf("%v after %v", err, total)
			}
			if longest > longestReconnectPause || longest < longestReconnectPause/2 || attempts < 60 || attempts > 130 {
				t.Errorf("%d attempts, the longest pause %v", attempts, longest)
			}
		})
	})

	t.Run("success_starts_over", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := Retrier{Insist: true}
			for range 100 { // far more than five minutes in all
				for range 3 {
					if err := r.Failed(t.Context(), errDown); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Minute)
				r.Succeeded()
			}
			start := time.Now()
			r.Failed(t.Context(), errDown)
			if pause := time.Since(start); pause > firstReconnectPause {
				t.Errorf("the first pause after a success is %v", pause)
			}
		})
	})

	t.Run("ends_with_its_context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			r := Retrier{Insist: true}
			err := r.Retry(ctx, func(error) {}, down)
			if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnreachable) {
				t.Error(err)
			}
		})
	})
}

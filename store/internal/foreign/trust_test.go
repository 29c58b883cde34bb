package foreign

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestTrust(t *testing.T) {
	t.Run("returns_30s_after_the_last_foreign_write", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var calls []bool
			s := trust{changed: func(trusted bool) { calls = append(calls, trusted) }}
			want := func(all ...bool) {
				t.Helper()
				if len(calls) != len(all) || len(all) > 0 && calls[len(calls)-1] != all[len(all)-1] {
					t.Fatalf("called with %v, want %v", calls, all)
				}
			}
			s.listening()
			s.listening()
			want(true)
			s.wrote()
			want(true, false)
			for range 29 {
				time.Sleep(time.Second)
				s.listening()
			}
			s.wrote() // the 30 s begin again
			for range 29 {
				time.Sleep(time.Second)
				s.listening()
			}
			want(true, false)
			time.Sleep(time.Second)
			s.listening()
			want(true, false, true)
			s.lost()
			s.lost()
			s.listening() // connected again
			want(true, false, true, false, true)
		})
	})
}

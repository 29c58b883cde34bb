package ownership

import (
	"testing"
	"time"
)

// newPacing returns a pacing with a rest of at most 50 ms and a window of 8, of which
// usually 2 are used.
func newPacing() (*pacing, time.Time) {
	return &pacing{cfg: &Config{Heartbeat: time.Second, Window: 8}}, time.Unix(100, 0)
}

func TestPacingLimits(t *testing.T) {
	t.Run("usual_number", func(t *testing.T) {
		h, now := newPacing()
		for n, want := range []bool{false, false, true} {
			if got := h.limitReached(now); got != want {
				t.Errorf("with %d hand-overs: limit reached: %v", n, got)
			}
			h.begin(n, now)
		}
		if h.limitReached(now.Add(50 * time.Millisecond)) {
			t.Error("slow hand-overs still count for the usual number")
		}
	})
	t.Run("window", func(t *testing.T) {
		h, now := newPacing()
		for p := range 8 {
			h.begin(p, now)
		}
		if now = now.Add(time.Hour); !h.limitReached(now) {
			t.Error("the window is exceeded")
		}
		h.end(3)
		if h.limitReached(now) {
			t.Error("an ended hand-over still counts")
		}
	})
	t.Run("rest", func(t *testing.T) {
		h, now := newPacing()
		h.rest(now, 20*time.Millisecond)
		h.rest(now, 5*time.Millisecond) // the longer rest counts
		if got, want := h.nextAt(), now.Add(40*time.Millisecond); !got.Equal(want) {
			t.Errorf("the rest ends at %v, want %v", got, want)
		}
		h.rest(now, time.Minute)
		if got, want := h.nextAt(), now.Add(50*time.Millisecond); !got.Equal(want) {
			t.Errorf("the longest rest ends at %v, want %v", got, want)
		}
	})
}

func TestPacingQueue(t *testing.T) {
	h, now := newPacing()
	h.rest(now, 10*time.Millisecond)
	if wake := h.wakeAt(now); !wake.IsZero() {
		t.Errorf("without queued hand-overs, a tick is due at %v", wake)
	}
	h.queued = true
	rested := now.Add(20 * time.Millisecond)
	if wake := h.wakeAt(now); !wake.Equal(rested) {
		t.Errorf("a tick is due at %v, want %v", wake, rested)
	}
	if h.takeQueued(now) {
		t.Error("queued hand-overs go on during the rest")
	}
	if !h.takeQueued(rested) || h.takeQueued(rested) {
		t.Error("queued hand-overs go on never, or twice")
	}
}

package ownership

import (
	"testing"
	"time"
)

func TestOutage(t *testing.T) {
	start := time.Unix(100, 0)
	for name, test := range map[string]struct {
		failures []time.Duration // since start
		reply    time.Duration
		want     bool
	}{
		"no failure":       {nil, time.Minute, false},
		"short":            {[]time.Duration{0}, time.Second - 1, false},
		"long":             {[]time.Duration{0}, time.Second, true},
		"first one counts": {[]time.Duration{0, 900 * time.Millisecond}, time.Second, true},
	} {
		var o outage
		for _, failure := range test.failures {
			o.onFailure(start.Add(failure))
		}
		reply := start.Add(test.reply)
		if got := o.onReply(reply, time.Second); got != test.want {
			t.Errorf("%s: an outage ends: %v", name, got)
		}
		if o.onReply(reply.Add(time.Hour), time.Second) {
			t.Errorf("%s: an outage ends twice", name)
		}
	}
}

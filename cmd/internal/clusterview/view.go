package clusterview

import (
	"time"
)

// A view is the cluster as one instance sees it. Its JSON form is what the status page
// draws.
type view struct {
	*Overview
	At       time.Time   `json:"at"`
	Observer string      `json:"seen_from"` // the instance that asked the others
	Problems []string    `json:"problems"`  // as sentences
	Rates    []ratePoint `json:"rates"`     // of the last minutes, the latest last
	Changes  []change    `json:"changes"`   // the latest last
}

// settleSeconds is how many seconds after its end a point has been reported by every
// instance whose clock is about right.
const settleSeconds = 3

func newView(observer string, o *Overview, now time.Time) *view {
	v := &view{Overview: o, At: now, Observer: observer, Problems: o.FindProblems(), Rates: sumRates(o.Members)}
	if len(v.Rates) > 0 && now.Unix()-v.Rates[len(v.Rates)-1].End < settleSeconds {
		v.Rates = v.Rates[:len(v.Rates)-1] // some instances may not have reported it yet
	}
	o.RemoveTraffic()
	return v
}

package notify

import (
	"context"
	"time"
)

const (
	// surveyEvery is how often the outbox is asked for overdue notifications: those
	// that were committed longer than overdueAge ago.
	surveyEvery = 10 * time.Second
	overdueAge  = 20 * time.Second

	// surveyRows is how many notifications of each partition are looked at.
	surveyRows = 100
)

// runSurveys surveys the outbox until ctx is done.
func (n *Notifier) runSurveys(ctx context.Context) {
	ticker := time.NewTicker(surveyEvery)
	defer ticker.Stop()
	defer n.o.Metrics.Overdue.Set(0) // the next owners of the partitions count them
	defer n.o.Metrics.Oldest.Set(0)
	for {
		select {
		case <-ticker.C:
			n.survey()
		case <-ctx.Done():
			return
		}
	}
}

// survey counts overdue notifications and measures the oldest one. If one is overdue that
// is neither pending nor left to the log, this process did not learn of its commit: the
// lane sends from the log then.
func (n *Notifier) survey() {
	rows := n.o.Outbox.SurveyNotifications(n.openLanes(), surveyRows)
	n.mu.Lock()
	defer n.mu.Unlock()
	overdue, oldest := 0, time.Duration(0)
	for _, x := range rows {
		oldest = max(oldest, x.Age)
		if x.Age < overdueAge {
			continue
		}
		overdue++
		l := &n.state.lanes[x.Partition]
		if this, _ := n.state.isPending(x.UserID, x.Position); l.open && !l.behind && !this && l.held[x.UserID] == nil {
			n.state.fallBehind(l, x.Position)
		}
	}
	n.o.Metrics.Overdue.Set(float64(overdue))
	n.o.Metrics.Oldest.Set(oldest.Seconds())
}

// openLanes returns the partitions of which this instance sends notifications.
func (n *Notifier) openLanes() []int {
	n.mu.Lock()
	defer n.mu.Unlock()
	numbers := []int{}
	for p := range n.state.lanes {
		if n.state.lanes[p].open {
			numbers = append(numbers, p)
		}
	}
	return numbers
}

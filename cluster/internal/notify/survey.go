package notify

import (
	"context"
	"time"
)

const (
	// surveyEvery is how often overdue notifications are counted: those that were committed
	// longer than overdueAge ago.
	surveyEvery = 10 * time.Second
	overdueAge  = 20 * time.Second
)

// runSurveys measures what is not confirmed until ctx is done.
func (n *Notifier) runSurveys(ctx context.Context) {
	ticker := time.NewTicker(surveyEvery)
	defer ticker.Stop()
	defer n.o.Metrics.Overdue.Set(0) // the next owners of the partitions count them
	defer n.o.Metrics.Oldest.Set(0)
	for {
		select {
		case <-ticker.C:
			n.survey(time.Now())
		case <-ctx.Done():
			return
		}
	}
}

// survey counts the users with overdue notifications, and the partitions with some that are
// left to the log, and measures the oldest one.
func (n *Notifier) survey(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	overdue, oldest := 0, time.Duration(0)
	add := func(since time.Time) {
		if since.IsZero() {
			return
		}
		age := now.Sub(since)
		oldest = max(oldest, age)
		if age >= overdueAge {
			overdue++
		}
	}
	for p := range n.state.lanes {
		l := &n.state.lanes[p]
		if !l.open {
			continue
		}
		if l.next != noPosition {
			add(l.since)
		}
		for _, h := range l.held {
			add(h.committed)
		}
		for user, all := range l.users {
			if l.held[user] == nil {
				add(all[0].notification.CommittedAt)
			}
		}
	}
	n.o.Metrics.Overdue.Set(float64(overdue))
	n.o.Metrics.Oldest.Set(oldest.Seconds())
}

package clusterview

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cmd/internal/cli"
)

// A UserView is what a user waits for. It has no data of the user. Its JSON form is the output
// of glotpod-ident user waiting --json.
type UserView struct {
	UserID    int64       `json:"user_id"`
	Partition int         `json:"partition"`
	Owner     string      `json:"owner"` // of the partition; "": it did not reply or there is none, and all below except Queue is unknown
	Epoch     int64       `json:"epoch"`
	Phase     string      `json:"phase"`
	Queue     queueLength `json:"queue"` // of the partition

	Cached        bool    `json:"cached"`
	InProgress    int     `json:"in_progress"`
	Waiting       int     `json:"waiting"`
	Writes        int     `json:"writes"`
	Mailbox       int     `json:"mailbox"`
	OldestSeconds float64 `json:"oldest_seconds"`

	Commit        membership.UserCommit        `json:"commit"`
	Notifications membership.UserNotifications `json:"notifications"`

	Explained []string `json:"explained"` // in sentences
}

// SurveyUser asks the instances what a user waits for, and the broker for the length of its
// partition's queue. timeout bounds each step.
func SurveyUser(ctx context.Context, conn *amqp.Connection, userID int64, timeout time.Duration) (*UserView, error) {
	asking, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := membership.AskUser(asking, conn, userID)
	if err != nil {
		return nil, err
	}
	v := newUserView(r)
	counting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer context.AfterFunc(counting, func() { conn.CloseDeadline(time.Now()) })()
	c := messageCounter{conn: conn}
	defer c.close()
	if err := c.count(&v.Queue); err != nil {
		return nil, fmt.Errorf("ask the broker for the length of the queue: %w", errors.Join(err, counting.Err()))
	}
	v.Explained = v.explain()
	return v, nil
}

// newUserView makes a view from the report of the owner, or of another instance.
func newUserView(r membership.UserReport) *UserView {
	v := &UserView{UserID: r.UserID, Partition: r.Partition}
	if r.Epoch > 0 {
		v.Owner, v.Epoch, v.Phase = r.Name, r.Epoch, r.Phase
		v.Cached, v.InProgress, v.Waiting, v.Writes = r.Cached, r.InProgress, r.Waiting, r.Writes
		v.Mailbox, v.OldestSeconds, v.Commit, v.Notifications = r.Mailbox, r.OldestSeconds, r.Commit, r.Notifications
	}
	v.Queue.Name = cluster.PartitionQueue(r.First + r.Partition)
	return v
}

// explain says in sentences what the user waits for.
func (v *UserView) explain() (all []string) {
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	ready := 0
	if v.Queue.MessagesReady == nil {
		add("The broker does not have the queue of partition %d.", v.Partition)
	} else {
		ready = *v.Queue.MessagesReady
	}
	switch {
	case v.Owner == "":
		add("The owner of partition %d did not reply, as one of an older version does not, or no instance owns it. If none does, writes for the user wait in its queue.", v.Partition)
		return all
	case v.Phase != ownership.PhaseOwned:
		add("Partition %d is %s at %s. Writes for the user wait in its queue until that is over.", v.Partition, v.Phase, v.Owner)
	}
	if tasks := v.InProgress + v.Waiting; tasks == 0 {
		add("No request for the user is in progress at %s.", v.Owner)
	} else {
		add("%s in progress, %d in the mailbox for %d, %d of them writes. The first one came %s ago.",
			plural(v.InProgress, "request"), v.Waiting, v.Mailbox, v.Writes, seconds(v.OldestSeconds))
	}
	if v.Commit.Stage != "" {
		add("Writes have been in the store for %s. They are %s.", seconds(v.Commit.Seconds), v.Commit.Stage)
	}
	if v.Commit.BusySeconds > 0 {
		add("A transaction of the partition has been under way for %s. Writes for %s wait for it.", seconds(v.Commit.BusySeconds), plural(v.Commit.Behind, "user"))
	}
	if ready > 0 {
		add("%s the partition's queue, perhaps for other users.", strings.Replace(plural(ready, "request")+" wait in", "1 request wait", "1 request waits", 1))
	}
	return append(all, v.explainNotifications()...)
}

func (v *UserView) explainNotifications() (all []string) {
	n := v.Notifications
	if n.Pending > 0 {
		all = append(all, plural(n.Pending, "notification")+" not confirmed by the broker yet.")
	}
	switch {
	case n.HeldBack && n.RoutingKey != "":
		all = append(all, "Notifications are held back: a queue that is bound to "+n.RoutingKey+" takes no more or confirms nothing.")
	case n.HeldBack:
		all = append(all, "Notifications are held back, and are sent again in a while: no key decrypts the first of them, the broker does not take it, or its confirmation was lost.")
	case n.FromLog:
		all = append(all, "Notifications of the partition are sent from the log, perhaps also those of the user.")
	}
	return all
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond).String()
}

// Print prints the view for people.
func (v *UserView) Print(w io.Writer) error {
	owner, cached := "no reply", "unknown"
	if v.Owner != "" {
		owner, cached = fmt.Sprintf("%s (%s)", v.Owner, v.Phase), strconv.FormatBool(v.Cached)
	}
	table := cli.NewTable(w, "user", strconv.FormatInt(v.UserID, 10))
	table.Row("partition", strconv.Itoa(v.Partition))
	table.Row("owner", owner)
	table.Row("queue", v.Queue.text("none", " ready"))
	table.Row("cached", cached)
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", strings.Join(v.Explained, "\n"))
	return err
}

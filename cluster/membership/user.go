package membership

import (
	"context"
	"errors"
	"fmt"
	"math"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A UserReport is a member's reply to the question what a user waits for. Most of it is known
// to the owner of the user's partition alone. It has no data of the user.
type UserReport struct {
	MemberID
	UserID    int64  `json:"user_id"`
	Partition int    `json:"partition"`
	First     int    `json:"first"` // the number of the generation's first partition
	Epoch     int64  `json:"epoch"` // of the member's lease; 0: it has none, and the rest is zero
	Phase     string `json:"phase"` // of the partition in this member

	Cached     bool `json:"cached"`      // the user is in memory
	InProgress int  `json:"in_progress"` // requests that are carried out
	Waiting    int  `json:"waiting"`     // requests in the mailbox
	Writes     int  `json:"writes"`      // of both
	Mailbox    int  `json:"mailbox"`     // how many may wait in the mailbox

	// OldestSeconds is since when the first of these requests has been in the mailbox or carried out.
	OldestSeconds float64 `json:"oldest_seconds"`

	Commit        UserCommit        `json:"commit"`
	Notifications UserNotifications `json:"notifications"`
}

// A UserCommit is what the commits of the user's partition are doing.
type UserCommit struct {
	Stage       string  `json:"stage"`        // what the user's writes wait for; "": none is being committed
	Seconds     float64 `json:"seconds"`      // since when
	BusySeconds float64 `json:"busy_seconds"` // how long the partition's transaction has been under way; 0: none is
	Behind      int     `json:"behind"`       // users whose writes wait for it
}

// UserNotifications are the notifications of a user that the broker has not confirmed.
type UserNotifications struct {
	Pending         int     `json:"pending"`
	OldestSeconds   float64 `json:"oldest_seconds"` // since the commit of the first of them; 0: not known
	HeldBack        bool    `json:"held_back"`
	HeldBackSeconds float64 `json:"held_back_seconds"` // 0: not known
	RoutingKey      string  `json:"routing_key"`       // whose subscribers' queues they are held back for; "": for none
	FromLog         bool    `json:"from_log"`          // notifications of the partition are sent from the log, which takes longer
}

// userReportBody is the body of a user's report on the wire.
type userReportBody struct {
	envelope
	Report UserReport `json:"report"`
}

func decodeUserReport(body []byte) (UserReport, error) {
	var b userReportBody
	if err := decodeBody(body, &b); err != nil {
		return UserReport{}, err
	}
	r := b.Report
	if r.validate() != nil || r.Partition < 0 || r.Partition >= maxPartitions || r.First < 0 || r.Epoch < 0 || !isText(r.Phase) ||
		!isSentence(r.Commit.Stage) || !isText(r.Notifications.RoutingKey) ||
		math.Signbit(r.OldestSeconds) || min(r.InProgress, r.Waiting, r.Writes, r.Mailbox, r.Notifications.Pending) < 0 {
		return UserReport{}, errors.New("impossible report of a user")
	}
	return r, nil
}

// AskUser asks all members what a user waits for, until the owner of its partition has
// replied, and returns that reply. If ctx ends before, and another member has replied, the
// report is that of a member without a lease. Errors are those of [AskStatus]. AskUser opens
// a channel of its own.
func AskUser(ctx context.Context, conn *amqp.Connection, userID int64) (latest UserReport, err error) {
	replied := false
	err = sendUntilAnswered(ctx, conn, typeUser, request{UserID: userID}, quietPeriod, func(d *amqp.Delivery) (done bool) {
		r, err := decodeUserReport(d.Body)
		if d.Type == typeUserReport && err == nil && r.UserID == userID && (!replied || r.Epoch > latest.Epoch) {
			latest, replied = r, true
		}
		return latest.Epoch > 0
	})
	if err == nil || replied && ctx.Err() != nil {
		return latest, nil
	}
	return latest, fmt.Errorf("asking the instances about a user: %w", err)
}

package ownership

import (
	"reflect"
	"testing"
	"time"
)

func TestOutbox(t *testing.T) {
	t.Run("send_time", testOutboxSendTime)
	t.Run("facts_sent_once", testOutboxFactsSentOnce)
	t.Run("grants_by_member", testOutboxGrantsByMember)
}

// A request to send may bring the next broadcast forward, and never puts it off.
func testOutboxSendTime(t *testing.T) {
	const spacing = 5 * time.Millisecond
	now := time.Unix(100, 0)
	for name, test := range map[string]struct {
		sinceSent, wait, due, want time.Duration
	}{
		"at once":              {time.Second, 0, time.Minute, 0},
		"after a delay":        {time.Second, 20 * time.Millisecond, time.Minute, 20 * time.Millisecond},
		"spacing":              {2 * time.Millisecond, 0, time.Minute, 3 * time.Millisecond},
		"spacing and a delay":  {2 * time.Millisecond, time.Millisecond, time.Minute, 3 * time.Millisecond},
		"due earlier than so":  {time.Second, 20 * time.Millisecond, 10 * time.Millisecond, 10 * time.Millisecond},
		"due while it is sent": {time.Second, 0, 0, 0},
	} {
		o := outbox{cfg: &Config{Spacing: spacing}, sentAt: now.Add(-test.sinceSent), sendAt: now.Add(test.due)}
		o.sendWithin(now, test.wait)
		if got := o.sendAt.Sub(now); got != test.want {
			t.Errorf("%s: due in %v, want %v", name, got, test.want)
		}
		if o.isDue(now) != (test.want == 0) || !o.isDue(now.Add(test.want)) {
			t.Errorf("%s: is due at the wrong time", name)
		}
	}
}

func testOutboxFactsSentOnce(t *testing.T) {
	now := time.Unix(100, 0)
	facts := Message{Released: []HeldLease{heldLease(1, 2, alice)}, Taken: []HeldLease{heldLease(3, 4, alice)}, Gone: []Member{carol}}
	o := outbox{facts: facts}
	var msg Message
	o.takeFacts(&msg, now, now.Add(time.Second))
	if !reflect.DeepEqual(msg, facts) {
		t.Errorf("got %+v, want %+v", msg, facts)
	}
	if !o.sentAt.Equal(now) || o.isDue(now) || !o.isDue(now.Add(time.Second)) {
		t.Errorf("sent at %v, due at %v", o.sentAt, o.sendAt)
	}
	var next Message
	if o.takeFacts(&next, now, now); !reflect.DeepEqual(next, Message{}) {
		t.Errorf("facts are sent twice: %+v", next)
	}
	if first, second := o.nextSeq(), o.nextSeq(); first != 1 || second != 2 {
		t.Errorf("messages have the numbers %d and %d", first, second)
	}
}

// All grants to a member go into one message, together with the leases that they
// replace.
func testOutboxGrantsByMember(t *testing.T) {
	self := firstSession("b", 1)
	o := outbox{grants: []HeldLease{heldLease(0, 4, alice), heldLease(1, 5, carol), heldLease(2, 6, alice)}}
	for _, want := range []struct {
		to                Member
		granted, released []HeldLease
	}{
		{alice, []HeldLease{heldLease(0, 4, alice), heldLease(2, 6, alice)}, []HeldLease{heldLease(0, 3, self), heldLease(2, 5, self)}},
		{carol, []HeldLease{heldLease(1, 5, carol)}, []HeldLease{heldLease(1, 4, self)}},
	} {
		to, ok := o.nextGrantee()
		msg := Message{From: self}
		o.takeGrants(&msg, to)
		if !ok || to != want.to {
			t.Errorf("grants go to %v, want %v", to, want.to)
		}
		expect(t, msg.Granted, want.granted...)
		expect(t, msg.Released, want.released...)
	}
	if to, ok := o.nextGrantee(); ok {
		t.Errorf("further grants go to %v", to)
	}
}

package workload

import (
	"bytes"
	"fmt"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// A ledger follows the users by the notifications, and compares them with the operations
// of the callers.
type ledger struct {
	writes  map[string]*Operation  // creates and patches, by mark
	deletes map[int64][]*Operation // by user id
	told    map[*Operation]bool
	users   map[int64]*toldUser
	first   map[string]harness.Notification // by message id
	repeats int
	problem func(format string, args ...any)
}

// A toldUser is one user as the notifications have described it so far.
type toldUser struct {
	now    View          // by the operations that were told, with what notifications do not show
	heard  View          // by the notifications alone
	called time.Duration // the latest call of those operations

	sequence int64 // of the last notification
}

// CheckNotifications goes through all notifications in the order of their arrival. It
// returns the users that exist after them, as notifications show users, and the problems:
// a change without a notification, with two, or with one that is out of order. It records
// which operations without a reply were carried out.
func CheckNotifications(heard []harness.Notification, operations []*Operation) (users map[int64]View, repeats int, problems []string) {
	a := &ledger{
		writes:  make(map[string]*Operation),
		deletes: make(map[int64][]*Operation),
		told:    make(map[*Operation]bool),
		users:   make(map[int64]*toldUser),
		first:   make(map[string]harness.Notification),
		problem: func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) },
	}
	for _, o := range operations {
		switch o.kind {
		case "create", "patch":
			a.writes[o.mark] = o
		case "delete":
			a.deletes[o.id] = append(a.deletes[o.id], o)
		}
	}
	for _, n := range heard {
		a.hear(n)
	}
	if len(problems) > 0 {
		problems = append(problems, orders(heard)...)
	}
	for _, o := range operations {
		if o.writes() && !o.open && o.reply.code == "" && !a.told[o] {
			a.problem("nobody was told of this: %v", o)
		}
	}
	users = make(map[int64]View)
	for id, u := range a.users {
		if u.heard.ID != 0 {
			users[id] = u.heard
		}
	}
	return users, a.repeats, problems
}

// hear checks the next notification.
func (a *ledger) hear(n harness.Notification) {
	if first, ok := a.first[n.MessageID]; ok {
		a.repeats++
		if !bytes.Equal(n.Body, first.Body) || n.Sequence != first.Sequence || !n.CommittedAt.Equal(first.CommittedAt) {
			a.problem("two notifications have the message id %s: %d %s and %d %s", n.MessageID, n.Sequence, n.Body, first.Sequence, first.Body)
		}
		return
	}
	a.first[n.MessageID] = n

	body, _ := n.Value.(dict)
	id := userOf(n)
	u := a.users[id]
	if u == nil {
		u = new(toldUser)
		a.users[id] = u
	}
	if u.sequence++; n.Sequence != u.sequence {
		a.problem("%s is change %d of the user, want %d", n.Body, n.Sequence, u.sequence)
	}
	next, o := u.heard, (*Operation)(nil)
	switch n.Key {
	case harness.CreateKey:
		var err error
		if next, err = viewOf(body); err != nil {
			a.problem("%s: %v", n.Body, err)
		}
		o = a.writes[next.Name]
	case harness.PatchKey:
		ops, _ := body["ops"].(list)
		var code string
		if next, code = u.heard.patched(ops); code != "" {
			a.problem("%s does not follow: %s; the user is %+v", n.Body, code, u.heard)
		}
		o = a.writes[next.Name]
	case harness.DeleteKey:
		next = View{}
		for _, d := range a.deletes[id] {
			if d.reply.code == "" && (o == nil || o.open) {
				o = d
			}
		}
	}
	if o == nil {
		a.problem("nobody asked for what is told: %s %s", n.Key, n.Body)
		return
	}
	a.follow(u, id, o, n)
	if u.heard = next; next != u.now.shown() {
		a.problem("%s leads to %+v\nbut %v leads to %+v", n.Body, next, o, u.now.shown())
	}
}

// orders returns, for each user whose changes came in another order than they were made, the numbers
// of all that came.
func orders(heard []harness.Notification) (all []string) {
	came := make(map[int64][]int64)
	latest := make(map[int64]int64)
	disordered := make(map[int64]bool)
	for _, n := range heard {
		id := userOf(n)
		came[id] = append(came[id], n.Sequence)
		disordered[id] = disordered[id] || n.Sequence > latest[id]+1
		latest[id] = max(latest[id], n.Sequence)
	}
	for id := range disordered {
		if disordered[id] {
			all = append(all, fmt.Sprintf("the changes of user %d came in this order: %v", id, came[id]))
		}
	}
	return all
}

// userOf returns the user that a notification is about.
func userOf(n harness.Notification) (id int64) {
	body, _ := n.Value.(dict)
	if n.Key == harness.CreateKey {
		id, _ = body["id"].(int64)
	} else {
		id, _ = body["user_id"].(int64)
	}
	return id
}

// follow has an operation that was told change the user.
func (a *ledger) follow(u *toldUser, id int64, o *Operation, n harness.Notification) {
	if a.told[o] {
		a.problem("told twice, under two message ids: %v", o)
	}
	a.told[o] = true
	if o.open && o.kind == "create" {
		o.reply.id = id
	}
	var want reply
	if u.now, want = o.does(u.now); want.code != "" || !o.open && o.reply != want {
		a.problem("%s is told of an operation that comes to %+v here: %v", n.Key, want, o)
	}
	if !o.open && o.ret < u.called {
		a.problem("told too late, after an operation that began after its end: %v", o)
	}
	u.called = max(u.called, o.call)
}

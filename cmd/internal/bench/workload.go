package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tinylib/msgp/msgp"
)

const (
	// userCount is the number of users that requests use in turn.
	userCount = 1000

	// grownCount is the number of users that the tables of a private cluster have
	// besides. They are added when the instances have planned their statements.
	grownCount = 100_000

	// setUpInFlight is the number of requests in flight while users are created and
	// deleted.
	setUpInFlight = 64
)

// getOperation is the operation of the requests that change nothing.
const getOperation = "rpc.user.get"

// A request is one request of a caller.
type request struct {
	operation string // the routing key of the operation
	user      string // the id that routes a direct request; "": none
	body      []byte
	email     string // of the user that the request creates; "": none
}

// A userPool holds the users that requests use, and those that requests create. After
// setUp it is safe for concurrent use.
type userPool struct {
	run      string        // a part of the emails of the users
	services uint64        // the first service id
	turn     atomic.Uint64 // selects the user of the next request
	creates  atomic.Uint64 // the number of requests to create a user
	targets  []user

	mu      sync.Mutex // guards the following field
	created []user
}

type user struct {
	id    int64
	key   string // the id in decimal
	email string
}

func newUserPool(run string) *userPool {
	return &userPool{run: run, services: rand.Uint64N(1 << 62)}
}

// at returns the user of a turn.
func (u *userPool) at(turn uint64) user { return u.targets[turn%uint64(len(u.targets))] }

func (u *userPool) get() request { return u.getOf(u.turn.Add(1)) }

func (u *userPool) getOf(turn uint64) request {
	user := u.at(turn)
	b := msgp.AppendMapHeader(make([]byte, 0, 24), 1)
	b = msgp.AppendInt64(msgp.AppendString(b, "user_id"), user.id)
	return request{operation: getOperation, user: user.key, body: b}
}

func (u *userPool) getByEmail() request {
	user := u.at(u.turn.Add(1))
	b := msgp.AppendMapHeader(make([]byte, 0, 64), 1)
	b = msgp.AppendString(msgp.AppendString(b, "email"), user.email)
	return request{operation: getOperation, user: user.key, body: b}
}

func (u *userPool) patch() request {
	turn := u.turn.Add(1)
	return u.rename(u.at(turn), turn)
}

// patchOne patches the same user each time.
func (u *userPool) patchOne() request { return u.rename(u.at(0), u.turn.Add(1)) }

// rename changes the name of a user to a new one.
func (u *userPool) rename(user user, turn uint64) request {
	b := msgp.AppendMapHeader(make([]byte, 0, 96), 2)
	b = msgp.AppendInt64(msgp.AppendString(b, "user_id"), user.id)
	b = msgp.AppendArrayHeader(msgp.AppendString(b, "ops"), 1)
	b = msgp.AppendMapHeader(b, 3)
	b = msgp.AppendString(msgp.AppendString(b, "op"), "replace")
	b = msgp.AppendString(msgp.AppendString(b, "path"), "/name")
	b = msgp.AppendString(msgp.AppendString(b, "value"), "Bench user "+strconv.FormatUint(turn, 10))
	return request{operation: "rpc.user.patch", user: user.key, body: b}
}

// mixed returns nine gets for each patch.
func (u *userPool) mixed() request {
	turn := u.turn.Add(1)
	if turn%10 == 0 {
		return u.rename(u.at(turn/10), turn)
	}
	return u.getOf(turn)
}

func (u *userPool) create() request {
	n := u.creates.Add(1)
	email := fmt.Sprintf("bench-%s-%d@bench.invalid", u.run, n)
	b := appendUser(make([]byte, 0, 256), 0, email, u.services+n)
	return request{operation: "rpc.user.create", user: strconv.FormatUint(n, 10), body: b, email: email}
}

func (u *userPool) remove(user user) request {
	b := msgp.AppendMapHeader(make([]byte, 0, 24), 1)
	b = msgp.AppendInt64(msgp.AppendString(b, "user_id"), user.id)
	return request{operation: "rpc.user.delete", user: user.key, body: b}
}

// appendUser appends a user in the form of a create request or, if id is not 0, of the
// reply to a get.
func appendUser(b []byte, id int64, email string, service uint64) []byte {
	if id == 0 {
		b = msgp.AppendMapHeader(b, 4)
	} else {
		b = msgp.AppendMapHeader(b, 5)
		b = msgp.AppendInt64(msgp.AppendString(b, "id"), id)
	}
	b = msgp.AppendString(msgp.AppendString(b, "name"), "Bench user 1234567")
	b = msgp.AppendString(msgp.AppendString(b, "email"), email)
	b = msgp.AppendString(msgp.AppendString(b, "picture_url"), "https://bench.invalid/picture.png")
	b = msgp.AppendMapHeader(msgp.AppendString(b, "github"), 2)
	b = msgp.AppendUint64(msgp.AppendString(b, "id"), service)
	return msgp.AppendString(msgp.AppendString(b, "access_token"), "bench-0123456789abcdef0123456789abcdef")
}

// onReply records the user that a request has created.
func (u *userPool) onReply(r request, reply []byte) error {
	if r.email == "" {
		return nil
	}
	const begin = "\x81\xa6result\x81\xa7user_id"
	rest, ok := bytes.CutPrefix(reply, []byte(begin))
	id, _, err := msgp.ReadInt64Bytes(rest)
	if !ok || err != nil {
		return errors.New("the reply to a create has no user_id")
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.created = append(u.created, user{id: id, key: strconv.FormatInt(id, 10), email: r.email})
	return nil
}

// setUp creates the users that requests use. It gets each of them once, so that their
// owners have them in the cache.
func (u *userPool) setUp(ctx context.Context, load *loadGenerator) error {
	creates := work{next: take(userCount, u.create), way: sharedRoute, persistent: true, onReply: u.onReply}
	if _, err := load.run(ctx, creates, setUpInFlight, time.Hour); err != nil {
		return fmt.Errorf("create users: %w", err)
	}
	u.targets = u.created[:len(u.created):len(u.created)]
	gets := work{next: take(len(u.targets), u.get), way: directRoute}
	if _, err := load.run(ctx, gets, setUpInFlight, time.Hour); err != nil {
		return fmt.Errorf("get users: %w", err)
	}
	return nil
}

// removeAll deletes all users that were created.
func (u *userPool) removeAll(ctx context.Context, load *loadGenerator) error {
	var n atomic.Int64
	deletes := work{persistent: true, way: sharedRoute, next: func() (request, bool) {
		i := n.Add(1)
		if i > int64(len(u.created)) {
			return request{}, false
		}
		return u.remove(u.created[i-1]), true
	}}
	if _, err := load.run(ctx, deletes, setUpInFlight, time.Hour); err != nil {
		return fmt.Errorf("delete the users whose email begins with bench-%s-: %w", u.run, err)
	}
	return nil
}

// take returns a function that returns n requests.
func take(n int, next func() request) func() (request, bool) {
	var taken atomic.Int64
	return func() (request, bool) {
		if taken.Add(1) > int64(n) {
			return request{}, false
		}
		return next(), true
	}
}

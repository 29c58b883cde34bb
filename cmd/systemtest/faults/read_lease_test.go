package faults

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// TestReadLease: an instance that was deposed, and goes on to get requests from the broker, does
// not reply from memory what another owner has overwritten. The other owner is played by SQL
// statements, so that the instance learns about it from the database or not at all.
func TestReadLease(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]readLeaseCase{
		"cut_off_from_the_members": {},
		"the_database_is_silent": {
			before: func(_ *harness.Instance, k *harness.Proxy) { k.Silence() },
			silent: true,
		},
		"stopped": {
			before: func(v *harness.Instance, _ *harness.Proxy) { v.Cmd.Process.Signal(syscall.SIGSTOP) },
			after:  func(v *harness.Instance) { v.Cmd.Process.Signal(syscall.SIGCONT) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.run(t)
		})
	}
}

// A readLeaseCase is a way in which an instance does not learn that it is deposed.
type readLeaseCase struct {
	before func(*harness.Instance, *harness.Proxy) // happens before it is deposed
	after  func(*harness.Instance)                 // happens after the next owner has written
	silent bool                                    // there may be no reply
}

func (c readLeaseCase) run(t *testing.T) {
	const key = "database.postgres.port"
	s := harness.NewSite(t)
	k := harness.NewProxy(t, s.Settings[key])
	v := s.Serve(t, harness.Settings{key: k.Port()})
	caller := s.NewCaller(t)
	u := caller.Create(t, harness.NewUser())
	gets := []dict{{"user_id": u["id"]}, {"email": u["email"]}}
	for range 3 { // the second reads memory
		for _, args := range gets {
			caller.Call(t, "get", args).IsResult(t, u)
		}
	}
	if c.before != nil {
		c.before(v, k)
	}
	s.Exec(t, "SET application_name = 'glotpod.ident/next'")
	s.Exec(t, "UPDATE ident_partitions SET epoch = epoch + 1, holder = 'next', holder_start = 1, holder_session = 1")
	time.Sleep(partition.DeposedReadsFor)
	s.Exec(t, "UPDATE users SET name = 's3cret new' WHERE id = $1", u["id"])
	var sent []*harness.Request
	for i := range 40 {
		m := caller.NewRequest("get", gets[i%2])
		caller.Send(t, m)
		sent = append(sent, m)
	}
	if c.after != nil {
		c.after(v)
	}
	// An instance that asks a silent database replies later, or not at all.
	waiting, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for _, m := range sent {
		if !c.silent {
			caller.AwaitReply(t, m).IsResult(t, harness.Changed(u, dict{"name": "s3cret new"}))
			continue
		}
		select {
		case reply := <-caller.Replies(m.CorrelationId):
			reply.IsError(t, "invocation_failed")
		case <-waiting.Done():
		}
	}
	v.Kill(t)
}

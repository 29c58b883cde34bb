package cluster

import (
	"fmt"

	"github.com/glotpod/ident/cluster/ownership"
)

// These methods, with startServing, handOver and abandon, make a session the [executor]
// of the ownership core's commands.

func (s *session) broadcast(m ownership.Message) { s.members.Broadcast(m) }

func (s *session) send(to ownership.Member, m ownership.Message) { s.members.Send(to, m) }

func (s *session) probe(m ownership.Member) { s.members.Probe(m) }

func (s *session) reconnect(why string) { s.fail(fmt.Errorf("%w: %s", errReconnect, why)) }

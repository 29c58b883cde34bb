// Package workload puts a cluster under load for tests: many callers that create, read,
// patch and delete the same users, over and over. It records each request and reply, and
// checks afterwards that the history of each user is linearizable, that repeated requests
// get the same reply, and that the notifications agree with the replies.
package workload

import (
	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// Short names for what all tests use.
type (
	dict = harness.Dict
	list = harness.List
)

var op = harness.Op

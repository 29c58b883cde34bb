package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/glotpod/ident/cluster/internal/rpc"
)

// An Error is an error reply of the service. One with the code bad_request may also come from the
// client itself, for arguments that cannot be sent.
type Error struct {
	Code       string        // see the error values below
	Message    string        // for people
	Retryable  bool          // the same request may succeed later
	RetryAfter time.Duration // how long the service asks to wait before that; 0: it does not say
}

func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code
	}
	return e.Code + ": " + e.Message
}

// badRequest returns the error of arguments that cannot be sent.
func badRequest(format string, args ...any) error {
	return &Error{Code: "bad_request", Message: fmt.Sprintf(format, args...)}
}

// Is reports whether target is an Error with the same code. So errors.Is(err, ErrConflict)
// tells whether err is an error reply with that code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// The error codes of the service, for use with [errors.Is].
var (
	ErrDecode             error = &Error{Code: "decode_error"}         // the body is not one msgpack value, or exceeds a limit
	ErrOperationNotFound  error = &Error{Code: "operation_not_found"}  // there is no such operation
	ErrBadRequest         error = &Error{Code: "bad_request"}          // arguments are missing, unknown or of the wrong type
	ErrNotFound           error = &Error{Code: "not_found"}            // there is no such user
	ErrConflict           error = &Error{Code: "conflict"}             // another user has this email or account
	ErrPatchFailed        error = &Error{Code: "patch_failed"}         // the patch is well formed, but does not apply
	ErrInvalidPatchResult error = &Error{Code: "invalid_patch_result"} // the patched user would not be a valid user
	ErrPositionGone       error = &Error{Code: "position_gone"}        // the log does not have all changes since a position
	ErrInvocationFailed   error = &Error{Code: "invocation_failed"}    // anything else that went wrong in the service
)

var (
	// ErrNoService means that the broker has no queue for the request: no instance of the
	// service has ever run there, or the node with the queue is away. The request was not
	// carried out.
	ErrNoService = errors.New("no identity service at this broker: there is no queue for the request")

	// ErrNotSent means that the context has ended before the request was sent, because there
	// is no connection, or because too many other requests are under way. The request was not
	// carried out.
	ErrNotSent = rpc.ErrNotSent

	// ErrNoReply means that the context has ended, or the client was closed, before a reply
	// came. A write may have been carried out, or may still be. To find out, repeat it with
	// the same message id ([WithMessageID]).
	ErrNoReply = errors.New("no reply")

	// ErrRejected means that the broker has closed the channel of the request several times:
	// the request is larger than the broker accepts, or the login has no right to send it. An
	// *amqp.Error in the chain tells which. Another request of the client may be the cause; so
	// it is unknown whether this one was carried out.
	ErrRejected = errors.New("the broker rejects the request")

	// ErrMalformed means that a reply has no form that the service sends.
	ErrMalformed = errors.New("the reply has no form that the identity service sends")

	// ErrClosed means that the client was closed. The request was not sent.
	ErrClosed = errors.New("the client is closed")
)

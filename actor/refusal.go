package actor

import (
	"fmt"
	"time"
)

// A Code is the error code in an error reply. Codes are part of the wire contract.
type Code string

const (
	DecodeError        Code = "decode_error"         // the body is not one whole msgpack value
	OperationNotFound  Code = "operation_not_found"  // no such operation
	BadRequest         Code = "bad_request"          // arguments missing, unknown or of the wrong type
	NotFound           Code = "not_found"            // no such user
	Conflict           Code = "conflict"             // another user has the email or the service id
	PatchFailed        Code = "patch_failed"         // the patch is well formed, but does not apply
	InvalidPatchResult Code = "invalid_patch_result" // the patch does not result in a valid user
	PositionGone       Code = "position_gone"        // the log does not have all changes since a position
	InvocationFailed   Code = "invocation_failed"    // any other failure of the service
)

// A Refusal is the reason why a request is not done. The caller gets it as an error
// reply. The message is for people; it contains no value that the caller sent or that is
// stored. A refused write is recorded under its request id, and a replay gets
// the same refusal. Only InvocationFailed is not recorded.
type Refusal struct {
	Code    Code
	Message string

	// RetryAfter is how long to wait before the same request may succeed. 0: never.
	RetryAfter time.Duration
}

func (r *Refusal) Error() string { return string(r.Code) + ": " + r.Message }

func refuse(code Code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

func wrongType(field, want string) *Refusal {
	return refuse(BadRequest, "%s is not %s", field, want)
}

func missing(field string) *Refusal { return refuse(BadRequest, "%s is missing", field) }

// InternalError returns a refusal with the code InvocationFailed, after which the same request may
// succeed a moment later. The details of the failure belong in the log, not in the message.
func InternalError(message string) *Refusal {
	return &Refusal{Code: InvocationFailed, Message: message, RetryAfter: 100 * time.Millisecond}
}

var (
	// NoSuchUser refuses a request about a user that does not exist.
	NoSuchUser = refuse(NotFound, "no such user")

	// NoPosition refuses a position of the log that no store has returned.
	NoPosition = refuse(BadRequest, "after is not a position that changes or list has returned")

	// ChangesMissing refuses a position because the log may lack changes after it: they were
	// dropped, or the users were divided into another number of partitions since, or the
	// database has an earlier state than the position, or another version has returned it.
	ChangesMissing = refuse(PositionGone, "the log does not have all changes since this position: list all users, and go on from the after of the first page")

	// QueueUnavailable refuses a request that the queue of the user's partition does not take in.
	QueueUnavailable = &Refusal{Code: InvocationFailed, Message: "the queue of the user's partition takes nothing in", RetryAfter: time.Second}

	// RequestIDReused refuses a request if another request had the same request id.
	RequestIDReused = refuse(BadRequest, "another request was made under this message_id or correlation_id")

	// ReplyTooLarge refuses a request whose reply the broker does not accept.
	ReplyTooLarge = refuse(InvocationFailed, "the reply is larger than the message broker accepts")

	// NotificationTooLarge refuses a write whose notification the broker does not accept.
	NotificationTooLarge = refuse(InvocationFailed, "the notification of the change is larger than the message broker accepts")

	// UserIDTaken refuses a create whose new id another user has: the ids were drawn from
	// a sequence that was behind the table, or another program has chosen the id. The
	// create can be done with another id.
	UserIDTaken = InternalError("the new user's id is taken")
)

package actor

import "fmt"

// A Code is the error code of an answer, as callers know it.
type Code string

const (
	DecodeError        Code = "decode_error"         // the body is not one whole msgpack value
	OperationNotFound  Code = "operation_not_found"  // no such operation
	BadRequest         Code = "bad_request"          // arguments missing, unknown or of the wrong type
	NotFound           Code = "not_found"            // no such user
	Conflict           Code = "conflict"             // an email or service id that another user has
	PatchFailed        Code = "patch_failed"         // well formed, but does not apply
	InvalidPatchResult Code = "invalid_patch_result" // the patched user is no valid user
	InvocationFailed   Code = "invocation_failed"    // anything else that went wrong here
)

// A Refusal is an answer that says no. Its message is for people and holds
// no value of what the caller sent or what is stored. All refusals but InvocationFailed are final:
// they are kept under the request's identity and given again.
type Refusal struct {
	Code      Code
	Message   string
	Retryable bool // the same request may succeed later
}

func (r *Refusal) Error() string { return string(r.Code) + ": " + r.Message }

func refuse(code Code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

func wrongType(field, want string) *Refusal {
	return refuse(BadRequest, "%s is not %s", field, want)
}

func missing(field string) *Refusal { return refuse(BadRequest, "%s is missing", field) }

// InternalError is the refusal for what went wrong on this side. The details belong in
// the log.
func InternalError(message string) *Refusal {
	return &Refusal{Code: InvocationFailed, Message: message, Retryable: true}
}

var (
	// NoSuchUser answers a request about a user who does not exist.
	NoSuchUser = refuse(NotFound, "no such user")

	// RequestIDReused answers a request whose identity another request has.
	RequestIDReused = refuse(BadRequest, "another request was made under this message_id or correlation_id")
)

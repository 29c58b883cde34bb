package actor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tinylib/msgp/msgp"
)

// appendResult appends the beginning of {"result": …}, without the value.
func appendResult(b []byte) []byte {
	return msgp.AppendString(msgp.AppendMapHeader(b, 1), "result")
}

// UserReply encodes the reply to a get, with access tokens.
func UserReply(u *User) []byte {
	return appendUser(appendResult(make([]byte, 0, 512)), u, true)
}

// WithoutTokens returns the reply to a get for a caller that must not learn access tokens. An
// error reply stays as it is.
func WithoutTokens(reply []byte) []byte {
	if ErrorCode(reply) != "" {
		return reply
	}
	u, err := userInReply(reply)
	if err != nil { // not encoded by UserReply
		return ErrorReply(InternalError("the request could not be carried out"))
	}
	return appendUser(appendResult(make([]byte, 0, len(reply))), u, false)
}

// userInReply decodes the user from a reply that UserReply has encoded.
func userInReply(reply []byte) (*User, error) { return readUser(reply[len(resultHead):]) }

var resultHead = appendResult(nil)

// PageReply encodes the reply to a list or a get_many, without access tokens.
func PageReply(page *UserPage) []byte {
	b := appendResult(make([]byte, 0, 64+len(page.After)+128*len(page.Users)))
	members := uint32(1)
	if page.NextAfterID > 0 {
		members++
	}
	if page.After != "" {
		members++
	}
	b = msgp.AppendMapHeader(b, members)
	if page.NextAfterID > 0 {
		b = msgp.AppendInt64(msgp.AppendString(b, "next_after_id"), page.NextAfterID)
	}
	if page.After != "" {
		b = msgp.AppendString(msgp.AppendString(b, "after"), page.After)
	}
	b = msgp.AppendArrayHeader(msgp.AppendString(b, "users"), uint32(len(page.Users)))
	for i := range page.Users {
		b = appendUser(b, &page.Users[i], false)
	}
	return b
}

// FormatTime returns the time of a commit as callers and subscribers get it: RFC 3339 in UTC, with
// microseconds, which is the resolution of the database.
func FormatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

// ChangesReply encodes the reply to a request for changes.
func ChangesReply(page *ChangePage) []byte {
	b := appendResult(make([]byte, 0, 64+len(page.After)+256*len(page.Changes)))
	b = msgp.AppendMapHeader(b, 3)
	b = msgp.AppendString(msgp.AppendString(b, "after"), page.After)
	b = msgp.AppendBool(msgp.AppendString(b, "more"), page.More)
	b = msgp.AppendArrayHeader(msgp.AppendString(b, "changes"), uint32(len(page.Changes)))
	for i := range page.Changes {
		b = appendChange(b, &page.Changes[i])
	}
	return b
}

func appendChange(b []byte, c *Change) []byte {
	member := ""
	switch c.Operation {
	case "create":
		member = "user"
	case "patch":
		member = "ops"
	}
	size := uint32(4)
	if member != "" {
		size++
	}
	b = msgp.AppendMapHeader(b, size)
	b = msgp.AppendInt64(msgp.AppendString(b, "user_id"), c.UserID)
	b = msgp.AppendInt64(msgp.AppendString(b, "sequence"), c.Sequence)
	b = msgp.AppendString(msgp.AppendString(b, "operation"), c.Operation)
	b = msgp.AppendString(msgp.AppendString(b, "time"), FormatTime(c.CommittedAt))
	if member != "" {
		b = append(msgp.AppendString(b, member), c.Content...)
	}
	return b
}

// ContentOf returns the Content of a [Change] that the log has.
func ContentOf(operation string, change []byte) (content []byte, err error) {
	switch operation {
	case "delete":
		return nil, nil
	case "patch":
		if change, err = withoutTokens(change); err != nil {
			return nil, err
		}
	}
	decoder := json.NewDecoder(bytes.NewReader(change))
	decoder.UseNumber() // a float64 has too few bits
	var tree any
	if err := decoder.Decode(&tree); err != nil {
		return nil, err
	}
	return appendTree(make([]byte, 0, len(change)), tree)
}

func appendTree(b []byte, tree any) (_ []byte, err error) {
	switch v := tree.(type) {
	case nil:
		return msgp.AppendNil(b), nil
	case bool:
		return msgp.AppendBool(b, v), nil
	case string:
		return msgp.AppendString(b, v), nil
	case json.Number:
		n, err := v.Int64() // the log has no other numbers
		return msgp.AppendInt64(b, n), err
	case []any:
		b = msgp.AppendArrayHeader(b, uint32(len(v)))
		for i := 0; i < len(v) && err == nil; i++ {
			b, err = appendTree(b, v[i])
		}
		return b, err
	case map[string]any:
		b = msgp.AppendMapHeader(b, uint32(len(v)))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if b, err = appendTree(msgp.AppendString(b, key), v[key]); err != nil {
				return nil, err
			}
		}
		return b, nil
	default:
		return nil, fmt.Errorf("JSON has a %T", v)
	}
}

// ErrorReply encodes an error reply.
func ErrorReply(r *Refusal) []byte {
	b := make([]byte, 0, 80+len(r.Message))
	members := uint32(3)
	if r.RetryAfter > 0 {
		members = 4
	}
	b = msgp.AppendString(msgp.AppendMapHeader(b, members), "error")
	b = msgp.AppendString(b, string(r.Code))
	b = msgp.AppendString(msgp.AppendString(b, "message"), r.Message)
	b = msgp.AppendBool(msgp.AppendString(b, "retryable"), r.RetryAfter > 0)
	if r.RetryAfter > 0 {
		b = msgp.AppendInt64(msgp.AppendString(b, "retry_after_ms"), r.RetryAfter.Milliseconds())
	}
	return b
}

// ErrorCode returns the code of an error reply, "" for any other reply.
func ErrorCode(reply []byte) Code {
	_, rest, err := msgp.ReadMapHeaderBytes(reply)
	if err != nil {
		return ""
	}
	rest, ok := bytes.CutPrefix(rest, errorKey)
	if !ok {
		return ""
	}
	code, _, err := msgp.ReadStringZC(rest)
	if err != nil {
		return ""
	}
	return Code(code)
}

var errorKey = msgp.AppendString(nil, "error")

func userIDReply(id int64) []byte {
	b := msgp.AppendMapHeader(appendResult(make([]byte, 0, 32)), 1)
	return msgp.AppendInt64(msgp.AppendString(b, "user_id"), id)
}

func rawReply(result []byte) []byte {
	return append(appendResult(make([]byte, 0, len(result)+16)), result...)
}

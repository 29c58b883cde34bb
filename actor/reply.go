package actor

import (
	"bytes"

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

// userInReply decodes the user from a reply that UserReply has encoded.
func userInReply(reply []byte) (*User, error) { return readUser(reply[len(resultHead):]) }

var resultHead = appendResult(nil)

// PageReply encodes the reply to a list, without access tokens. users is one page;
// nextAfterID is the AfterID of the next page, 0 if this is the last page.
func PageReply(users []User, nextAfterID int64) []byte {
	b := appendResult(make([]byte, 0, 64+128*len(users)))
	if nextAfterID > 0 {
		b = msgp.AppendMapHeader(b, 2)
		b = msgp.AppendInt64(msgp.AppendString(b, "next_after_id"), nextAfterID)
	} else {
		b = msgp.AppendMapHeader(b, 1)
	}
	b = msgp.AppendArrayHeader(msgp.AppendString(b, "users"), uint32(len(users)))
	for i := range users {
		b = appendUser(b, &users[i], false)
	}
	return b
}

// ErrorReply encodes an error reply.
func ErrorReply(r *Refusal) []byte {
	b := append(make([]byte, 0, 64+len(r.Message)), errorHead...)
	b = msgp.AppendString(b, string(r.Code))
	b = msgp.AppendString(msgp.AppendString(b, "message"), r.Message)
	return msgp.AppendBool(msgp.AppendString(b, "retryable"), r.Retryable)
}

// ErrorCode returns the code of an error reply, "" for any other reply.
func ErrorCode(reply []byte) Code {
	rest, ok := bytes.CutPrefix(reply, errorHead)
	if !ok {
		return ""
	}
	code, _, err := msgp.ReadStringZC(rest)
	if err != nil {
		return ""
	}
	return Code(code)
}

var errorHead = msgp.AppendString(msgp.AppendMapHeader(nil, 3), "error")

func userIDReply(id int64) []byte {
	b := msgp.AppendMapHeader(appendResult(make([]byte, 0, 32)), 1)
	return msgp.AppendInt64(msgp.AppendString(b, "user_id"), id)
}

func rawReply(result []byte) []byte {
	return append(appendResult(make([]byte, 0, len(result)+16)), result...)
}

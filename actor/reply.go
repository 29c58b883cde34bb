package actor

import (
	"bytes"

	"github.com/tinylib/msgp/msgp"
)

// appendResult appends the head of {"result": …}; the result follows.
func appendResult(b []byte) []byte {
	return msgp.AppendString(msgp.AppendMapHeader(b, 1), "result")
}

// UserReply words the answer to a get.
func UserReply(u *User) []byte {
	return appendUser(appendResult(make([]byte, 0, 512)), u, true)
}

// userInReply returns the user whom AnswerUser has worded.
func userInReply(answer []byte) (*User, error) { return readUser(answer[len(resultHead):]) }

var resultHead = appendResult(nil)

// PageReply words the answer to a list: users is one page, and nextAfterID is
// what to ask for next, 0 if this is the last page. Access tokens are left out.
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

// ErrorReply words the answer that says no.
func ErrorReply(r *Refusal) []byte {
	b := append(make([]byte, 0, 64+len(r.Message)), refusalHead...)
	b = msgp.AppendString(b, string(r.Code))
	b = msgp.AppendString(msgp.AppendString(b, "message"), r.Message)
	return msgp.AppendBool(msgp.AppendString(b, "retryable"), r.Retryable)
}

// ErrorCode returns the code of the refusal that an answer is, "" of a result.
func ErrorCode(answer []byte) Code {
	rest, ok := bytes.CutPrefix(answer, refusalHead)
	if !ok {
		return ""
	}
	code, _, err := msgp.ReadStringZC(rest)
	if err != nil {
		return ""
	}
	return Code(code)
}

var refusalHead = msgp.AppendString(msgp.AppendMapHeader(nil, 3), "error")

func userIDReply(id int64) []byte {
	b := msgp.AppendMapHeader(appendResult(make([]byte, 0, 32)), 1)
	return msgp.AppendInt64(msgp.AppendString(b, "user_id"), id)
}

func rawReply(result []byte) []byte {
	return append(appendResult(make([]byte, 0, len(result)+16)), result...)
}

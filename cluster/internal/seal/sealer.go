// Package seal seals what instances tell each other in the headers of forwarded requests:
// the ids of new users, request ids, and callers.
package seal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"github.com/glotpod/ident/actor"
)

// A Sealer has the keys that only the instances of a cluster know. A seal proves that a
// value comes from an instance and belongs to a request with a certain body. A client
// cannot make a valid seal. The first key seals; all keys verify.
type Sealer [][]byte

const sealSize = 16 // bytes

// A label distinguishes what a seal is for, so that no seal is valid for something else. None
// begins with another one. Values with a label that belong to a body have the same size.
type label string

const (
	userLabel    label = ""
	requestLabel label = "\xffrequest" // the id of a user is positive, so it does not begin like this
	callerLabel  label = "\xffcaller"  // the value says how long it is

	// Values with these labels have any size. They belong to no body.
	askLabel     label = "\xffask"
	messageLabel label = "\xffmessage"
)

// UserID returns the reserved id of the user that the create request with this body makes,
// with a seal.
func (s Sealer) UserID(user int64, body []byte) []byte {
	return s.seal(userLabel, binary.BigEndian.AppendUint64(nil, uint64(user)), body)
}

// OpenUserID returns the id that was passed to UserID. ok is false if the seal is not
// valid for this body, or the id is not one of a user.
func (s Sealer) OpenUserID(sealed, body []byte) (user int64, ok bool) {
	value, ok := s.open(userLabel, sealed, body)
	if !ok || len(value) != 8 {
		return 0, false
	}
	user = int64(binary.BigEndian.Uint64(value))
	return user, user >= 1
}

// RequestID returns the id of the request with this body, with a seal.
func (s Sealer) RequestID(id actor.RequestID, body []byte) []byte {
	return s.seal(requestLabel, id[:], body)
}

// OpenRequestID returns the id that was passed to RequestID. ok is false if the seal is
// not valid for this body.
func (s Sealer) OpenRequestID(sealed, body []byte) (id actor.RequestID, ok bool) {
	value, ok := s.open(requestLabel, sealed, body)
	if !ok || len(value) != len(id) {
		return actor.RequestID{}, false
	}
	return actor.RequestID(value), true
}

// A Request is a request that is sealed together with its caller.
type Request struct {
	Operation, ReplyTo, CorrelationID string
	Body                              []byte
}

// Caller returns the login of the caller of a request, with a seal. The seal holds only
// for a reply to the caller's own reply queue, so a copy of the message is of no use to
// another program. The login has at most 255 bytes.
func (s Sealer) Caller(login string, r Request) []byte {
	return s.seal(callerLabel, append([]byte{byte(len(login))}, login...), r.parts()...)
}

// OpenCaller returns the login that was passed to Caller. ok is false if the seal is not valid
// for this request.
func (s Sealer) OpenCaller(sealed []byte, r Request) (login string, ok bool) {
	value, ok := s.open(callerLabel, sealed, r.parts()...)
	if !ok || len(value) == 0 || len(value) != 1+int(value[0]) {
		return "", false
	}
	return string(value[1:]), true
}

// parts returns the parts of the request, so that no two requests have the same ones when they
// are joined.
func (r Request) parts() [][]byte {
	var head []byte
	for _, text := range [...]string{r.Operation, r.ReplyTo, r.CorrelationID} {
		head = binary.AppendUvarint(head, uint64(len(text)))
		head = append(head, text...)
	}
	return [][]byte{head, r.Body}
}

// Ask returns a question of one instance to another, with a seal.
func (s Sealer) Ask(ask []byte) []byte { return s.seal(askLabel, ask) }

// OpenAsk returns what was passed to Ask. ok is false if the seal is not valid.
func (s Sealer) OpenAsk(sealed []byte) (ask []byte, ok bool) { return s.open(askLabel, sealed) }

// Message returns a message of one instance to another, with a seal.
func (s Sealer) Message(message []byte) []byte { return s.seal(messageLabel, message) }

// OpenMessage returns what was passed to Message. ok is false if the seal is not valid.
func (s Sealer) OpenMessage(sealed []byte) (message []byte, ok bool) {
	return s.open(messageLabel, sealed)
}

func (s Sealer) seal(l label, value []byte, of ...[]byte) []byte {
	return append(value[:len(value):len(value)], sealOf(s[0], l, value, of)...)
}

// open returns the value of which sealed is the sealed form.
func (s Sealer) open(l label, sealed []byte, of ...[]byte) (value []byte, ok bool) {
	n := len(sealed) - sealSize
	if n < 0 {
		return nil, false
	}
	for _, key := range s {
		if hmac.Equal(sealed[n:], sealOf(key, l, sealed[:n], of)) {
			return sealed[:n], true
		}
	}
	return nil, false
}

func sealOf(key []byte, l label, value []byte, of [][]byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(l))
	mac.Write(value)
	for _, part := range of {
		mac.Write(part)
	}
	return mac.Sum(nil)[:sealSize]
}

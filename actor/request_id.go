package actor

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
)

// A RequestID identifies a request. A request that arrives again has the same id, and
// is applied only once. The zero RequestID means that the request has none.
type RequestID [16]byte

// RequestIDOf derives a request's id from its message properties: from message_id, or
// if that is empty, from reply_to and correlation_id together. If one of these is empty
// too, the request has no id.
func RequestIDOf(messageID, replyTo, correlationID string) RequestID {
	var text []byte
	switch {
	case messageID != "":
		text = append([]byte{'m'}, messageID...)
	case replyTo != "" && correlationID != "":
		text = binary.BigEndian.AppendUint16([]byte{'r'}, uint16(len(replyTo)))
		text = append(append(text, replyTo...), correlationID...)
	default:
		return RequestID{}
	}
	sum := sha256.Sum256(text)
	return RequestID(sum[:16])
}

// NewRequestID returns an id for a request that has none.
func NewRequestID() (id RequestID) {
	rand.Read(id[:]) // never fails
	return id
}

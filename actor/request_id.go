package actor

import (
	"crypto/sha256"
	"encoding/binary"
)

// An RequestID tells one request from all others, so that it is applied once
// however often it comes. The zero RequestID is none.
type RequestID [16]byte

// RequestIDOf derives a request's identity from its properties: message_id, or
// else reply_to and correlation_id together. A request with neither has none.
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

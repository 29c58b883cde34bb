package cluster

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// userIDHeader has the reserved id of the user that a forwarded create request makes,
// sealed by a userIDSealer.
const userIDHeader = "ident-user"

// A userIDSealer has the keys that only the instances of a cluster know. A seal proves
// that an instance has reserved the id of a new user, and not the client that published
// the request. The first key seals; all keys verify.
type userIDSealer [][]byte

const sealSize = 16 // bytes

// seal returns the reserved id of the user that the create request with this body makes,
// with a seal.
func (s userIDSealer) seal(user int64, body []byte) []byte {
	sealed := binary.BigEndian.AppendUint64(make([]byte, 0, 8+sealSize), uint64(user))
	return append(sealed, sealOf(s[0], sealed, body)...)
}

// open returns the id that was passed to seal. ok is false if the seal is not valid for
// this body.
func (s userIDSealer) open(sealed, body []byte) (user int64, ok bool) {
	if len(sealed) != 8+sealSize {
		return 0, false
	}
	for _, key := range s {
		if hmac.Equal(sealed[8:], sealOf(key, sealed[:8], body)) {
			return int64(binary.BigEndian.Uint64(sealed)), true
		}
	}
	return 0, false
}

func sealOf(key, user, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(user)
	mac.Write(body)
	return mac.Sum(nil)[:sealSize]
}

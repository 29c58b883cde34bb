// Package userid seals the ids that an instance reserves for new users.
package userid

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// A Sealer has the keys that only the instances of a cluster know. A seal proves that the
// id of a new user comes from an instance. A client cannot make a valid seal. The first key
// seals; all keys verify.
type Sealer [][]byte

const sealSize = 16 // bytes

// Seal returns the reserved id of the user that the create request with this body makes,
// with a seal.
func (s Sealer) Seal(user int64, body []byte) []byte {
	sealed := binary.BigEndian.AppendUint64(make([]byte, 0, 8+sealSize), uint64(user))
	return append(sealed, sealOf(s[0], sealed, body)...)
}

// Open returns the id that was passed to Seal. ok is false if the seal is not valid for
// this body.
func (s Sealer) Open(sealed, body []byte) (user int64, ok bool) {
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

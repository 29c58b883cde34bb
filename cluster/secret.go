package cluster

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// A secret is known to the instances of a cluster alone. They show each other by
// it that the id of a new user was drawn by one of them, and not chosen by
// whoever has published the request. The first key seals, all open.
type secret [][]byte

const sealSize = 16

// sealUser returns the id of the user whom the create with this body makes.
func (s secret) sealUser(user int64, body []byte) []byte {
	sealed := binary.BigEndian.AppendUint64(make([]byte, 0, 8+sealSize), uint64(user))
	return append(sealed, seal(s[0], sealed, body)...)
}

// openUser returns the id that sealUser was given.
func (s secret) openUser(sealed, body []byte) (user int64, ok bool) {
	if len(sealed) != 8+sealSize {
		return 0, false
	}
	for _, key := range s {
		if hmac.Equal(sealed[8:], seal(key, sealed[:8], body)) {
			return int64(binary.BigEndian.Uint64(sealed)), true
		}
	}
	return 0, false
}

func seal(key, user, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(user)
	mac.Write(body)
	return mac.Sum(nil)[:sealSize]
}

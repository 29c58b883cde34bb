package config

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"strings"
)

// Key is a hidden Fernet key: 16 bytes for signing, then 16 for encryption.
type Key = Hidden[[32]byte]

// encoding converts between bytes and text.
type encoding interface {
	EncodeToString([]byte) string
	DecodeString(string) ([]byte, error)
}

var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567")

// keyEncodings are the encodings that a key may have. They are not ambiguous: 32 bytes have
// 43 or 44 characters in base64 and 52 or 56 in base32, and base64 and base64url differ
// only in characters that the other does not use. So a text means the same bytes in
// each encoding that accepts it.
var keyEncodings = []encoding{
	base64.URLEncoding, base64.RawURLEncoding,
	base64.StdEncoding, base64.RawStdEncoding,
	base32.StdEncoding, base32.StdEncoding.WithPadding(base32.NoPadding),
	lowerBase32, lowerBase32.WithPadding(base32.NoPadding),
}

// ParseKey parses a key: exactly 32 bytes in base64, base64url or base32 (all upper case or
// all lower case), padded or not. It ignores space around the text. The text must be what
// encoding the bytes would give: unused bits in the last character or a line break
// inside are errors. The error does not contain the text.
func ParseKey(text string) (Key, error) {
	text = strings.TrimSpace(text)
	for _, e := range keyEncodings {
		b, err := e.DecodeString(text)
		if err == nil && len(b) == 32 && e.EncodeToString(b) == text {
			return Hide([32]byte(b)), nil
		}
	}
	return Key{}, fmt.Errorf("must be exactly 32 bytes in base64, base64url or base32; "+
		"this text of %d bytes is not", len(text))
}

// GenerateKey returns a new random key in the usual form of Fernet keys: padded base64url.
func GenerateKey() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails: it ends the program instead.
	return base64.URLEncoding.EncodeToString(b[:])
}

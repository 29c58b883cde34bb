package config

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"strings"
)

// Key is a hidden Fernet key: 16 bytes that sign, then 16 that encrypt.
type Key = Hidden[[32]byte]

// encoding writes bytes as text and reads them back.
type encoding interface {
	EncodeToString([]byte) string
	DecodeString(string) ([]byte, error)
}

var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567")

// keyEncodings are the ways in which a key may be written. Their texts of 32
// bytes have 43 or 44 characters in base64 and 52 or 56 in base32, and base64
// and base64url differ only in characters that the other does not have. So a
// text stands for the same bytes in each encoding that it fits.
var keyEncodings = []encoding{
	base64.URLEncoding, base64.RawURLEncoding,
	base64.StdEncoding, base64.RawStdEncoding,
	base32.StdEncoding, base32.StdEncoding.WithPadding(base32.NoPadding),
	lowerBase32, lowerBase32.WithPadding(base32.NoPadding),
}

// ParseKey reads a key from its text: exactly 32 bytes in base64, base64url or
// base32 (all upper or all lower case), padded or not. Space around the text is
// cut. Only the text that encoding those bytes gives is taken: one with stray
// bits in its last character, or with a line break inside, is refused. The
// error does not contain the text.
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

// GenerateKey returns the text of a new random key, as Fernet keys are usually
// written: in base64url, padded.
func GenerateKey() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails: it ends the program instead.
	return base64.URLEncoding.EncodeToString(b[:])
}

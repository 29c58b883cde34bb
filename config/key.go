package config

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Key is a hidden Fernet key: 16 bytes for signing, then 16 for encryption.
type Key = Hidden[[keyBytes]byte]

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
// all lower case), padded or not. It ignores space around the text. It also accepts what
// Python's Fernet accepts: see decodeLikePython. The error does not contain the text.
func ParseKey(text string) (Key, error) {
	key, _, err := parseKey(text)
	return key, err
}

// parseKey is ParseKey. exact is false if only Python's decoder accepts the text: its
// encoding is not what encoding the bytes would give.
func parseKey(text string) (key Key, exact bool, err error) {
	text = strings.TrimSpace(text)
	for _, e := range keyEncodings {
		b, err := e.DecodeString(text)
		if err == nil && len(b) == keyBytes && e.EncodeToString(b) == text {
			return Hide([keyBytes]byte(b)), true, nil
		}
	}
	if b, ok := decodeLikePython(text); ok {
		return Hide([keyBytes]byte(b)), false, nil
	}
	return Key{}, false, fmt.Errorf("must be exactly 32 bytes in base64, base64url or base32; "+
		"this text of %d bytes is not", len(text))
}

// decodeLikePython decodes the keys that Python's Fernet accepts, which calls
// base64.urlsafe_b64decode. That function
//
//   - skips ASCII characters outside both alphabets, such as line breaks,
//   - accepts both alphabets in one text,
//   - ignores the unused bits of the last character, and all text after the padding.
//
// If the text after the padding is long enough to be another key, decodeLikePython
// refuses the text: it was probably meant as a list.
func decodeLikePython(text string) (key []byte, ok bool) {
	var data []byte // the characters of the alphabet so far, in base64url
	pads := 0       // since the last of them
	for i, c := range []byte(text) {
		switch {
		case c >= utf8.RuneSelf:
			return nil, false
		case c == '=':
			pads++
			if last := len(data) % 4; last >= 2 && last+pads >= 4 {
				return decodeData(data, text[i+1:])
			}
		case strings.IndexByte(base64Characters, c) >= 0:
			data, pads = append(data, c), 0
		}
	}
	return nil, false // 32 bytes need padding
}

// decodeData decodes the characters before the padding. rest is the text after it.
func decodeData(data []byte, rest string) (key []byte, ok bool) {
	others := 0
	for _, c := range []byte(rest) {
		if c >= utf8.RuneSelf {
			return nil, false
		}
		if strings.IndexByte(base64Characters, c) >= 0 {
			others++
		}
	}
	if len(data) != keyCharacters || others >= keyCharacters {
		return nil, false
	}
	key, err := base64.RawURLEncoding.DecodeString(base64url.Replace(string(data)))
	return key, err == nil
}

const (
	keyBytes      = 32
	keyCharacters = 43 // of keyBytes in base64, without padding

	// base64Characters are the alphabets of base64 and base64url together.
	base64Characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
)

var base64url = strings.NewReplacer("+", "-", "/", "_")

// GenerateKey returns a new random key in the usual form of Fernet keys: padded base64url.
func GenerateKey() string {
	var b [keyBytes]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails: it ends the program instead.
	return base64.URLEncoding.EncodeToString(b[:])
}

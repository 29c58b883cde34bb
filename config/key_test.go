package config_test

import (
	"encoding/base32"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/fernet/fernet-go"
	"pgregory.net/rapid"

	"github.com/glotpod/ident/config"
)

// encodings are the encodings of a key.
var encodings = map[string]func([]byte) string{
	"base64url":       base64.URLEncoding.EncodeToString,
	"base64url, bare": base64.RawURLEncoding.EncodeToString,
	"base64":          base64.StdEncoding.EncodeToString,
	"base64, bare":    base64.RawStdEncoding.EncodeToString,
	"base32":          base32.StdEncoding.EncodeToString,
	"base32, bare":    base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString,
	"base32, lower":   func(b []byte) string { return strings.ToLower(base32.StdEncoding.EncodeToString(b)) },
	"base32, lower, bare": func(b []byte) string {
		return strings.TrimRight(strings.ToLower(base32.StdEncoding.EncodeToString(b)), "=")
	},
	"base64 between space": func(b []byte) string { return "\n\t " + base64.StdEncoding.EncodeToString(b) + "\r\n" },
}

// A key has the same bytes in all encodings.
func TestParseKeyReadsEveryEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key")
		for name, encode := range encodings {
			key, err := config.ParseKey(encode(b))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := key.Reveal(); string(got[:]) != string(b) {
				t.Fatalf("%s: got %x", name, got)
			}
		}
	})
}

// A text that encodes another number of bytes is not a key.
func TestParseKeyRefusesOtherLengths(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 80).Filter(func(b []byte) bool { return len(b) != 32 }).Draw(t, "key")
		for name, encode := range encodings {
			if _, err := config.ParseKey(encode(b)); err == nil {
				t.Fatalf("%s: %d bytes are taken", name, len(b))
			}
		}
	})
}

func TestParseKeyRefuses(t *testing.T) {
	key := strings.Repeat("\xff\xfe", 16)
	std, b32 := base64.StdEncoding.EncodeToString([]byte(key)), base32.StdEncoding.EncodeToString([]byte(key))
	for name, text := range map[string]string{
		"empty":                    "",
		"space":                    " \n",
		"hexadecimal":              strings.Repeat("fffe", 16),
		"stray bits in base32":     b32[:51] + "B====",
		"half padded base32":       b32[:52] + "==",
		"mixed case base32":        strings.ToLower(b32[:10]) + b32[10:],
		"line break inside base32": b32[:20] + "\n" + b32[20:],
		"space inside, not padded": std[:20] + " " + std[20:43],
		"stray bits, not padded":   std[:42] + "5",
		"mixed, not padded":        "-+" + std[2:43],
		"padding inside":           std[:14] + "==" + std[14:],
		"33 bytes":                 std[:10] + "A" + std[10:],
		"31 bytes":                 std[:10] + std[12:],
		"two keys":                 std + "," + std,
		"two keys, not padded":     std + "," + std[:43],
		"two keys on lines":        std + "\n" + std,
		"three keys":               std + " " + std + " " + std,
		"letters beyond ASCII":     strings.Repeat("ſ", 26),
		"a letter beyond ASCII":    std[:20] + "é" + std[20:],
		"beyond ASCII behind it":   std + " é",
		"not UTF-8":                std[:43] + "\xff",
		"base32 of the alphabet":   "0189" + b32[4:],
	} {
		t.Run(name, func(t *testing.T) {
			if key, err := config.ParseKey(text); err == nil {
				t.Errorf("%q is taken as %x", text, key.Reveal())
			} else if len(text) > 8 && strings.Contains(err.Error(), text[:8]) {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

func TestGenerateKey(t *testing.T) {
	text := config.GenerateKey()
	if text == config.GenerateKey() {
		t.Fatal("the same key twice")
	}
	key, err := config.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	other, err := fernet.DecodeKey(text)
	if err != nil {
		t.Fatal(err)
	}
	if key.Reveal() != *other {
		t.Error("Fernet reads it as another key")
	}
}

package config_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/glotpod/ident/config"
)

// aKey has the characters 62 and 63 of base64, which differ between the alphabets.
var aKey = []byte("\xfb\xef\xbe\xff\xff\xff" + "abcdefghijklmnopqrstuvwxyz")

// pythonKeys returns texts of a key that Python's Fernet accepts although they are not
// exact base64.
func pythonKeys(key []byte) map[string]string {
	text := base64.StdEncoding.EncodeToString(key)
	return map[string]string{
		"stray_bits":              text[:42] + strayBits(text[42]) + "=",
		"padded_twice":            text + "=",
		"padded_five_times":       text + "====",
		"mixed_alphabets":         strings.Replace(strings.Replace(text, "+", "-", 1), "/", "_", 1),
		"space_inside":            text[:20] + "  " + text[20:],
		"line_break_inside":       text[:20] + "\n" + text[20:],
		"CRLF_inside":             text[:20] + "\r\n\t" + text[20:],
		"space_before_padding":    text[:43] + " =",
		"other_characters_inside": `"` + text[:5] + ",." + text[5:] + `"`,
		"padding_sign_inside":     text[:16] + "=" + text[16:],
		"comment":                 text + " # production",
		"text_behind_the_padding": text + "AAAA",
	}
}

// strayBits returns a character that has the same meaning as c at the end of a key. The
// last character of a key has two unused bits.
func strayBits(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	i := strings.IndexByte(alphabet, c) + 1
	return alphabet[i : i+1]
}

const inexact = "database.encryption_key: the key is not exact base64; it is read as Python's Fernet reads it"

func TestKeysOfPython(t *testing.T) {
	for name, text := range pythonKeys(aKey) {
		t.Run(name, func(t *testing.T) {
			key, err := config.ParseKey(text)
			if got := key.Reveal(); err != nil || !bytes.Equal(got[:], aKey) {
				t.Errorf("%q is %x, %v", text, got, err)
			}
			c := mustLoad(t, "[database]\nencryption_key = '''"+text+"'''")
			wantKeys(t, c, text)
			wantWarning(t, c, ": "+inexact)
		})
	}
	t.Run("as_python3_reads_them", testKeysAsPythonReadsThem)
	t.Run("broken_over_two_lines", testBrokenKeys)
	t.Run("in_a_list", testPythonKeysInLists)
	t.Run("exact_keys_without_warning", testExactKeysWithoutWarning)
}

// wantWarning checks that the settings have one warning, with that end.
func wantWarning(t *testing.T, c *config.Config, want string) {
	t.Helper()
	if len(c.Warnings) != 1 || !strings.HasSuffix(c.Warnings[0].Error(), want) {
		t.Errorf("warnings %v\nwant one with %s", c.Warnings, want)
	}
}

// loadKeyFile loads settings with a file for the key.
func loadKeyFile(t *testing.T, content string) (*config.Config, error) {
	return loadFile(t, "database.encryption_key_file = '"+write(t, content)+"'")
}

func testBrokenKeys(t *testing.T) {
	key := base64.URLEncoding.EncodeToString(aKey)
	c, err := loadKeyFile(t, "\ufeff"+key[:20]+"\n"+key[20:]+"\r\n")
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, c, key)
	wantWarning(t, c, inexact)

	const variable = "GLOTPOD_IDENT__DATABASE__ENCRYPTION_KEY"
	for _, inside := range []string{"\n", ","} {
		c = mustLoad(t, "", variable+"="+key[:20]+inside+key[20:])
		wantKeys(t, c, key)
		wantWarning(t, c, variable+": "+inexact)
	}
}

func testPythonKeysInLists(t *testing.T) {
	one, two := config.GenerateKey(), base64.URLEncoding.EncodeToString(aKey)
	c, err := loadKeyFile(t, one+" # new\n"+one+"\n"+two+"= # old\n")
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, c, one, one, two)
	wantWarning(t, c, "database.encryption_key: key 1, 3 of 3 is not exact base64; it is read as Python's Fernet reads it")

	// A list with a typing error is not read as one key with text behind it.
	for _, content := range []string{one + "\n" + two[:30], two[:30] + "\n" + one, one + "\n\n" + one, two[:20] + "\n" + two[20:] + "\n" + one} {
		if c, err := loadKeyFile(t, content); err == nil {
			t.Errorf("%q gives %d keys", content, len(c.Database.EncryptionKeys))
		}
	}
}

func testExactKeysWithoutWarning(t *testing.T) {
	for name, encode := range encodings {
		c := mustLoad(t, "[database]\nencryption_key = ['''"+encode(aKey)+"''', '"+keyText+"']")
		if c.Warnings != nil {
			t.Errorf("%s: %v", name, c.Warnings)
		}
	}
}

// pythonScript reads keys as Fernet does, from a list of texts. It prints null for a text
// that is no key. It prints nothing if this Python reads on after the padding.
const pythonScript = `
import base64, json, sys
def key(text):
    try:
        key = base64.urlsafe_b64decode(text)
    except ValueError:
        return None
    return key.hex() if len(key) == 32 else None
if base64.b64decode("QQ==QQ==") == b"A":
    json.dump([key(text) for text in json.load(sys.stdin)], sys.stdout)
`

// testKeysAsPythonReadsThem compares with Python itself: ParseKey accepts a text that is
// not exact if and only if Python does, and both read the same key.
func testKeysAsPythonReadsThem(t *testing.T) {
	texts := keysToCompare()
	want := readByPython(t, texts)
	taken := 0
	for i, text := range texts {
		key, err := config.ParseKey(text)
		b := key.Reveal()
		switch {
		case want[i] != nil:
			taken++
			if err != nil || hex.EncodeToString(b[:]) != *want[i] {
				t.Errorf("%q is %x, %v; Python reads %s", text, b, err, *want[i])
			}
		case err == nil && !isExact(text, b[:]):
			t.Errorf("%q is %x; Python refuses it", text, b)
		}
	}
	if taken < len(texts)/10 || taken > len(texts)*9/10 {
		t.Errorf("Python accepts %d of %d texts, so one side is hardly tested", taken, len(texts))
	}
}

// readByPython returns the keys in hexadecimal, nil for a text that is no key.
func readByPython(t *testing.T, texts []string) (keys []*string) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("needs python3")
	}
	input, err := json.Marshal(texts)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(python, "-c", pythonScript)
	command.Stdin = bytes.NewReader(input)
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	if len(output) == 0 {
		t.Skip("needs a Python that ignores the text after the padding")
	}
	if err := json.Unmarshal(output, &keys); err != nil || len(keys) != len(texts) {
		t.Fatalf("%d of %d texts: %v", len(keys), len(texts), err)
	}
	return keys
}

// keysToCompare returns texts of 30 to 34 bytes with random changes, mostly at the end.
func keysToCompare() []string {
	var texts []string
	for _, text := range pythonKeys(aKey) {
		texts = append(texts, text)
	}
	random := rand.New(rand.NewPCG(1, 2))
	parts := []string{"=", "==", " ", "\n", "\r\n", "-", "_", "+", "/", "A", "z", ",", "#", "é", "\x7f", "\ufeff", "old"}
	for range 5000 {
		key := make([]byte, 30+random.IntN(5))
		for i := range key {
			key[i] = byte(random.Uint32())
		}
		text := []byte(base64.URLEncoding.EncodeToString(key))
		for range random.IntN(4) {
			at := random.IntN(len(text) + 1)
			if random.IntN(3) > 0 {
				at = len(text) - random.IntN(4)
			}
			end := min(at+random.IntN(2), len(text))
			text = slices.Replace(text, at, end, []byte(parts[random.IntN(len(parts))])...)
		}
		texts = append(texts, strings.ToValidUTF8(string(text), "?"))
	}
	return texts
}

// isExact reports whether one of the encodings gives the text for the bytes.
func isExact(text string, b []byte) bool {
	for _, encode := range encodings {
		if strings.TrimSpace(encode(b)) == strings.TrimSpace(text) {
			return true
		}
	}
	return false
}

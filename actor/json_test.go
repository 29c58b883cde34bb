package actor

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestEncodeJSON(t *testing.T) {
	t.Run("escapes_only_what_JSON_requires", func(t *testing.T) {
		for text, want := range map[string]string{
			"<a&b>":                           `"<a&b>"`,
			"\u2028\u2029":                    "\"\u2028\u2029\"",
			"\u202a é 🦊":                      "\"\u202a é 🦊\"",
			`\u2028`:                          `"\\u2028"`,
			"\\\u2028\\\\u2029\\\\\u2029":     "\"\\\\\u2028\\\\\\\\u2029\\\\\\\\\u2029\"",
			"\" \\ / \n \x00 \x1f \x7f \n":    `"\" \\ / \n \u0000 \u001f ` + "\x7f" + ` \n"`,
			"\u2028\n<\u2028\t>\\u003c\u2029": "\"\u2028\\n<\u2028\\t>\\\\u003c\u2029\"",
		} {
			if got := encodeJSON(text); string(got) != want {
				t.Errorf("%q: %s, want %s", text, got, want)
			}
		}
	})
	t.Run("same_value", func(t *testing.T) {
		part := rapid.SampledFrom([]string{`\`, `\u2028`, "\u2028", "\u2029", "<", "&", `"`, "u2029", "\n", "é", "\x01"})
		rapid.Check(t, func(t *rapid.T) {
			v := map[string]any{"a": strings.Join(rapid.SliceOf(part).Draw(t, "text"), ""), "b": []any{rapid.String().Draw(t, "any text")}}
			var got any
			b := encodeJSON(v)
			if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got, any(v)) {
				t.Fatalf("%s is %v, want %v: %v", b, got, v, err)
			}
			if bytes.Contains(b, []byte("\n")) {
				t.Fatalf("a line break in %s", b)
			}
		})
	})
}

// A notification and an audit entry have a character of a name as itself.
func TestNotificationWithoutHTMLEscapes(t *testing.T) {
	u := &User{ID: 1, Name: "<&>", Email: "e", GitHub: &Account{ID: 7}}
	renamed := &User{ID: 1, Name: "\u2028", Email: "e", GitHub: &Account{ID: 7}}
	for want, body := range map[string][]byte{
		`{"email":"e","github":{"id":7},"id":1,"name":"<&>"}`:                                    createNotification(u, false).Body,
		"{\"ops\":[{\"op\":\"replace\",\"path\":\"/name\",\"value\":\"\u2028\"}],\"user_id\":1}": patchNotification(u, renamed, false).Body,
		`[{"op":"replace","path":"/name","value":"<&>"}]`:                                        Changes(renamed, u),
	} {
		if string(body) != want {
			t.Errorf("%s, want %s", body, want)
		}
	}
}

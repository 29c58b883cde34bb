package actor

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"
	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor/jsonpatch"
	"github.com/glotpod/ident/cluster/partition"
)

// TestMessageID: only a repetition of a notification has its message id, also if a position was
// given again for another change.
func TestMessageID(t *testing.T) {
	at := time.Date(2026, 11, 29, 12, 0, 0, 7000, time.UTC)
	sent := PendingNotification{UserID: 5, Sequence: 3, Lease: partition.Lease{Partition: 2, Epoch: 4}, Position: 9, CommittedAt: at, TraceState: "a=b"}
	stored := PendingNotification{UserID: 5, Sequence: 3, Lease: partition.Lease{Partition: 2}, Position: 9, CommittedAt: at.In(time.FixedZone("", 3600))}
	if sent.MessageID() != stored.MessageID() {
		t.Error("read from the log, the notification has another id")
	}
	for name, change := range map[string]func(n *PendingNotification){
		"partition": func(n *PendingNotification) { n.Lease.Partition++ },
		"position":  func(n *PendingNotification) { n.Position++ },
		"time":      func(n *PendingNotification) { n.CommittedAt = at.Add(time.Microsecond) },
	} {
		other := sent
		if change(&other); other.MessageID() == sent.MessageID() {
			t.Errorf("a notification with another %s has the same id", name)
		}
	}
}

func TestDecisionChange(t *testing.T) {
	picture := "p"
	full := func() *User {
		return &User{ID: 1, Name: "Ada", Email: "e", PictureURL: &picture,
			GitHub: &Account{ID: 7, AccessToken: "s3cret-1"}, Facebook: &Account{ID: 8, AccessToken: "s3cret-2"}}
	}
	change := func(f func(u *User)) *User {
		u := full()
		f(u)
		return u
	}
	for _, c := range []struct {
		before, after *User
		want          string
	}{
		{nil, full(), `{"email":"e","facebook":{"id":8},"github":{"id":7},"id":1,"name":"Ada","picture_url":"p"}`},
		{full(), nil, ``},
		{full(), full(), `[]`},
		{full(), change(func(u *User) { u.Name, u.Email, u.PictureURL = "", "f", nil }),
			`[{"op":"replace","path":"/name","value":""},{"op":"replace","path":"/email","value":"f"},{"op":"remove","path":"/picture_url"}]`},
		{full(), change(func(u *User) { u.GitHub.AccessToken = "s3cret-3" }), `[{"op":"replace","path":"/github/access_token"}]`},
		{full(), change(func(u *User) { u.GitHub, u.Facebook = nil, &Account{ID: 9, AccessToken: "s3cret-4"} }),
			`[{"op":"remove","path":"/github"},{"op":"replace","path":"/facebook/id","value":9},{"op":"replace","path":"/facebook/access_token"}]`},
		{change(func(u *User) { u.GitHub = nil }), full(), `[{"op":"add","path":"/github","value":{"id":7}}]`},
	} {
		for _, tokens := range []bool{false, true} {
			_, d := decide(t, c.before, c.after, tokens)
			if got := string(d.Change); got != c.want || strings.Contains(got, "s3cret") {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		}
	}
}

// decide returns the operation that makes one state of a user of another, and the decision
// on it. A nil user does not exist.
func decide(t testing.TB, before, after *User, tokens bool) (operation string, d Decision) {
	t.Helper()
	w := &Write{Operation: "delete"}
	switch {
	case before == nil:
		w = &Write{Operation: "create", UserID: after.ID, user: *after}
	case after != nil:
		ops := []any{map[string]any{"op": "replace", "path": "", "value": after.tree(true)}}
		patch, err := jsonpatch.Parse(ops)
		if err != nil {
			t.Fatal(err)
		}
		w = &Write{Operation: "patch", patch: patch}
	}
	if d = w.Decide(before, tokens); d.Refusal != nil {
		t.Fatal(d.Refusal)
	}
	return w.Operation, d
}

// TestNotificationOf: the log has what a notification without access tokens needs.
func TestNotificationOf(t *testing.T) {
	t.Run("same_as_decided", func(t *testing.T) {
		awkward := rapid.SampledFrom([]string{"", "/access_token", `"path":"/github/access_token"}`, "\u2028", "<&>", "🦊"})
		rapid.Check(t, func(r *rapid.T) {
			before, after := drawValidUser(r, awkward, "before"), drawValidUser(r, awkward, "after")
			switch rapid.IntRange(0, 9).Draw(r, "operation") {
			case 0:
				before = nil
			case 1:
				after = nil
			}
			operation, d := decide(t, before, after, false)
			_, withTokens := decide(t, before, after, true)
			got, err := NotificationOf(operation, 1, d.Change)
			if err != nil || !reflect.DeepEqual(got, d.Notification) {
				r.Fatalf("%+v, want %+v: %v", got, d.Notification, err)
			}
			if !bytes.Equal(withTokens.Change, d.Change) || withTokens.Notification.RoutingKey != got.RoutingKey {
				r.Fatalf("with access tokens %s, without %s", withTokens.Change, d.Change)
			}
			if bytes.Contains(d.Change, []byte("s3cret")) || bytes.Contains(got.Body, []byte("s3cret")) {
				r.Fatalf("a token in %s or %s", d.Change, got.Body)
			}
		})
	})
	t.Run("unreadable", func(t *testing.T) {
		for operation, change := range map[string]string{"get": "", "patch": `[{"path":"/access_token"`} {
			if n, err := NotificationOf(operation, 1, []byte(change)); err == nil {
				t.Errorf("%s of %s is %+v", operation, change, n)
			}
		}
	})
}

// drawValidUser draws a user that has a service.
func drawValidUser(t *rapid.T, names *rapid.Generator[string], label string) *User {
	u := drawUser(t, label)
	u.Name = names.Draw(t, label+" name")
	if u.GitHub == nil && u.Facebook == nil {
		u.Facebook = &Account{ID: 4, AccessToken: "s3cret-c"}
	}
	return u
}

func TestPatchNotification(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := drawUser(t, "before"), drawUser(t, "after")
		tokens := rapid.Bool().Draw(t, "tokens")
		_, n := patchNotification(before, after, tokens)
		if !tokens && strings.Contains(string(n.Body), "s3cret") {
			t.Fatalf("a token in %s", n.Body)
		}
		var body struct {
			UserID int64 `json:"user_id"`
			Ops    []any `json:"ops"`
		}
		if err := json.Unmarshal(n.Body, &body); err != nil || body.UserID != 1 || body.Ops == nil {
			t.Fatalf("%s: %v", n.Body, err)
		}
		patch, err := jsonpatch.Parse(body.Ops)
		if err != nil {
			t.Fatal(err)
		}
		got, err := patch.Apply(viaJSON(t, before.tree(tokens)), jsonpatch.DefaultLimit)
		if want := viaJSON(t, after.tree(tokens)); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s makes %v, want %v: %v", n.Body, got, want, err)
		}
	})
}

func viaJSON(t *rapid.T, v any) (tree any) {
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &tree)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

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

// A notification and the log have a character of a name as itself.
func TestNotificationWithoutHTMLEscapes(t *testing.T) {
	u := &User{ID: 1, Name: "<&>", Email: "e", GitHub: &Account{ID: 7}}
	renamed := &User{ID: 1, Name: "\u2028", Email: "e", GitHub: &Account{ID: 7}}
	_, created := createNotification(u, false)
	_, patched := patchNotification(u, renamed, false)
	change, _ := patchNotification(renamed, u, false)
	for want, body := range map[string][]byte{
		`{"email":"e","github":{"id":7},"id":1,"name":"<&>"}`:                                    created.Body,
		"{\"ops\":[{\"op\":\"replace\",\"path\":\"/name\",\"value\":\"\u2028\"}],\"user_id\":1}": patched.Body,
		`[{"op":"replace","path":"/name","value":"<&>"}]`:                                        change,
	} {
		if string(body) != want {
			t.Errorf("%s, want %s", body, want)
		}
	}
}

// A subscriber that applies all changes since a position to a snapshot of any later time,
// as PROTOCOL.md says, gets the user, also if the snapshot has some of the changes already.
func TestChangesAppliedTwice(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		states := []*User{drawUser(r, "first")}
		var patches [][]any
		for range rapid.IntRange(1, 6).Draw(r, "changes") {
			before, after := states[len(states)-1], drawUser(r, "next")
			content, err := ContentOf("patch", encodeJSON(appendTokensReplaced(diff(before, after, false), before, after)))
			if err != nil {
				r.Fatal(err)
			}
			ops, _, err := msgp.ReadIntfBytes(content)
			if err != nil {
				r.Fatal(err)
			}
			states, patches = append(states, after), append(patches, ops.([]any))
		}
		snapshot := rapid.IntRange(0, len(patches)).Draw(r, "snapshot")
		position := rapid.IntRange(0, snapshot).Draw(r, "position")
		user := states[snapshot].tree(false)
		for _, ops := range patches[position:] {
			for _, op := range ops {
				applyAnyhow(user, op.(map[string]any))
			}
		}
		if want := states[len(patches)].tree(false); !reflect.DeepEqual(user, want) {
			r.Fatalf("the user is %v, want %v", user, want)
		}
	})
}

// applyAnyhow sets or removes what is at the path of an operation, whatever is there.
func applyAnyhow(user map[string]any, op map[string]any) {
	path := strings.Split(op["path"].(string), "/")[1:]
	for ; len(path) > 1; path = path[1:] {
		if user[path[0]] == nil {
			user[path[0]] = map[string]any{}
		}
		user = user[path[0]].(map[string]any)
	}
	if op["op"] == "remove" {
		delete(user, path[0])
	} else {
		user[path[0]] = op["value"]
	}
}

package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/glotpod/ident/store/archive"
)

const header = `{"format":"glotpod.ident users","version":1,"tokens":"sealed"}` + "\n"

// read reads everything. It returns the users and the errors, in order.
func read(r io.Reader, longest int) (users []archive.User, wrong []string) {
	a := archive.NewReader(r, archive.Limits{Line: longest, Field: 5000})
	for {
		u, err := a.Next()
		var line *archive.LineError
		switch {
		case errors.As(err, &line):
			wrong = append(wrong, err.Error())
		case errors.Is(err, io.EOF):
			return users, wrong
		case err != nil:
			return users, append(wrong, err.Error())
		default:
			users = append(users, *u)
		}
	}
}

func someUsers() []archive.User {
	picture := "https://example.org/<a>&b"
	return []archive.User{
		{ID: 1, Name: "Ada", Email: "ada@example.org", GitHub: &archive.Account{ID: 7, Token: "t1"}},
		{ID: 3, Name: "", Email: "", PictureURL: &picture, Facebook: &archive.Account{ID: -1, Token: "t2"}, Sequence: 7},
		{ID: 1<<63 - 1, Name: "\u2028 \" \\ \n\x01 é 🙂", Email: "x", GitHub: &archive.Account{ID: 1<<63 - 1, Token: "t3"}, Facebook: &archive.Account{ID: 0, Token: "t4"}},
	}
}

func TestArchive(t *testing.T) {
	t.Run("round_trip", testArchiveRoundTrip)
	t.Run("bad_line_is_reported_and_skipped", testArchiveBadLineIsReportedAndSkipped)
	t.Run("escapes", testArchiveEscapes)
	t.Run("memory_is_bounded", testArchiveMemoryIsBounded)
	t.Run("incomplete_file_is_reported", testArchiveIncompleteFileIsReported)
	t.Run("interrupted_export_continues", testArchiveInterruptedExportContinues)
	t.Run("continues_after_an_invalid_user", testArchiveContinuesAfterAnInvalidUser)
}

func testArchiveRoundTrip(t *testing.T) {
	for _, tokens := range []archive.Tokens{archive.Sealed, archive.Omit} {
		users := someUsers()
		for i := range users {
			for _, a := range []*archive.Account{users[i].GitHub, users[i].Facebook} {
				if a != nil && tokens == archive.Omit {
					a.Token = ""
				}
			}
		}
		var b bytes.Buffer
		w, err := archive.NewWriter(&b, archive.Header{Tokens: tokens})
		for i := range users {
			err = errors.Join(err, w.Add(&users[i]))
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		got, wrong := read(strings.NewReader("\n"+b.String()+"\r\n"+b.String()), 1000) // two archives
		if want := append(users, users...); !reflect.DeepEqual(got, want) || wrong != nil {
			t.Errorf("%s: got %+v, %q", tokens, got, wrong)
		}
		if n := strings.Count(b.String(), "\n"); n != len(users)+2 {
			t.Errorf("%d lines:\n%s", n, b.String())
		}
	}
}

func testArchiveBadLineIsReportedAndSkipped(t *testing.T) {
	const good = `{"id":5,"name":"s3cret","email":"e","github":{"id":1,"access_token":"s3cret"}}`
	for line, reason := range map[string]string{
		`{`:                                                 "not JSON",
		`s3cret`:                                            "not JSON",
		`[]`:                                                "not a JSON object",
		`null`:                                              "not a JSON object",
		good[:len(good)-1]:                                  "not JSON, or cut off",
		good + ` {}`:                                        "something follows",
		strings.Replace(good, "5", "0", 1):                  "id is not",
		strings.Replace(good, "5", "1.5", 1):                "id is of the wrong type",
		strings.Replace(good, "5", `"5"`, 1):                "id is of the wrong type",
		strings.Replace(good, "5", "null", 1):               "id is not",
		strings.Replace(good, "5", "1e99", 1):               "id is of the wrong type",
		strings.Replace(good, "5", "3e9", 1):                "id is of the wrong type",
		strings.Replace(good, "5", "-5", 1):                 "id is not",
		strings.Replace(good, `"e"`, "1", 1):                "email is of the wrong type",
		strings.Replace(good, "name", "nam", 1):             "a user has no field but",
		strings.Replace(good, "name", "NAME", 1):            "a user has no field but",
		strings.Replace(good, "github", "GitHub", 1):        "a user has no field but",
		strings.Replace(good, "acce", "Acce", 1):            "a user has no field but",
		strings.Replace(good, "id", `i\u0044`, 1):           "a user has no field but",
		strings.Replace(good, "{", `{"id":4,`, 1):           "each once",
		strings.Replace(good, `"id":1`, `"id":1,"id":2`, 1): "each once",
		strings.Replace(good, `"email":`, `"na\u006de":"n","email":`, 1):                     "each once",
		strings.Replace(good, `"e"`, `"\ud800"`, 1):                                          "half of a surrogate pair",
		strings.Replace(good, `"e"`, `"\uDC00\uD83D"`, 1):                                    "half of a surrogate pair",
		strings.Replace(good, `"e"`, `"\ud83d\ud83d\ude42"`, 1):                              "half of a surrogate pair",
		strings.Replace(good, `"e"`, `"\ud800`, 1):                                           "cut off",
		strings.Replace(good, "1", "9223372036854775808", 1):                                 "github.id is of the wrong type",
		strings.Replace(good, "5", `{"s3cret":1}`, 1):                                        "id is of the wrong type",
		strings.Replace(good, "1", `[{"s3cret":1}]`, 1):                                      "github.id is of the wrong type",
		strings.Replace(good, `{"id":1`, `[{"id":1`, 1):                                      "github is of the wrong type",
		strings.Replace(good, `"name":"s3cret",`, "", 1):                                     "name is missing",
		strings.Replace(good, `"email":"e",`, "", 1):                                         "email is missing",
		strings.Replace(good, `"e"`, `"a\u0000b"`, 1):                                        "NUL",
		strings.Replace(good, `"e"`, `"`+strings.Repeat("e", 2601)+`"`, 1):                   "email is longer than 2600 bytes",
		strings.Replace(good, `"e"`, `"`+strings.Repeat("e", 20_000)+`"`, 1):                 "longer than 10000 bytes",
		strings.Replace(good, `"s3cret"`, `"`+strings.Repeat("n", 5001)+`"`, 1):              "name is longer than 5000 bytes",
		strings.Replace(good, `"s3cret"}`, `"`+strings.Repeat("t", 6769)+`"}`, 1):            "the access_token of github is longer than 5000 bytes",
		strings.Replace(good, `"e"`, `"e","picture_url":"`+strings.Repeat("p", 5001)+`"`, 1): "picture_url is longer than 5000 bytes",
		strings.Replace(good, `"e"`, "\"\xff\"", 1):                                          "not UTF-8",
		strings.Replace(good, `"id":1,`, "", 1):                                              "github.id is not",
		strings.Replace(good, `"access_token"`, `"token"`, 1):                                "a user has no field but",
		strings.Replace(good, `,"access_token":"s3cret"`, ``, 1):                             "github has no access_token",
		strings.Replace(good, `,"github":{"id":1,"access_token":"s3cret"}`, ``, 1):           "a user must have github or facebook or both",
		strings.Repeat(`{"github":`, 900) + `1` + strings.Repeat(`}`, 900):                   "a user has no field but",
		strings.Repeat(`[`, 9000):                                                            "not",
		header[:len(header)-1]:                                                               "a user has no field but",
		strings.Replace(good, "5", `5,"sequence":-1`, 1):                                     "sequence is not",
		strings.Replace(good, "5", `5,"sequence":9007199254740993`, 1):                       "sequence is not",
		strings.Replace(good, "5", `5,"sequence":1.5`, 1):                                    "sequence is of the wrong type",
		`{"end":true,"users":1,"more":1}`:                                                    "a user has no field but",
		`{"end":false,"users":1}`:                                                            "a user has no field but",
	} {
		for _, newline := range []string{"\n", "\r\n"} {
			text := header + line + newline + good + newline + `{"end":true,"users":2}`
			users, wrong := read(strings.NewReader(text), 10_000)
			if len(users) != 1 || users[0].ID != 5 || len(wrong) != 1 {
				t.Errorf("%.100s: %d users, %q", line, len(users), wrong)
				continue
			}
			if !strings.HasPrefix(wrong[0], "line 2: ") || strings.Contains(wrong[0], "s3cret") {
				t.Errorf("%.100s: %s", line, wrong[0])
			}
			if !strings.Contains(wrong[0], reason) {
				t.Errorf("%.100s: %s, want %s", line, wrong[0], reason)
			}
		}
	}
}

func testArchiveEscapes(t *testing.T) {
	const user = `{"id":5,"n\u0061me":"\ud83d\uDE42\\ud800\ufffd","email":"e","github":{"id":9007199254740993,"access_token":"t"}}`
	users, wrong := read(strings.NewReader(header+user+"\n"+`{"end":true,"users":1}`), 1000)
	if len(wrong) > 0 || users[0].Name != `🙂\ud800`+"\ufffd" || users[0].GitHub.ID != 9007199254740993 {
		t.Errorf("%+v, %q", users, wrong)
	}
}

func testArchiveMemoryIsBounded(t *testing.T) {
	var names strings.Builder
	for n := 0; names.Len() < 4<<20; n++ {
		fmt.Fprintf(&names, `"%x":0,`, n)
	}
	object := "{" + names.String() + `"":0}`
	for _, line := range []string{
		`{"id":` + object + `}`,
		`{"github":{"id":[` + object + `]}}`,
		`{"github":[` + object + `]}`,
		`{"more":` + object + `}`,
		object,
		`{"name":"\ud800","github":` + object + `}`,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, wrong := read(strings.NewReader(header+line), 8<<20)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 32<<20 || len(wrong) == 0 {
			t.Errorf("%.30s… took %d bytes: %q", line, took, wrong)
		}
	}
}

func testArchiveIncompleteFileIsReported(t *testing.T) {
	const user = `{"id":5,"name":"n","email":"e","github":{"id":1,"access_token":"t"}}` + "\n"
	whole := header + user + user + `{"end":true,"users":2}` + "\n"
	for at := range len(whole) - 1 { // without the last newline
		if _, wrong := read(strings.NewReader(whole[:at]), 1000); len(wrong) == 0 {
			t.Errorf("no error for a file that ends like this:\n%s", whole[:at])
		}
	}
	for text, reason := range map[string]string{
		"":                                       "the file is empty",
		header + user + `{"end":true,"users":2}`: "line 3: the file has 1 users and should have 2",
		header + "x\n" + `{"end":true,"users":0}`: "should have 0",
		whole + user:              "line 5: this is not what",
		user:                      "line 1: this is not what",
		"\x1f\x8b gzip":           "this is not what",
		strings.Repeat("x", 5000): "this is not what",
		`{"format":"other","version":1,"tokens":"sealed"}`:                       "this is not what",
		strings.Replace(whole, `"version":1`, `"version":2`, 1):                  "has version 2",
		strings.Replace(whole, `sealed`, `clear`, 1):                             "does not say whether",
		strings.Replace(whole, `"sealed"`, `"sealed","last_id":-1`, 1):           "last_id is no user id",
		strings.Replace(whole, `sealed`, `omit`, 1):                              "though the first line says",
		strings.Replace(whole, `"tokens":"sealed"`, `"more":"what is this?"`, 1): "this is not what",
	} {
		_, wrong := read(strings.NewReader(text), 1000)
		if !strings.Contains(strings.Join(wrong, "\n"), reason) {
			t.Errorf("%.80s: %q, want %s", text, wrong, reason)
		}
	}
}

func testArchiveInterruptedExportContinues(t *testing.T) {
	users := someUsers()
	for _, after := range []int64{0, 41} {
		var b bytes.Buffer
		w, err := archive.NewWriter(&b, archive.Header{Tokens: archive.Sealed, LastID: 7, AfterID: after})
		for i := range users {
			err = errors.Join(err, w.Add(&users[i]))
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		whole := b.String()
		for at := range len(whole) + 1 {
			p, err := archive.Inspect(strings.NewReader(whole[:at]))
			if err != nil {
				t.Fatalf("%q: %v", whole[:at], err)
			}
			lines := strings.Count(whole[:at], "\n")
			have := max(0, min(lines-1, len(users)))
			last := after
			if have > 0 {
				last = users[have-1].ID
			}
			if lines == 0 {
				last = 0
			}
			if p.Ended != (at == len(whole)) || p.Users != int64(have) || !p.Ended && p.LastID != last || p.Size != int64(strings.LastIndex(whole[:at], "\n")+1) {
				t.Fatalf("%q: %+v", whole[:at], p)
			}
			if p.Ended || p.Size == 0 {
				continue
			}
			rest := bytes.NewBufferString(whole[:p.Size])
			w := archive.Continue(rest, p.Users)
			for i := have; i < len(users); i++ {
				w.Add(&users[i])
			}
			if w.Close(); rest.String() != whole {
				t.Fatalf("continued from %q:\n%s", whole[:at], rest)
			}
		}
	}
	for _, text := range []string{"\n", "x\n", header + "x\n", header + "{\"end\":true,\"users\":3}\n"} {
		if p, err := archive.Inspect(strings.NewReader(text)); err == nil {
			t.Errorf("%q: %+v", text, p)
		}
	}
}

func testArchiveContinuesAfterAnInvalidUser(t *testing.T) {
	for _, u := range []archive.User{{ID: 5}, {ID: 5, GitHub: &archive.Account{ID: 1}}} {
		var b bytes.Buffer
		w, err := archive.NewWriter(&b, archive.Header{Tokens: archive.Sealed})
		if err := errors.Join(err, w.Add(&u), w.Flush()); err != nil {
			t.Fatal(err)
		}
		if p, err := archive.Inspect(&b); err != nil || p.LastID != 5 || p.Users != 1 {
			t.Errorf("%+v, %v", p, err)
		}
	}
}

// The reader ends for any input, and returns each line once.
func FuzzReader(f *testing.F) {
	f.Add([]byte(header + `{"id":5,"name":"n","email":"e","picture_url":null,"github":{"id":1,"access_token":"t"}}` + "\n" + `{"end":true,"users":1}`))
	f.Add([]byte(header + `{"end":true,"users":0}` + "\n\n" + header + "x"))
	f.Add([]byte(header + strings.Repeat("[", 300)))
	f.Add([]byte(header + `{"id":5,"ID":6,"name":"\ud800","name":"","github":{"id":[{}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := archive.NewReader(bytes.NewReader(text), archive.Limits{Line: 200, Field: 100})
		seen := make(map[string]bool)
		for {
			u, err := r.Next()
			var line *archive.LineError
			if err != nil && !errors.As(err, &line) {
				return
			}
			if err == nil && (u.ID < 1 || u.GitHub == nil && u.Facebook == nil) {
				t.Fatalf("not a user: %+v", u)
			}
			at := fmt.Sprint(r.Line())
			if seen[at] || r.Line() > int64(bytes.Count(text, []byte("\n")))+1 {
				t.Fatalf("line %s is read again or does not exist", at)
			}
			seen[at] = true
		}
	})
}

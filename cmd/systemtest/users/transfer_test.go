package users

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// runOn runs a command of the program with the settings of a site.
func runOn(t *testing.T, s *harness.Site, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return harness.Run(t, s.Settings.Environ(), args...)
}

// exportUsers returns the export of a site.
func exportUsers(t *testing.T, s *harness.Site, args ...string) string {
	t.Helper()
	status, stdout, stderr := runOn(t, s, append([]string{"export"}, args...)...)
	if status != 0 {
		t.Fatalf("export ended with %d: %s", status, stderr)
	}
	return stdout
}

// importUsers imports a text into a site and checks the status and the report.
func importUsers(t *testing.T, s *harness.Site, text string, status int, reported string, args ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, stdout, stderr := runOn(t, s, append([]string{"import", file}, args...)...)
	if got != status || stdout != reported {
		t.Errorf("import ended with %d, and said\n%s%s\nwant %d and\n%s", got, stdout, stderr, status, reported)
	}
}

// elsewhere makes a site with another, empty database and the same keys.
func elsewhere(t *testing.T, s *harness.Site) *harness.Site {
	t.Helper()
	other := harness.NewEmptySite(t)
	other.Settings["database.encryption_key"] = s.Settings["database.encryption_key"]
	other.Migrate(t)
	return other
}

func TestImport(t *testing.T) {
	t.Parallel()
	t.Run("exported_users", testImportExportedUsers)
	t.Run("reports_lines", testImportReportsLines)
	t.Run("next_id", testImportNextId)
	t.Run("rerun", testImportRerun)
	t.Run("failures", testImportFailures)
}

func testImportExportedUsers(t *testing.T) {
	t.Parallel()
	s := pythonSite(t)
	s.Migrate(t)
	whole := exportUsers(t, s)
	users := pythonUsers(t)
	if n := strings.Count(whole, "\n"); n != len(users)+2 {
		t.Fatalf("%d lines for %d users:\n%s", n, len(users), whole)
	}
	for _, secret := range []string{"s3cret-token", `"access_token":"s3cret`} {
		if strings.Contains(whole, secret) {
			t.Errorf("the export has %q", secret)
		}
	}

	other := elsewhere(t, s)
	other.Serve(t)
	c := other.NewCaller(t)
	known := c.Create(t, harness.NewUser()) // it has the id 1 for a while
	c.Call(t, "delete", dict{"user_id": known["id"]}).Result(t)
	heard := other.Subscribe(t)
	importUsers(t, other, whole, 0, "")
	for _, u := range users {
		c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
		c.Call(t, "get", dict{"email": u["email"]}).IsResult(t, u)
	}
	// User 1 was created and deleted there, so its next change has the number 3.
	whole = strings.Replace(whole, "}}\n{\"id\":2,", "},\"sequence\":2}\n{\"id\":2,", 1)
	if again := exportUsers(t, other); again != whole {
		t.Errorf("exported again:\n%s\nwant\n%s", again, whole)
	}
	importUsers(t, other, whole, 0, "") // users that exist are left alone
	if again := exportUsers(t, other); again != whole {
		t.Errorf("after the second import:\n%s\nwant\n%s", again, whole)
	}
	if u := c.Create(t, harness.NewUser()); u["id"].(int64) <= users[len(users)-1]["id"].(int64) {
		t.Errorf("a new user has the id %v", u["id"])
	}
	if n := heard.Next(t); n.Key != "notifications.user.create" || n.Value.(dict)["id"].(int64) <= users[len(users)-1]["id"].(int64) {
		t.Errorf("an import was notified: %s %s", n.Key, n.Body)
	}
	c.Call(t, "patch", harness.Patch(users[0], op("replace", "/name", "s3cret new"))).Result(t)
}

func testExportWithoutTokens(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser("github", "facebook"))
	without := exportUsers(t, s, "--tokens", "omit")
	if strings.Contains(without, "access_token") {
		t.Errorf("this has tokens:\n%s", without)
	}
	other := elsewhere(t, s)
	importUsers(t, other, without, 1, "")
	if n := other.Count(t, "SELECT count(*) FROM users"); n != 0 {
		t.Errorf("%d users", n)
	}
	importUsers(t, other, without, 0, "", "--empty-tokens", "--dry-run")
	importUsers(t, other, without, 0, "", "--empty-tokens")
	other.Serve(t)
	for _, service := range []string{"github", "facebook"} {
		u[service].(dict)["access_token"] = ""
	}
	other.NewCaller(t).Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
	// The tokens that there are stay.
	importUsers(t, s, without, 0, "", "--empty-tokens")
}

func testImportReportsLines(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	first, second := c.Create(t, harness.NewUser()), c.Create(t, harness.NewUser())
	lines := strings.SplitAfter(exportUsers(t, s), "\n")
	foreign := string(harness.Seal(t, harness.NewKey(), "s3cret"))
	of := func(id int, email, account string, token string) string {
		return fmt.Sprintf(`{"id":%d,"name":"s3cret","email":"%s","github":{"id":%s,"access_token":"%s"}}`+"\n", id, email, account, token)
	}
	own := string(harness.Seal(t, s.Settings["database.encryption_key"], "s3cret-token"))
	text := lines[0] + lines[1] +
		of(2, "s3cret-3@secret.example", "3", own) +
		of(3, second["email"].(string), "3", own) +
		of(4, "s3cret-4@secret.example", fmt.Sprint(first["github"].(dict)["id"]), own) +
		of(5, "s3cret-5@secret.example", "5", foreign) +
		"s3cret\n" +
		of(7, "s3cret-7@secret.example", "7", strings.Repeat("A", 24<<20)) +
		of(8, "s3cret-8@secret.example", "8", own) +
		of(9, strings.Repeat("s3cret", 500), "9", own) +
		of(0, "s3cret-10@secret.example", "10", own)
	const reported = `line 3: conflict: user 2: the user with this id differs in name, email, github
line 4: conflict: user 3: user 2 has this email
line 5: conflict: user 4: user 1 has this github account
line 6: unreadable: user 5: no key decrypts the access token of its github account
line 7: malformed: not JSON, or cut off
line 8: malformed: longer than 25165824 bytes
line 10: malformed: email is longer than 2600 bytes
line 11: malformed: id is not an integer from 1 to 9223372036854775807
`
	importUsers(t, s, text+`{"end":true,"users":10}`, 1, reported, "--dry-run")
	if n := s.Count(t, "SELECT count(*) FROM users"); n != 2 {
		t.Errorf("a dry run has made users: there are %d", n)
	}
	importUsers(t, s, text+`{"end":true,"users":10}`, 1, reported)
	c.Call(t, "get", dict{"user_id": 8}).IsResult(t, dict{"id": 8, "name": "s3cret", "email": "s3cret-8@secret.example",
		"github": dict{"id": 8, "access_token": "s3cret-token"}})
	c.Call(t, "get", dict{"user_id": 1}).IsResult(t, first)
	c.Call(t, "get", dict{"user_id": 2}).IsResult(t, second)
	if n := s.Count(t, "SELECT count(*) FROM users"); n != 3 {
		t.Errorf("%d users", n)
	}

	// Of a file that is cut off, what is there is imported, and it is said so.
	other := elsewhere(t, s)
	cut := lines[0] + lines[1] + lines[2][:len(lines[2])/2]
	importUsers(t, other, cut, 1, "line 3: malformed: not JSON, or cut off\n")
	importUsers(t, other, cut, 1, `{"line":3,"kind":"malformed","reason":"not JSON, or cut off"}
{"imported":0,"already_there":1,"conflicts":0,"unreadable":0,"malformed":1,"last_id":2}
`, "--json")
	if n := other.Count(t, "SELECT count(*) FROM users"); n != 1 {
		t.Errorf("%d users", n)
	}
	if status, _, stderr := runOn(t, other, "import", os.DevNull); status != 1 || !strings.Contains(stderr, "empty") {
		t.Errorf("an empty file: %d, %s", status, stderr)
	}
	importUsers(t, other, strings.Join(lines, ""), 0, "") // the rest
}

func testImportNextId(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	file := filepath.Join(t.TempDir(), "users")
	for last, want := range map[int]string{7000: "ids of new users are greater than 7000\n", math.MaxInt64: "set the sequence first"} {
		text := fmt.Sprintf(`{"format":"glotpod.ident users","version":1,"tokens":"sealed","last_id":%d}`+"\n"+
			`{"id":5,"name":"s3cret","email":"5","github":{"id":1,"access_token":"%s"}}`+"\n"+`{"end":true,"users":1}`,
			last, harness.Seal(t, s.Settings["database.encryption_key"], "s3cret-token"))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, more := range []string{"--dry-run", "--empty-tokens"} {
			if _, _, stderr := runOn(t, s, "import", file, more); !strings.Contains(stderr, want) {
				t.Errorf("%d, %s: %s", last, more, stderr)
			}
		}
	}
}

func testImportRerun(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	var text strings.Builder
	fmt.Fprintln(&text, `{"format":"glotpod.ident users","version":1,"tokens":"sealed","last_id":2000}`)
	token := harness.Seal(t, s.Settings["database.encryption_key"], "s3cret-token")
	for id := 1; id <= 2000; id++ {
		fmt.Fprintf(&text, `{"id":%d,"name":"s3cret","email":"%d","facebook":{"id":%d,"access_token":"%s"}}`+"\n", id, id, id, token)
	}
	fmt.Fprintln(&text, `{"end":true,"users":2000}`)
	s.Exec(t, `CREATE FUNCTION sour() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.id = 1200 THEN RAISE EXCEPTION 'sour'; END IF; RETURN NEW; END $$`)
	s.Exec(t, "CREATE TRIGGER sour BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION sour()")
	importUsers(t, s, text.String(), 1, "")
	if n := s.Count(t, "SELECT count(*) FROM users"); n != 1000 {
		t.Errorf("%d users", n)
	}
	s.Exec(t, "DROP TRIGGER sour ON users")
	importUsers(t, s, text.String(), 0, "")
	if got := exportUsers(t, s); got != text.String() {
		t.Errorf("not all was imported:\n%.1000s", got)
	}
}

func testImportFailures(t *testing.T) {
	t.Parallel()
	s := harness.NewEmptySite(t)
	for _, args := range []string{"export --tokens clear", "export --resume", "export --json", "export --after-id -1", "export --after-id 1 --resume --output x",
		"export x", "import", "import a b"} {
		if status, stdout, stderr := runOn(t, s, strings.Fields(args)...); status != 2 || stdout != "" || stderr == "" {
			t.Errorf("%s ended with %d: %s", args, status, stdout+stderr)
		}
	}
	for _, command := range [][]string{{"export"}, {"import", os.DevNull}} {
		if status, _, stderr := runOn(t, s, command...); status != 78 {
			t.Errorf("%s without a schema ended with %d: %s", command, status, stderr)
		}
	}
	s.Settings["database.postgres.port"] = harness.FreePort(t)
	for _, command := range [][]string{{"export"}, {"import", os.DevNull}} {
		if status, _, stderr := runOn(t, s, command...); status != 129 {
			t.Errorf("%s without a database ended with %d: %s", command, status, stderr)
		}
	}
}

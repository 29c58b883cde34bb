package users

import (
	"encoding/json"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/store"
)

// pythonSite makes a site with the database of testdata/python-service.sql.
func pythonSite(t *testing.T) *harness.Site {
	t.Helper()
	s := harness.NewEmptySite(t)
	sql, err := os.ReadFile("testdata/python-service.sql")
	if err != nil {
		t.Fatal(err)
	}
	s.Exec(t, string(sql))
	s.Settings["database.encryption_key"] = harness.PythonKey
	return s
}

// pythonUsers returns the users of that database as get shows them.
func pythonUsers(t *testing.T) (users []dict) {
	t.Helper()
	text, err := os.ReadFile("testdata/python-service.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range harness.FromJSON(t, text).(list) {
		users = append(users, u.(dict))
	}
	return users
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	t.Run("python_service", testMigratePythonService)
	t.Run("schema_13", testMigrateSchema13)
	t.Run("forms_of_the_key", testMigrateFormsOfTheKey)
	t.Run("twice", testMigrateTwice)
	t.Run("tables", testMigrateTables)
	t.Run("all_or_nothing", testMigrateAllOrNothing)
	t.Run("concurrent", testMigrateConcurrent)
	t.Run("check", testMigrateCheck)
	t.Run("newer_compatible_schema", testMigrateNewerCompatibleSchema)
	t.Run("older_programs", testMigrateOlderPrograms)
	t.Run("serve_refuses_other_schemas", testMigrateServeRefusesOtherSchemas)
}

func testMigratePythonService(t *testing.T) {
	t.Parallel()
	s := pythonSite(t)
	before := s.Contents(t)
	s.Migrate(t)
	if after := strings.ReplaceAll(s.Contents(t), `,"sequence":0}`, "}"); after != before {
		t.Errorf("the tables were\n%s\nand are\n%s", before, after)
	}

	s.Serve(t)
	c := s.NewCaller(t)
	users := pythonUsers(t)
	if len(users) < 10 {
		t.Fatalf("there are %d users", len(users))
	}
	var shownUsers list
	for _, u := range users {
		c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
		c.Call(t, "get", dict{"email": u["email"]}).IsResult(t, u)
		shownUsers = append(shownUsers, harness.AsListed(u))
	}
	c.CheckListed(t, dict{}, shownUsers)
	both := users[2]
	c.Call(t, "get", dict{"github_id": 3}).IsResult(t, both)
	c.Call(t, "get", dict{"facebook_id": 3}).IsResult(t, both)

	// The sequence goes on, and service ids may be wide now.
	wide := harness.NewUser()
	wide["github"].(dict)["id"] = math.MaxInt64
	if u := c.Create(t, wide); u["id"] != int64(24) {
		t.Errorf("the next user's id is %v", u["id"])
	}
	c.Call(t, "create", harness.NewUserLike(both)).IsError(t, "conflict")
	c.Call(t, "create", harness.Changed(harness.NewUser(), dict{"github": harness.Changed(harness.NewAccount(), dict{"id": 3})})).IsError(t, "conflict")
	c.Call(t, "patch", harness.Patch(both, op("replace", "/facebook/id", int64(1)<<40), op("replace", "/name", "s3cret new"))).Result(t)
	both["name"], both["facebook"].(dict)["id"] = "s3cret new", int64(1)<<40
	c.Call(t, "get", dict{"user_id": both["id"]}).IsResult(t, both)
	c.Call(t, "delete", dict{"user_id": 1}).IsResult(t, dict{"user_id": 1})
}

func testMigrateFormsOfTheKey(t *testing.T) {
	t.Parallel()
	s := pythonSite(t)
	s.Migrate(t)
	c := s.NewCaller(t)
	u := pythonUsers(t)[2]
	unpadded := strings.TrimRight(harness.PythonKey, "=")
	file := t.TempDir() + "/key"
	if err := os.WriteFile(file, []byte(harness.PythonKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := "\ufeff\"" + harness.PythonKey[:20] + "\n" + harness.PythonKey[20:] + "==\"\r\n"
	brokenFile := t.TempDir() + "/key"
	if err := os.WriteFile(brokenFile, []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	fresh := harness.NewKey()
	for name, form := range map[string]harness.Settings{
		"base64url unpadded":    {"database.encryption_key": unpadded},
		"base32":                {"database.encryption_key": harness.PythonKeyBase32},
		"base32 unpadded":       {"database.encryption_key": strings.TrimRight(harness.PythonKeyBase32, "=")},
		"the second of a list":  {"database.encryption_key": fresh + "," + harness.PythonKey},
		"in a file of its own":  {"database.encryption_key_file": file},
		"base64url, and so on…": {},
		"as Python reads it":    {"database.encryption_key": broken, "amqp.password": "\ufeffguest\r\n"},
		"a file, as Python":     {"database.encryption_key_file": brokenFile},
	} {
		t.Run(name, func(t *testing.T) {
			given := s.Settings.With(form)
			if _, ok := form["database.encryption_key_file"]; ok {
				delete(given, "database.encryption_key")
			}
			p := harness.Launch(t, given.Environ(), "serve")
			v := &harness.Instance{Process: p}
			v.AwaitReady(t)
			c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
			warnings := 0
			if strings.Contains(name, "Python") {
				warnings = 1
			}
			if got := p.Stderr.Count("setting should be corrected"); got != warnings {
				t.Errorf("%d warnings about settings, want %d", got, warnings)
			}
			if warnings > 0 && !strings.Contains(p.Stderr.String(), `"setting":"database.encryption_key"`) {
				t.Error("the warning does not name the setting")
			}
			if strings.HasPrefix(form["database.encryption_key"], fresh) {
				c.Call(t, "patch", harness.Patch(u, op("replace", "/github/access_token", "s3cret-fresh"))).Result(t)
				u["github"].(dict)["access_token"] = "s3cret-fresh"
				var token []byte
				if err := s.DB.QueryRow(t.Context(), "SELECT access_token FROM services WHERE user_id = 3 AND sv_name = 'gh'").Scan(&token); err != nil {
					t.Fatal(err)
				}
				if harness.Unseal(t, fresh, token) != "s3cret-fresh" {
					t.Error("the first key of the list does not open a new token")
				}
				// For the other forms, which have the old key alone.
				c.Call(t, "patch", harness.Patch(u, op("remove", "/github"))).Result(t)
				delete(u, "github")
			}
			v.Stop(t)
		})
	}
}

// catalogOf returns what the database's catalogs say of its schema, and of when
// each part of it was last touched.
func catalogOf(t *testing.T, s *harness.Site) (text string) {
	t.Helper()
	const own = `NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_|^information_schema$')`
	err := s.DB.QueryRow(t.Context(), `SELECT string_agg(line, E'\n' ORDER BY line) FROM (
		SELECT format('relation %s %s file %s at %s', relname, relkind, relfilenode, xmin) AS line FROM pg_class WHERE relnamespace `+own+`
		UNION ALL SELECT format('column %s.%s %s %s default %s at %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid), a.xmin)
			FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE relnamespace `+own+`
		UNION ALL SELECT format('constraint %s %s %s at %s', conrelid::regclass, conname, pg_get_constraintdef(oid), xmin) FROM pg_constraint WHERE connamespace `+own+`
		UNION ALL SELECT format('function %s at %s', pg_get_functiondef(oid), xmin) FROM pg_proc WHERE pronamespace `+own+`
		UNION ALL SELECT format('type %s at %s', typname, xmin) FROM pg_type WHERE typnamespace `+own+`
		UNION ALL SELECT format('label %s at %s', enumlabel, xmin) FROM pg_enum
		UNION ALL SELECT format('trigger %s at %s', tgname, xmin) FROM pg_trigger
	) AS all_of_it`).Scan(&text)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func testMigrateTwice(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]*harness.Site{"from nothing": harness.NewEmptySite(t), "from the Python service": pythonSite(t)} {
		s.Migrate(t)
		catalog, contents := catalogOf(t, s), s.Contents(t)
		status, stdout, stderr := harness.Run(t, s.Settings.Environ(), "migrate")
		if status != 0 || strings.Contains(stdout, "applied") {
			t.Errorf("%s: the second migrate ended with %d: %s%s", name, status, stdout, stderr)
		}
		if after := catalogOf(t, s); after != catalog {
			t.Errorf("%s: the schema was\n%s\nand is\n%s", name, catalog, after)
		}
		if after := s.Contents(t); after != contents {
			t.Errorf("%s: the tables were\n%s\nand are\n%s", name, contents, after)
		}
	}
}

// The schema is the same wherever it comes from, but for what the tables' own
// makers called things.
func testMigrateTables(t *testing.T) {
	t.Parallel()
	s := harness.NewEmptySite(t)
	s.Migrate(t)
	var got []byte
	err := s.DB.QueryRow(t.Context(), `SELECT json_agg(format('%s.%s %s%s%s', table_name, column_name, udt_name,
			CASE is_nullable WHEN 'NO' THEN ' not null' END, CASE WHEN column_default LIKE 'nextval%' THEN ' serial' END)
			ORDER BY table_name, ordinal_position)
		FROM information_schema.columns WHERE table_name IN ('users', 'services')`).Scan(&got)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := json.Marshal([]string{
		"services.user_id int8 not null", "services.sv_id int8 not null", "services.sv_name svc_type not null", "services.access_token bytea not null",
		"users.id int8 not null serial", "users.name varchar not null", "users.picture_url varchar", "users.email_address varchar not null",
		"users.sequence int8 not null",
	})
	if strings.ReplaceAll(string(got), ", ", ",") != string(want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func testMigrateAllOrNothing(t *testing.T) {
	t.Parallel()
	s := pythonSite(t)
	s.Exec(t, "CREATE TABLE ident_log (in_the_way int)")
	catalog := catalogOf(t, s)
	if status, _, stderr := harness.Run(t, s.Settings.Environ(), "migrate"); status == 0 || stderr == "" {
		t.Errorf("migrate ended with %d: %s", status, stderr)
	}
	if after := catalogOf(t, s); after != catalog {
		t.Errorf("the schema was\n%s\nand is\n%s", catalog, after)
	}
	s.Exec(t, "DROP TABLE ident_log")
	s.Migrate(t)
}

func testMigrateConcurrent(t *testing.T) {
	t.Parallel()
	s := pythonSite(t)
	var all []*harness.Process
	for range 4 {
		all = append(all, harness.Launch(t, s.Settings.Environ(), "migrate"))
	}
	applied := 0
	for _, p := range all {
		if status := p.AwaitExit(t, harness.Timeout); status != 0 {
			t.Errorf("a migrate ended with %d: %s", status, p.Stderr.String())
		}
		if strings.Contains(p.Stdout.String(), "applying") {
			applied++
		}
	}
	if applied != 1 {
		t.Errorf("%d of them applied something", applied)
	}
}

func testMigrateCheck(t *testing.T) {
	t.Parallel()
	s := pythonSite(t)
	catalog := catalogOf(t, s)
	if status, _, stderr := harness.Run(t, s.Settings.Environ(), "migrate", "--check"); status != 78 || !strings.Contains(stderr, "migrate") {
		t.Errorf("before: status %d, %s", status, stderr)
	}
	checkJSON := func(wantStatus int, want dict) {
		t.Helper()
		status, stdout, stderr := harness.Run(t, s.Settings.Environ(), "migrate", "--check", "--json")
		if status != wantStatus || !reflect.DeepEqual(harness.FromJSON(t, []byte(stdout)), harness.Normalize(want)) {
			t.Errorf("as JSON: status %d, %s%s", status, stdout, stderr)
		}
	}
	checkJSON(78, dict{"schema": 0, "wanted": store.SchemaVersion(), "current": false, "applied": list{}})
	if after := catalogOf(t, s); after != catalog {
		t.Errorf("the schema was\n%s\nand is\n%s", catalog, after)
	}
	s.Migrate(t)
	if status, _, stderr := harness.Run(t, s.Settings.Environ(), "migrate", "--check"); status != 0 {
		t.Errorf("after: status %d, %s", status, stderr)
	}
	checkJSON(0, dict{"schema": store.SchemaVersion(), "wanted": store.SchemaVersion(), "current": true, "applied": list{}})
}

func testMigrateNewerCompatibleSchema(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Exec(t, "INSERT INTO ident_migrations (version, name, oldest) SELECT max(version) + 1, 'later', max(version) FROM ident_migrations")
	catalog := catalogOf(t, s)
	for _, args := range [][]string{{"migrate", "--check"}, {"migrate"}} {
		if status, stdout, stderr := harness.Run(t, s.Settings.Environ(), args...); status != 0 || !strings.Contains(stdout, "newer") {
			t.Errorf("%q ended with %d: %s%s", args, status, stdout, stderr)
		}
	}
	if catalogOf(t, s) != catalog {
		t.Error("migrate has changed a schema that is newer")
	}
	s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser("github"))
	c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)

	// The next one leaves the one before it working, which is not this one.
	s.Exec(t, "INSERT INTO ident_migrations (version, name, oldest) SELECT max(version) + 1, 'later still', max(version) FROM ident_migrations")
	if status, _, stderr := harness.Run(t, s.Settings.Environ(), "migrate", "--check"); status != 78 || !strings.Contains(stderr, "newer") {
		t.Errorf("two versions on: status %d, %s", status, stderr)
	}
}

// An older program asks the schema whether it may start. A program that does not write the log
// must not.
func testMigrateOlderPrograms(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	for version, works := range map[int]bool{6: false, 9: false, 13: false, 14: true} {
		if n := s.Count(t, "SELECT coalesce(max(coalesce(oldest, version)), 0) FROM ident_migrations WHERE version > $1", version); n <= version != works {
			t.Errorf("version %d: it works only with programs from %d on", version, n)
		}
	}
}

func testMigrateServeRefusesOtherSchemas(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change string
		advice []string
	}{
		"no schema":         {"", []string{"older", "glotpod-ident migrate"}},
		"the Python one":    {"python", []string{"older", "glotpod-ident migrate"}},
		"one version older": {"DELETE FROM ident_migrations WHERE version = (SELECT max(version) FROM ident_migrations)", []string{"older", "glotpod-ident migrate"}},
		"one version newer": {"INSERT INTO ident_migrations (version, name) SELECT max(version) + 1, 'later' FROM ident_migrations", []string{"newer", "glotpod-ident"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var s *harness.Site
			switch c.change {
			case "":
				s = harness.NewEmptySite(t)
			case "python":
				s = pythonSite(t)
			default:
				s = harness.NewSite(t)
				s.Exec(t, c.change)
			}
			for _, insist := range []string{"false", "true"} {
				p := harness.Launch(t, s.Settings.With(harness.Settings{"amqp.insist": insist}).Environ(), "serve")
				if status := p.AwaitExit(t, harness.GiveUpTimeout); status != 78 {
					t.Errorf("serve ended with %d", status)
				}
				for _, word := range c.advice {
					if !strings.Contains(p.Stderr.String(), word) {
						t.Errorf("%q is not in what it says: %s", word, p.Stderr.String())
					}
				}
			}
			if strings.Contains(c.change, "INSERT") {
				catalog := catalogOf(t, s)
				if status, _, _ := harness.Run(t, s.Settings.Environ(), "migrate"); status != 78 {
					t.Errorf("migrate ended with %d", status)
				}
				if catalogOf(t, s) != catalog {
					t.Error("migrate has changed a schema that is newer")
				}
			}
		})
	}
}

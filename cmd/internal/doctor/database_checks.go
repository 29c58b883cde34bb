package doctor

import (
	"strings"
	"time"

	"github.com/glotpod/ident/config"
)

// databaseChecks derive findings from the facts about the database. instances is how many are to
// run.
var databaseChecks = []func(c *config.Config, f *databaseFacts, instances int, r *report){
	checkDatabaseVersion,
	checkDatabasePermissions,
	checkDatabaseConnections,
	checkDurability,
	checkStandbys,
	checkLocale,
	checkTriggers,
	checkClock,
	checkKeys,
}

// The major versions of PostgreSQL that are tested.
const (
	oldestDatabase = 15
	newestDatabase = 18
)

func checkDatabaseVersion(_ *config.Config, f *databaseFacts, _ int, r *report) {
	switch major := f.version / 10000; {
	case major < oldestDatabase:
		r.add("database-version", "PostgreSQL has the version %d", major)
	case major > newestDatabase:
		r.add("database-version-untried", "PostgreSQL has the version %d", major)
	}
}

func checkDatabasePermissions(c *config.Config, f *databaseFacts, _ int, r *report) {
	user := c.Database.Postgres.User
	if f.readOnly {
		r.add("database-read-only", "the database accepts no writes: it is a standby, or default_transaction_read_only is set")
	}
	if len(f.denied) > 0 {
		r.add("database-permission", "the user %s cannot %s", user, strings.Join(f.denied, ", or "))
	}
	if len(f.foreignOwns) > 0 {
		r.add("database-owner", "the user %s does not own the tables %s", user, strings.Join(f.foreignOwns, ", "))
	}
}

func checkDatabaseConnections(c *config.Config, f *databaseFacts, instances int, r *report) {
	if needed := instances * c.Database.Postgres.MaxConnections; f.allowed < needed {
		r.add("database-connections", "%d connections are left by other programs, and %d instances open up to %d", f.allowed, instances, needed)
	}
}

func checkDurability(_ *config.Config, f *databaseFacts, _ int, r *report) {
	if f.settings["fsync"] == "off" {
		r.add("fsync", "fsync is off")
	}
	if f.settings["full_page_writes"] == "off" {
		r.add("full-page-writes", "full_page_writes is off")
	}
	if f.settings["synchronous_commit"] == "off" {
		r.add("synchronous-commit", "synchronous_commit is off")
	}
}

func checkStandbys(c *config.Config, f *databaseFacts, _ int, r *report) {
	names, commit := f.settings["synchronous_standby_names"], f.settings["synchronous_commit"]
	switch {
	case f.waits:
		r.add("standby-away", "a commit waits for a synchronous standby (synchronous_standby_names is %q)", names)
	case names == "" && f.standbys > 0:
		r.add("standby-asynchronous", "PostgreSQL has %d standbys, and none is synchronous", f.standbys)
	case names != "" && (commit == "local" || commit == "remote_write"):
		r.add("standby-commit", "synchronous_commit is %s", commit)
	}
	if f.hidesHistory {
		r.add("database-history", "the user %s cannot see the timeline of PostgreSQL", c.Database.Postgres.User)
	}
}

func checkLocale(_ *config.Config, f *databaseFacts, _ int, r *report) {
	if f.collation != f.collates {
		r.add("collation-version", "the collation has the version %s, and had %s when the database was created", f.collates, f.collation)
	}
	if f.encoding != "UTF8" {
		r.add("database-encoding", "the database has the encoding %s", f.encoding)
	}
	if f.ctype == "C" || f.ctype == "POSIX" {
		r.add("database-ctype", "the database has LC_CTYPE %s", f.ctype)
	}
}

func checkTriggers(c *config.Config, f *databaseFacts, _ int, r *report) {
	if len(f.disabled) > 0 && c.Actor.ReadCache {
		r.add("foreign-triggers", "these triggers are disabled or do not see all writes: %s", strings.Join(f.disabled, ", "))
	}
}

const (
	// maxDrift is by how much clocks that are set by NTP differ at most.
	maxDrift = 2 * time.Second

	// maxClock is by how much clocks may differ.
	maxClock = time.Minute
)

func checkClock(_ *config.Config, f *databaseFacts, _ int, r *report) {
	const seen = "the clock of PostgreSQL differs from that of this machine by %s"
	switch by := f.ahead.Abs(); {
	case by > maxClock:
		r.add("clock", seen, by.Round(time.Second))
	case by > maxDrift:
		r.add("clock-drift", seen, by.Round(time.Second/10))
	}
}

func checkKeys(_ *config.Config, f *databaseFacts, _ int, r *report) {
	if s := f.opened; s.Unreadable > 0 {
		r.add("keys", "no key opens %d of %d access tokens, of %d users", s.Unreadable, s.Tokens, len(s.Users))
	}
	if s := f.opened; s.Stale > 0 {
		r.add("keys-stale", "%d of %d access tokens are not encrypted with the first key", s.Stale, s.Tokens)
	}
}

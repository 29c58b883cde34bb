package storetest

import (
	"time"

	"github.com/glotpod/ident/store"
)

// StartClock gives the database a clock that tests set, for each store that is opened from then
// on. Tables have it as the default of their times.
func (h *Harness) StartClock() {
	h.T.Helper()
	h.Exec("CREATE SCHEMA clock")
	h.Exec("CREATE TABLE clock.clocks (application text PRIMARY KEY, ahead interval)")
	h.Exec(`CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE
		RETURN pg_catalog.now() + coalesce((SELECT ahead FROM clock.clocks WHERE application = current_setting('application_name')), '0')`)
	h.Exec("ALTER DATABASE " + h.Options.Database + " SET search_path = public, clock, pg_catalog")
	h.Exec("SET search_path = public, clock, pg_catalog")
	h.Exec(`DO $$ DECLARE name text; BEGIN
		FOR name IN SELECT oid::regclass FROM pg_class WHERE relname LIKE 'ident\_log%' AND relkind IN ('r', 'p') LOOP
			EXECUTE 'ALTER TABLE ' || name || ' ALTER at SET DEFAULT clock.now()';
		END LOOP; END $$`)
}

// OpenStoreAt opens another store on the same database, with a name and a time.
func (h *Harness) OpenStoreAt(name string, now time.Time) *store.Store {
	h.T.Helper()
	h.SetClock(name, now)
	own := h.Options.Name
	defer func() { h.Options.Name = own }()
	h.Options.Name = name
	return h.OpenStore()
}

// SetClock sets the time of the store with a name.
func (h *Harness) SetClock(name string, now time.Time) {
	h.T.Helper()
	h.Exec(`INSERT INTO clock.clocks (application, ahead) VALUES ('glotpod.ident/' || $1::text, $2 - pg_catalog.now())
		ON CONFLICT (application) DO UPDATE SET ahead = excluded.ahead`, name, now)
}

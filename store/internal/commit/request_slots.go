package commit

import (
	"context"
	"fmt"

	"github.com/glotpod/ident/store/internal/postgres"
)

// emptyNextSlot empties the slot of tomorrow if it has rows. It waits 200 ms at most for the
// lock, so that it delays commits for no longer. The day is read again when the slot is
// locked: then no transaction can write to the slot, and if it is still that of tomorrow,
// none has since two days. The clock is the server's, so it does not matter if this process
// is frozen in between.
const emptyNextSlot = `DO $$
	DECLARE
		slot text := 'ident_requests_' || ident_slot(clock_timestamp() + interval '1 day');
		used boolean;
	BEGIN
		EXECUTE format('SELECT EXISTS (SELECT FROM %I)', slot) INTO used;
		IF NOT used THEN
			RETURN;
		END IF;
		PERFORM set_config('lock_timeout', '200ms', true);
		EXECUTE format('LOCK TABLE %I', slot);
		IF ident_slot(clock_timestamp() - interval '1 hour') = ident_slot(clock_timestamp() + interval '1 hour')
			AND slot = 'ident_requests_' || ident_slot(clock_timestamp() + interval '1 day') THEN
			EXECUTE format('TRUNCATE %I', slot);
		END IF;
	END
$$`

// EmptyNextSlot empties the slot of ident_requests for the requests of tomorrow. Its rows
// are at least two days old. In the first and the last hour of a day it does nothing, so
// that no transaction can see a different day.
func EmptyNextSlot(ctx context.Context, pool *postgres.Pool) error {
	ctx, cancel := context.WithTimeout(ctx, postgres.AttemptTimeout)
	defer cancel()
	if _, err := pool.Exec(ctx, emptyNextSlot); err != nil {
		return fmt.Errorf("emptying the slot of tomorrow: %w", err)
	}
	return nil
}
